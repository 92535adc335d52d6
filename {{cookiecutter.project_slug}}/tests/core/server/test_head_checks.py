"""Checks of the request head."""

import pytest

from app.common.server.head_checks import check_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [(b"host", b"a"), (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)]


VALID_HOSTS = [b"example.org", b"example.org:8000", b"[::1]:8000", b"b%C3%BCcher.example", b""]
INVALID_HOSTS = [b"a b", b"a/b", b"user@a", b"a\n", b"<script>", b"\xc3\xbc"]


@pytest.mark.parametrize(
    ("version", "hosts", "is_refused"),
    [
        *[("1.1", [host], False) for host in VALID_HOSTS],
        *[("1.1", [host], True) for host in INVALID_HOSTS],
        ("1.0", [], False),
        ("1.1", [], True),
        ("1.1", [b"a", b"a"], True),
        ("1.0", [b"a", b"b"], True),
    ],
)
def test_missing_duplicate_or_invalid_host_is_refused(version: str, hosts: list[bytes], is_refused: bool) -> None:
    refusal = check_head(version, b"GET", [(b"host", host) for host in hosts], upgrade=False)
    assert (refusal and refusal.status) == (400 if is_refused else None)


@pytest.mark.parametrize(
    ("method", "changed", "status"),
    [
        (b"GET", {}, None),
        (b"POST", {}, 400),
        (b"GET", {b"sec-websocket-version": b"12"}, 426),
        (b"GET", {b"sec-websocket-version": None}, 426),
        (b"GET", {b"sec-websocket-key": None}, 400),
        (b"GET", {b"sec-websocket-key": b"c2hvcnQ="}, 400),
        (b"GET", {b"sec-websocket-key": b"not base64!"}, 400),
        (b"GET", {b"host": None}, 400),
    ],
)
def test_invalid_websocket_handshake_is_refused(
    method: bytes, changed: dict[bytes, bytes | None], status: int | None
) -> None:
    headers = [(name, value) for name, old in HANDSHAKE if (value := changed.get(name, old)) is not None]
    refusal = check_head("1.1", method, headers, upgrade=True)
    assert (refusal.status if refusal else None) == status
