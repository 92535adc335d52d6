"""What is wrong with a request's head."""

import pytest

from app.common.server.head_checks import fault_of_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [(b"host", b"a"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)]


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
    refusal = fault_of_head(version, b"GET", [(b"host", host) for host in hosts], upgrade=False)
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
    refusal = fault_of_head("1.1", method, headers, upgrade=True)
    assert (refusal.status if refusal else None) == status
