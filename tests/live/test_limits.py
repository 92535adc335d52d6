"""Limits: the server refuses too large requests itself, with the same error envelope as the application."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Connection, build_request, new_id
from tests.support.faults import check_refusal, serve
from tests.support.speed import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

pytestmark = pytest.mark.full

LINE, FIELDS, HEAD = 8190, 20, 16384
SETTINGS = {"LIMIT_REQUEST_LINE": str(LINE), "LIMIT_REQUEST_FIELDS": str(FIELDS), "LIMIT_REQUEST_HEAD": str(HEAD)}
START = b"GET /api/demo HTTP/1.1\r\nHost: testserver\r\n"


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with limits; at the end, check that all lines are valid and nothing has failed."""
    with serve(project, tmp_path_factory.mktemp("limits"), settings=SETTINGS) as service:
        yield service
        assert not [line for line in service.access() if line.status == 500]
        assert "Traceback" not in service.app_text()


def test_long_request_line_is_refused(target: Service) -> None:
    """A target as long as the limit is accepted, one more byte is refused with 414."""
    path = "/" + "a" * (LINE - 1)
    assert target.request("GET", path).status == 404
    request_id = new_id("line")
    check_refusal(target, target.request("GET", path + "a", request_id=request_id), 414)
    check_refusal(target, target.raw(b"GET /" + b"a" * 1_000_000), 414)


MANY = b"".join(b"X-%d: 1\r\n" % number for number in range(FIELDS - 1))
LARGE = {
    "value": b"X-Large: %b\r\n\r\n" % (b"a" * HEAD),
    "endless value": b"X-Large: " + b"a" * 1_000_000,
    "name": b"X-%b: 1\r\n\r\n" % (b"a" * HEAD),
    "endless name": b"X-" + b"a" * 1_000_000,
    "too many": b"X-One-More: 1\r\n" + MANY + b"\r\n",
    "too large together": b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1500) for number in range(12)),
}


@pytest.mark.parametrize("lines", LARGE.values(), ids=LARGE)
def test_headers_above_a_limit_are_refused(target: Service, lines: bytes) -> None:
    """With 431, complete or not; the ID of an earlier header is kept."""
    request_id = new_id("large")
    head = START + f"X-Request-ID: {request_id}\r\n".encode()
    check_refusal(target, target.raw(head + lines), 431, request_id)


def test_headers_up_to_the_limit_are_accepted(target: Service) -> None:
    assert target.raw(START + MANY[: MANY.rindex(b"X-")] + b"Connection: close\r\n\r\n").status == 200


def test_head_in_pieces_is_read(target: Service) -> None:
    """A head within the limit is accepted in pieces of any size."""
    request_id = new_id("pieces")
    lines = [(f"X-{number}", "a" * 300) for number in range(10)]
    data = build_request("GET", "/api/demo", lines, request_id=request_id)
    with target.connect() as connection:
        for start in range(0, len(data), 100):
            connection.send(data[start : start + 100])
            time.sleep(0.003)  # so that each piece is read separately
        response = connection.read_response()
    assert (response.status, response.header()) == (200, request_id)


def test_large_input_takes_linear_time(target: Service) -> None:
    """No input within the limits takes more than linear time, in the request or in its log line."""
    pieces = ("q", "%41", "&", "=", "a=", "a&", ";", "token", "%", "[", "/", "+", "'")
    targets = [f"/{start}{piece * (8000 // len(piece))}" for piece in pieces for start in ("", "?", "?a=")]
    values = [piece * (8000 // len(piece)) for piece in (*pieces, "1.2.3.4,", ":", "[", "\\", '"', "\xe9", "-")]
    names = ("X-Request-ID", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto", "Accept", "Cookie")
    with target.connect() as connection:
        seconds = {text[:8]: measure_seconds(connection, text, ()) for text in targets}
        for name in names:
            for value in values:
                seconds[f"{name}: {value[:8]}"] = measure_seconds(connection, "/api/demo", ((name, value),))
    slow = {what: round(took, 3) for what, took in seconds.items() if took > scaled(0.1)}
    assert not slow, slow


def measure_seconds(connection: Connection, target: str, headers: tuple[tuple[str, str], ...]) -> float:
    """Return the shorter time of the last two of three such requests; it includes the log line of the one before."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert connection.request("GET", target, headers).status in {200, 404}
        took.append(time.monotonic() - began)
    return min(took[1:])
