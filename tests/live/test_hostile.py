"""Hostile header values and targets: they cannot forge, split or flood a log line, and are not echoed."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Response, new_id
from tests.support.lines import AccessLine, parse_access, parse_app
from tests.support.service import Service
from tests.support.waiting import wait_for

from .hostile_cases import (
    ACCEPTED_IDS,
    C1,
    CONTROLS,
    EMPTY_IDS,
    EVIL,
    FORGED,
    FORWARDED,
    PATHS,
    REPLACED_IDS,
    SECRET,
    SECRETS,
    SPACED_IDS,
    UNICODE,
    WORDS,
    request,
    request_with_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


is_uuid4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
MAX_LINE = 8190 + 1024
"""Characters of an access log line in the text format: the target is truncated, the rest is short."""


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Service]:
    """Run the tests, then check everything that the service has logged meanwhile."""
    service.settle()
    begun = [path.stat().st_size for path in (service.stdout, service.stderr)]
    yield service
    access, errors = (
        path.read_bytes()[begin:] for path, begin in zip((service.stdout, service.stderr), begun, strict=True)
    )
    check_logs(access, errors)


def check_logs(access: bytes, errors: bytes) -> None:
    """Every line of every log is a complete line of the service."""
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", access + errors)
    lines = access.decode("utf-8").splitlines()
    assert access.count(b"\n") == len(lines), "a line contains a character that splits it"
    parsed = [parse_access(line) for line in lines]
    assert not [line for line in parsed if line.request_id == "forged-id"]
    assert not [line for line in parsed if line.status >= 500]
    assert max(map(len, lines)) < MAX_LINE
    assert max(Counter(line.request_id for line in parsed).values()) == 1
    records, strays = parse_app(errors.decode("utf-8"))
    assert strays == []
    assert not [record for record in records if record.level in {"WARNING", "ERROR", "CRITICAL"}]


def send(service: Service, data: bytes, expected: int | tuple[int, ...]) -> tuple[Response, AccessLine]:
    """Send a request; return the only response and its only access log line, which have the same ID."""
    with service.connect() as connection:
        connection.send(data)
        response = connection.read_response()
        assert connection.read_to_end() == b""
    assert response.status in ((expected,) if isinstance(expected, int) else expected), response
    line = wait_for(lambda: service.access_records(response.header()), "the access log line")[0]
    assert line.status == response.status
    if response.body:
        assert response.json()["request_id"] == response.header()
    return response, line


def check_absent(service: Service, response: Response) -> None:
    """Check that neither the response nor the log contains a hostile or secret value."""
    written = repr(response).encode() + service.output().encode("utf-8", "replace")
    assert EVIL not in written
    assert SECRET not in written


def test_valid_id_is_accepted_unchanged(target: Service) -> None:
    """In header, body, access log line and log record; whitespace around it is dropped."""
    for value in ACCEPTED_IDS:
        response, _ = send(target, request(b"X-Request-ID: " + value), 200)
        assert response.header() == value.decode()
        assert target.app_lines(value.decode())
    for pattern in SPACED_IDS:
        value = new_id("spaced").encode()
        assert send(target, request(b"X-Request-ID:" + pattern % value), 200)[0].header() == value.decode()


def send_invalid_ids(service: Service, values: list[bytes], expected: int | tuple[int, ...]) -> None:
    """Send each value as an ID; it is replaced or the request refused, and the value is neither echoed nor logged."""
    for value in values:
        response, _ = send(service, request(b"X-Request-ID: " + value), expected)
        assert is_uuid4(response.header()), (value, response)
    check_absent(service, response)


def test_invalid_id_is_replaced_and_the_request_served(target: Service) -> None:
    send_invalid_ids(target, [*REPLACED_IDS, *EMPTY_IDS], 200)


def test_id_with_control_characters_is_refused_or_replaced(target: Service) -> None:
    send_invalid_ids(target, [b"prefix-" + EVIL + bad + b"-suffix" for bad in CONTROLS], (200, 400))
    send_invalid_ids(target, [b"prefix-" + EVIL + bad + b"-suffix" for bad in (b"\0", b"\r", b"\r\r")], 400)
    send_invalid_ids(target, [b"prefix-" + EVIL + bad + FORGED for bad in (b"\n", b"\r")], 400)


def test_id_ends_at_a_line_break_and_64_kilobytes_are_refused(target: Service) -> None:
    """The text after CR LF is another header, and is not echoed."""
    value = new_id("split")
    response, _ = send(target, request(f"X-Request-ID: {value}\r\nX-{EVIL.decode()}: 1".encode()), 200)
    assert response.header() == value
    check_absent(target, response)
    check_absent(target, send(target, request(b"X-Request-ID: " + EVIL * 16_384), 431)[0])


def test_duplicate_or_misnamed_id_header_is_ignored(target: Service) -> None:
    for lines in (
        (b"X-Request-ID: first-" + EVIL, b"X-Request-ID: second-" + EVIL),
        (b"X-Request-ID: same-" + EVIL, b"X-Request-ID: same-" + EVIL),
        (b"X-Request-ID: first-" + EVIL, b"x-request-id:"),
        (b"x-request-id: first-" + EVIL, b"X-REQUEST-ID: \x85"),
        (b"X_Request_ID: first-" + EVIL,),
        (b"X-Request-ID-2: first-" + EVIL, b"X-Correlation-ID: other-" + EVIL),
    ):
        response, _ = send(target, request(*lines), 200)
        assert is_uuid4(response.header()), lines
        check_absent(target, response)


def test_hostile_target_is_logged_on_one_ascii_line(target: Service) -> None:
    for path in PATHS:
        request_id, data = request_with_id(path)
        response, line = send(target, data, (200, 307, 400, 404, 405, 414))
        assert line.target.isascii()
        assert not set(line.target) & set('"\\ '), line
        if response.status != 400:
            assert response.header() == request_id.decode()
            assert line.target[:3000] == percent_encode(path)[:3000] or b"token" in path


def percent_encode(path: bytes) -> str:
    """Return the target as the access log line must show it."""
    return "".join(chr(one) if 0x21 <= one <= 0x7E and one not in b'"\\' else f"%{one:02X}" for one in path)


def test_target_with_control_characters_is_refused(target: Service) -> None:
    for bad in (*CONTROLS, b"\0", b"\n", b"\r", b" "):
        send(target, request(target=b"/raw" + bad + b"raw"), 400)


def test_hostile_user_agent_is_truncated_and_escaped(target: Service) -> None:
    values = [*C1, *UNICODE, *WORDS, FORGED, b"agent/1.0" * 1000, b'" 200 "', b"\\", b'\\"', b"", b"\t"]
    for value in values:
        _, line = send(target, request(b"User-Agent: " + value), 200)
        if line.user_agent is not None:
            assert len(line.user_agent) <= 256
    for bad in CONTROLS:
        send(target, request(b"User-Agent: agent" + bad), (200, 400))


def test_hostile_method_is_refused(target: Service) -> None:
    for method in (b"get", b"G\x00T", b"G\tT", b"\x1b[31m", b'"GET', b"A" * 5000, b"\xc3\xa9", b"GET\r", b"%s", b"-"):
        send(target, request(method=method), 400)
    for method in (b"TRACE", b"PROPFIND", b"DELETE", b"PATCH", b"SEARCH", b"OPTIONS"):
        send(target, request(method=method), 405)


def test_secret_in_a_query_is_masked(target: Service) -> None:
    for query in SECRETS:
        response, line = send(target, request(target=b"/api/demo?" + query), 200)
        assert "=***" in line.target
        check_absent(target, response)


def test_client_is_an_ip_address_for_any_forwarded_value(target: Service) -> None:
    for value in FORWARDED:
        _, line = send(target, request(b"X-Forwarded-For: " + value), (200, 431))
        assert re.fullmatch(r"127\.0\.0\.1:\d+|1\.2\.3\.4|\[::1\]", line.client), (value, line.client)
    lines = [b"X-Forwarded-For: 1.2.3.%d" % (number % 250) for number in range(90)]
    assert send(target, request(*lines), 200)[1].client == "1.2.3.89"
    for proto in (b"https", b"gopher", b"https, http", b"\x85", b'"', b"https" * 500):
        assert send(target, request(b"X-Forwarded-Proto: " + proto), 200)[1].status == 200


@pytest.mark.full
@pytest.mark.parametrize("proxies", ["10.0.0.0/8", "127.0.0.0/8,10.0.0.0/8"])
def test_ids_and_client_addresses_are_accepted_from_trusted_proxies_only(
    project: Path, tmp_path: Path, proxies: str
) -> None:
    value, trusted = new_id("trusted"), proxies.startswith("127.")
    env = {"REQUEST_ID_TRUST": "proxies", "FORWARDED_ALLOW_IPS": proxies}
    with Service(project, tmp_path, env=env, workers=1) as service:
        response, line = send(
            service, request(f"X-Request-ID: {value}".encode(), b"X-Forwarded-For: 1.2.3.4, 10.1.2.3"), 200
        )
        assert response.header() == value if trusted else is_uuid4(response.header())
        assert (line.client == "1.2.3.4") is trusted, line
