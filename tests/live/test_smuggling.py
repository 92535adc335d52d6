"""Ambiguous messages are refused or served once, with an ID and one access log line; a hidden request never runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Response, build_request, new_id

from .smuggling_cases import ONE_MESSAGE, PIPELINED, Smuggled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.client import Connection
    from tests.support.service import Service

pytestmark = pytest.mark.parametrize("service", ["text"], indirect=True)


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Service]:
    """Run the tests, then check that no hidden request has run and that nothing has failed."""
    service.settle()
    begun, length = len(service.access()), len(service.app_text())
    yield service
    lines = service.access()[begun:]
    hidden = [line for line in lines if "/hidden" in line.target]
    assert len(hidden) <= len(PIPELINED), hidden
    assert not [line for line in lines if line.status >= 500]
    assert "Traceback" not in service.app_text()[length:]


def read_all(connection: Connection) -> list[Response]:
    """Return all responses; on a connection that stays open, a last request marks their end."""
    responses, last = [connection.read_response()], new_id("sentinel")
    if responses[0].header_values("connection") != ["close"]:
        connection.send(build_request("GET", "/api/demo", request_id=last))
    while True:
        try:
            responses.append(connection.read_response())
        except EOFError:
            return responses
        if responses[-1].header() == last:
            return responses[:-1]


@pytest.mark.parametrize("case", ONE_MESSAGE, ids=lambda case: str(case.name).encode("unicode_escape").decode())
def test_message_is_refused_or_served_once_and_runs_no_hidden_request(target: Service, case: Smuggled) -> None:
    """One response with a correct status, the ID in header and body, and one matching access log line."""
    before = target.access_text().count("/hidden")
    with target.connect() as connection:
        connection.send(case.data)
        responses = read_all(connection)
    assert responses[0].status in case.statuses, responses
    response = responses[0]
    assert response.header() != "trailer-id"
    assert response.json()["request_id"] == response.header()
    if response.status == 400:
        assert response.header("connection") == "close"
    assert target.access_line(response.header()).status == response.status
    if case.name not in PIPELINED:
        assert len(responses) == 1, responses
        assert target.access_text().count("/hidden") == before


def test_pipeline_that_is_split_inside_a_head_is_answered_in_order(target: Service) -> None:
    """Many requests arrive in few pieces: the limits count for each head separately."""
    count = 400
    wire = build_request("GET", "/livez", [("X-Pad", "p" * 200)], close=False) * count
    with target.connect() as connection:
        for piece in (wire[:100], wire[100:60_100]):
            connection.send(piece)
            target.settle()  # the piece is read before the next one comes
        connection.send(wire[60_100:])
        assert [connection.read_response().status for _ in range(count)] == [200] * count


def test_message_sent_byte_by_byte_has_the_same_result(target: Service) -> None:
    for data, status in (
        (build_request("GET", "/api/demo", request_id=new_id("slow"), close=False), 200),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0", 400),
        (b"GET /api/demo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ):
        with target.connect() as connection:
            for number in range(len(data)):
                connection.send(data[number : number + 1])
                time.sleep(0.0005)  # usually one read per byte; the result does not depend on it
            responses = read_all(connection)
        assert [response.status for response in responses] == [status]
        assert target.access_line(responses[0].header()).status == status
