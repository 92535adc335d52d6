"""Nothing gets in: hostile header values and targets neither forge, split nor flood a line, nor come back."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Answer, new_id
from tests.support.lines import AccessLine, parse_access, parse_app
from tests.support.service import Service
from tests.support.waiting import wait_for

from .hostile_cases import (
    ACCEPTED_IDS,
    C1,
    CONTROLS,
    EVIL,
    FORGED,
    FORWARDED,
    PATHS,
    REPLACED_IDS,
    SECRET,
    SECRETS,
    SPACED_IDS,
    UNICODE,
    UNTOUCHED_IDS,
    WORDS,
    request,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
LONGEST = 8190 + 1024
"""Characters of an access line in the text form: the target is cut off, the rest is small."""


@pytest.fixture(scope="module")
def target(service: Service) -> Iterator[Service]:
    """Look at all that the service has logged when everything was thrown at it."""
    service.settle()
    begun = [path.stat().st_size for path in (service.stdout, service.stderr)]
    yield service
    access, errors = (
        path.read_bytes()[begin:] for path, begin in zip((service.stdout, service.stderr), begun, strict=True)
    )
    check_logs(access, errors)


def check_logs(access: bytes, errors: bytes) -> None:
    """Every line of every log is one that the service itself has begun and ended."""
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", access + errors)
    lines = access.decode("utf-8").splitlines()
    assert access.count(b"\n") == len(lines), "something in a line ends lines for others"
    parsed = [parse_access(line) for line in lines]
    assert not [line for line in parsed if line.request_id == "forged-id"]
    assert not [line for line in parsed if line.status >= 500]
    assert max(map(len, lines)) < LONGEST
    assert max(Counter(line.request_id for line in parsed).values()) == 1
    records, strays = parse_app(errors.decode("utf-8"))
    assert strays == []
    assert not [record for record in records if record.level in {"WARNING", "ERROR", "CRITICAL"}]


def ask(service: Service, data: bytes, expected: int | tuple[int, ...]) -> tuple[Answer, AccessLine]:
    """Send a request, and return the one answer and its one line; there is an ID, and it is the same in both."""
    with service.connect() as connection:
        connection.send(data)
        answer = connection.answer()
        assert connection.rest() == b""
    assert answer.status in ((expected,) if isinstance(expected, int) else expected), answer
    line = wait_for(lambda: service.access_records(answer.one()), "the access line")[0]
    assert line.status == answer.status
    if answer.body:
        assert answer.json()["request_id"] == answer.one()
    return answer, line


def check_absent(service: Service, answer: Answer) -> None:
    """Nothing of the value came back or was logged."""
    written = repr(answer).encode() + service.output().encode("utf-8", "replace")
    assert EVIL not in written
    assert SECRET not in written


def test_harmless_id_is_taken_over_byte_for_byte(target: Service) -> None:
    """In header, body, access line and log record; the space around it is none of it."""
    for value in ACCEPTED_IDS:
        answer, _ = ask(target, request(b"X-Request-ID: " + value), 200)
        assert answer.one() == value.decode()
        assert target.app_lines(value.decode())
    for pattern in SPACED_IDS:
        value = new_id("spaced").encode()
        assert ask(target, request(b"X-Request-ID:" + pattern % value), 200)[0].one() == value.decode()


def send_bad_ids(service: Service, values: list[bytes], expected: int | tuple[int, ...]) -> None:
    """Send each of the values as an ID; each is replaced by a new one or refused, and leaves no trace."""
    for value in values:
        answer, _ = ask(service, request(b"X-Request-ID: " + value), expected)
        assert MADE(answer.one()), (value, answer)
    check_absent(service, answer)


def test_any_other_id_is_replaced_and_the_request_served(target: Service) -> None:
    send_bad_ids(target, [*REPLACED_IDS, *UNTOUCHED_IDS], 200)


def test_id_with_control_characters_is_refused_or_replaced(target: Service) -> None:
    send_bad_ids(target, [b"prefix-" + EVIL + bad + b"-suffix" for bad in CONTROLS], (200, 400))
    send_bad_ids(target, [b"prefix-" + EVIL + bad + b"-suffix" for bad in (b"\0", b"\r", b"\r\r")], 400)
    send_bad_ids(target, [b"prefix-" + EVIL + bad + FORGED for bad in (b"\n", b"\r")], 400)


def test_id_ends_at_a_line_break_and_is_refused_with_64_kilobytes(target: Service) -> None:
    """What comes after CR LF is a header like any other, and does not come back."""
    value = new_id("split")
    answer, _ = ask(target, request(f"X-Request-ID: {value}\r\nX-{EVIL.decode()}: 1".encode()), 200)
    assert answer.one() == value
    check_absent(target, answer)
    check_absent(target, ask(target, request(b"X-Request-ID: " + EVIL * 16_384), 431)[0])


def test_id_in_two_lines_or_under_another_name_is_none(target: Service) -> None:
    for lines in (
        (b"X-Request-ID: first-" + EVIL, b"X-Request-ID: second-" + EVIL),
        (b"X-Request-ID: same-" + EVIL, b"X-Request-ID: same-" + EVIL),
        (b"X-Request-ID: first-" + EVIL, b"x-request-id:"),
        (b"x-request-id: first-" + EVIL, b"X-REQUEST-ID: \x85"),
        (b"X_Request_ID: first-" + EVIL,),
        (b"X-Request-ID-2: first-" + EVIL, b"X-Correlation-ID: other-" + EVIL),
    ):
        answer, _ = ask(target, request(*lines), 200)
        assert MADE(answer.one()), lines
        check_absent(target, answer)


def test_hostile_target_is_logged_on_one_line_of_ascii(target: Service) -> None:
    for path in PATHS:
        request_id, data = tagged(path)
        answer, line = ask(target, data, (200, 307, 400, 404, 405, 414))
        assert line.target.isascii()
        assert not set(line.target) & set('"\\ '), line
        if answer.status != 400:
            assert answer.one() == request_id.decode()
            assert line.target[:3000] == encoded(path)[:3000] or b"token" in path


def encoded(path: bytes) -> str:
    """Return the target as it must stand in the line."""
    return "".join(chr(one) if 0x21 <= one <= 0x7E and one not in b'"\\' else f"%{one:02X}" for one in path)


def test_target_with_control_characters_is_refused(target: Service) -> None:
    for bad in (*CONTROLS, b"\0", b"\n", b"\r", b" "):
        ask(target, request(target=b"/raw" + bad + b"raw"), 400)


def test_hostile_user_agent_is_cut_off_and_escaped(target: Service) -> None:
    values = [*C1, *UNICODE, *WORDS, FORGED, b"agent/1.0" * 1000, b'" 200 "', b"\\", b'\\"', b"", b"\t"]
    for value in values:
        _, line = ask(target, request(b"User-Agent: " + value), 200)
        if line.user_agent is not None:
            assert len(line.user_agent) <= 256
    for bad in CONTROLS:
        ask(target, request(b"User-Agent: agent" + bad), (200, 400))


def test_hostile_method_is_refused(target: Service) -> None:
    for method in (b"get", b"G\x00T", b"G\tT", b"\x1b[31m", b'"GET', b"A" * 5000, b"\xc3\xa9", b"GET\r", b"%s", b"-"):
        ask(target, request(method=method), 400)
    for method in (b"TRACE", b"PROPFIND", b"DELETE", b"PATCH", b"SEARCH", b"OPTIONS"):
        ask(target, request(method=method), 405)


def test_secret_in_a_query_is_masked(target: Service) -> None:
    for query in SECRETS:
        answer, line = ask(target, request(target=b"/api/demo?" + query), 200)
        assert "=***" in line.target
        check_absent(target, answer)


def test_client_is_an_address_whatever_a_trusted_proxy_forwards(target: Service) -> None:
    for value in FORWARDED:
        _, line = ask(target, request(b"X-Forwarded-For: " + value), (200, 431))
        assert re.fullmatch(r"127\.0\.0\.1:\d+|1\.2\.3\.4|\[::1\]", line.client), (value, line.client)
    lines = [b"X-Forwarded-For: 1.2.3.%d" % (number % 250) for number in range(90)]
    assert ask(target, request(*lines), 200)[1].client == "1.2.3.89"
    for proto in (b"https", b"gopher", b"https, http", b"\x85", b'"', b"https" * 500):
        assert ask(target, request(b"X-Forwarded-Proto: " + proto), 200)[1].status == 200


@pytest.mark.full
@pytest.mark.parametrize("proxies", ["10.0.0.0/8", "127.0.0.0/8,10.0.0.0/8"])
def test_trusted_proxies_decide_on_ids_and_forwarded_clients(project: Path, tmp_path: Path, proxies: str) -> None:
    value, trusted = new_id("trusted"), proxies.startswith("127.")
    env = {"REQUEST_ID_TRUST": "proxies", "FORWARDED_ALLOW_IPS": proxies}
    with Service(project, tmp_path, env=env, workers=1) as service:
        answer, line = ask(
            service, request(f"X-Request-ID: {value}".encode(), b"X-Forwarded-For: 1.2.3.4, 10.1.2.3"), 200
        )
        assert answer.one() == value if trusted else MADE(answer.one())
        assert (line.client == "1.2.3.4") is trusted, line
