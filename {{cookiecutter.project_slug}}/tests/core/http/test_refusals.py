"""What is wrong with a request's head, and how it is answered."""

import asyncio
import json

import pytest

from app.common.http.refusals import REFUSAL_KEY, Refusal, RefusalMiddleware
from app.common.middlewares import ContextMiddleware
from app.common.server.head_checks import fault_of_head
from tests.core.support import drive, http_scope
from tests.support import ID

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [(b"host", b"a"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)]


class Parser:
    def __init__(self, version: str = "1.1", method: bytes = b"GET") -> None:
        self.version = version
        self.method = method

    def get_http_version(self) -> str:
        return self.version

    def get_method(self) -> bytes:
        return self.method


SOUND = [b"example.org", b"example.org:8000", b"[::1]:8000", b"b%C3%BCcher.example", b""]
FAULTY = [b"a b", b"a/b", b"user@a", b"a\n", b"<script>", b"\xc3\xbc"]


@pytest.mark.parametrize(
    ("version", "hosts", "faulty"),
    [
        *[("1.1", [host], False) for host in SOUND],
        *[("1.1", [host], True) for host in FAULTY],
        ("1.0", [], False),
        ("1.1", [], True),
        ("1.1", [b"a", b"a"], True),
        ("1.0", [b"a", b"b"], True),
    ],
)
def test_a_request_has_one_sound_host(version: str, hosts: list[bytes], faulty: bool) -> None:
    refusal = fault_of_head(Parser(version), [(b"host", host) for host in hosts], upgrade=False)
    assert (refusal and refusal.status) == (400 if faulty else None)


@pytest.mark.parametrize(
    ("method", "changed", "status"),
    [
        (b"GET", {}, None),
        (b"POST", {}, 400),
        (b"GET", {b"sec-websocket-version": b"12"}, 426),
        (b"GET", {b"sec-websocket-version": None}, 426),
        (b"GET", {b"sec-websocket-key": None}, 400),
        (b"GET", {b"sec-websocket-key": b"c2hvcnQ="}, 400),
        (b"GET", {b"sec-websocket-key": b"no base 64!"}, 400),
        (b"GET", {b"host": None}, 400),
    ],
)
def test_a_websocket_begins_with_a_sound_handshake(
    method: bytes, changed: dict[bytes, bytes | None], status: int | None
) -> None:
    headers = [(name, value) for name, old in HANDSHAKE if (value := changed.get(name, old)) is not None]
    refusal = fault_of_head(Parser(method=method), headers, upgrade=True)
    assert (refusal.status if refusal else None) == status


async def never(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize(("status", "extra"), [(400, set()), (426, {b"upgrade", b"sec-websocket-version"})])
def test_a_refusal_is_answered_instead_of_being_served(status: int, extra: set[bytes]) -> None:
    scope = http_scope(headers=[(b"x-request-id", ID.encode())])
    scope[REFUSAL_KEY] = Refusal(status, "It cannot be served.")
    start, body = asyncio.run(drive(ContextMiddleware(RefusalMiddleware(never)), scope))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"connection"], headers[b"x-request-id"]) == (status, b"close", ID.encode())
    assert headers.keys() - {b"content-type", b"content-length", b"connection", b"x-request-id"} == extra
    content = json.loads(body["body"])
    assert (content["code"], content["cause"], content["request_id"]) == (status, "It cannot be served.", ID)
