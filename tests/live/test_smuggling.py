"""Ambiguous messages are refused or served exactly once, with an ID and one line; what they hide never runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Answer, build_request, new_id

from .smuggling_cases import ONE_MESSAGE, PIPELINED, Smuggled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.client import Connection
    from tests.support.service import Service

pytestmark = pytest.mark.parametrize("service", ["text"], indirect=True)


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Service]:
    """At the end nothing that was hidden may have run, and nothing may have failed."""
    service.settle()
    begun, length = len(service.access()), len(service.app_text())
    yield service
    lines = service.access()[begun:]
    hidden = [line for line in lines if "/hidden" in line.target]
    assert len(hidden) <= len(PIPELINED), hidden
    assert not [line for line in lines if line.status >= 500]
    assert "Traceback" not in service.app_text()[length:]


def read_all(connection: Connection) -> list[Answer]:
    """Return every answer to what was sent; where the connection stays open, a last request shows the end of them."""
    answers, last = [connection.answer()], new_id("sentinel")
    if answers[0].all("connection") != ["close"]:
        connection.send(build_request("GET", "/api/demo", request_id=last))
    while True:
        try:
            answers.append(connection.answer())
        except EOFError:
            return answers
        if answers[-1].one() == last:
            return answers[:-1]


@pytest.mark.parametrize("case", ONE_MESSAGE, ids=lambda case: str(case.name).encode("unicode_escape").decode())
def test_message_is_refused_or_served_once_and_hides_nothing(target: Service, case: Smuggled) -> None:
    """One answer with the right status, an ID in header and body, and one line that says the same."""
    before = target.access_text().count("/hidden")
    with target.connect() as connection:
        connection.send(case.data)
        answers = read_all(connection)
    assert answers[0].status in case.statuses, answers
    answer = answers[0]
    assert answer.one() != "trailer-id"
    assert answer.json()["request_id"] == answer.one()
    if answer.status == 400:
        assert answer.one("connection") == "close"
    assert target.access_line(answer.one()).status == answer.status
    if case.name not in PIPELINED:
        assert len(answers) == 1, answers
        assert target.access_text().count("/hidden") == before


def test_pipeline_cut_in_the_midst_of_a_head_is_answered_in_order(target: Service) -> None:
    """The requests are many and arrive in few pieces: the limits are for each head."""
    count = 400
    wire = build_request("GET", "/livez", [("X-Pad", "p" * 200)], close=False) * count
    with target.connect() as connection:
        for piece in (wire[:100], wire[100:60_100]):
            connection.send(piece)
            target.settle()  # the piece is read before the next one comes
        connection.send(wire[60_100:])
        assert [connection.answer().status for _ in range(count)] == [200] * count


def test_message_byte_by_byte_has_the_same_verdict(target: Service) -> None:
    for data, status in (
        (build_request("GET", "/api/demo", request_id=new_id("slow"), close=False), 200),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0", 400),
        (b"GET /api/demo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ):
        with target.connect() as connection:
            for number in range(len(data)):
                connection.send(data[number : number + 1])
                time.sleep(0.0005)  # mostly a read for each byte; any other division of them has the same verdict
            answers = read_all(connection)
        assert [answer.status for answer in answers] == [status]
        assert target.access_line(answers[0].one()).status == status
