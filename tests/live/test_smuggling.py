"""Ambiguous messages are refused or served exactly once, with an ID and one line; what they hide never runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Answer, build_request, new_id
from tests.support.faults import serve
from tests.support.waiting import wait_for

from .smuggling_cases import ONE_MESSAGE, PIPELINED, Smuggled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.client import Connection
    from tests.support.service import Service

QUIET = 0.1
"""Seconds without a byte after which no further answer is expected."""


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service; at the end nothing that was hidden may have run, and nothing may have failed."""
    with serve(project, tmp_path_factory.mktemp("smuggling"), HEAD_TIMEOUT="2", BODY_TIMEOUT="2") as service:
        yield service
        lines = service.access()
        hidden = [line for line in lines if "/hidden" in line.target]
        assert len(hidden) <= len(PIPELINED), hidden
        assert not [line for line in lines if line.status >= 500]
        assert "Traceback" not in service.app_text()


def read_all(connection: Connection) -> list[Answer]:
    """Return every answer that comes, until the peer closes or is quiet."""
    answers = [connection.answer()]
    connection.socket.settimeout(QUIET)
    while True:
        try:
            answers.append(connection.answer())
        except (EOFError, TimeoutError):
            return answers


@pytest.mark.parametrize("case", ONE_MESSAGE, ids=lambda case: str(case.name).encode("unicode_escape").decode())
def test_message(target: Service, case: Smuggled) -> None:
    """One answer with the right status, an ID in header and body, and one line that says the same."""
    before = sum("/hidden" in line.target for line in target.access())
    with target.connect() as connection:
        connection.send(case.data)
        answers = read_all(connection)
    assert answers[0].status in case.statuses, answers
    if case.name not in PIPELINED:
        assert len(answers) == 1, answers
        assert sum("/hidden" in line.target for line in target.access()) == before
    answer = answers[0]
    assert answer.one() != "trailer-id"
    assert answer.json()["request_id"] == answer.one()
    if answer.status == 400:
        assert answer.one("connection") == "close"
    lines = wait_for(lambda: target.access_records(answer.one()), "TODO-WHAT")
    assert [line.status for line in lines] == [answer.status]


def test_good_request_then_garbage(target: Service) -> None:
    """Pipelined: the good one is answered, even if it takes a while, then the garbage with 400, each with its line."""
    for seconds in ("0", "0.4"):
        request_id = new_id("good")
        good = build_request("GET", f"/probe/wait?seconds={seconds}", request_id=request_id, close=False)
        with target.connect() as connection:
            connection.send(good + b"GARBAGE\r\n\r\n" + build_request("GET", "/hidden"))
            first, second = connection.answer(), connection.answer()
            assert connection.rest() == b""
        assert (first.status, first.one()) == (200, request_id)
        assert second.status == 400
        assert target.access_line(second.one()).status == 400
        assert target.access_line(request_id).status == 200


def test_deep_pipeline(target: Service) -> None:
    """Many requests in few pieces, cut in the midst of a head, are all answered in order: each head is small."""
    count = 400
    wire = build_request("GET", "/livez", [("X-Pad", "p" * 200)], close=False) * count
    with target.connect() as connection:
        for piece in (wire[:100], wire[100:60_100]):
            connection.send(piece)
            time.sleep(0.1)
        connection.send(wire[60_100:])
        assert [connection.answer().status for _ in range(count)] == [200] * count


def test_byte_by_byte(target: Service) -> None:
    """The same verdict however the bytes arrive."""
    for data, status in (
        (build_request("GET", "/api/demo", request_id=new_id("slow"), close=False), 200),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0", 400),
        (b"GET /api/demo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ):
        with target.connect() as connection:
            for number in range(len(data)):
                connection.send(data[number : number + 1])
                time.sleep(0.0005)
            answers = read_all(connection)
        assert [answer.status for answer in answers] == [status]
        assert target.access_line(answers[0].one()).status == status
