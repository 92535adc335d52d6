"""X-Forwarded-For and X-Forwarded-Proto are accepted from trusted proxies only."""

from collections.abc import Callable

import pytest
from starlette.requests import Request

from app.common.http.proxy_headers import TrustedProxies
from app.common.logs.access_fields import parse_address
from app.main import Application
from tests.core.support import http_scope
from tests.support import Logs, connect

INVALID_ADDRESSES = [
    "", "unknown", "_hidden", "localhost", "192.0.2.256", "192.0.2.01", "3221225985", "0x7f000001", "fe80::1%eth0",
    "192.0.2.1\nforged", "192.0.2.1, 192.0.2.2", "\u0661\u0662\u0667.0.0.1", "1" * 65,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:8080", "2001:db8::1"),
        ("::1", "::1"),
        *((text, None) for text in INVALID_ADDRESSES),
    ],
)
def test_only_ip_addresses_are_parsed(text: str, address: str | None) -> None:
    assert parse_address(text) == address


TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48")


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"192.0.2.1", b"10.0.0.1", b"10.0.0.2"], "192.0.2.1"),
        ([b"1.1.1.1, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"evil, 192.0.2.1"], "192.0.2.1"),
        ([b"::ffff:192.0.2.1"], "192.0.2.1"),
        ([b"evil\n", b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, evil"], None),
        ([b"192.0.2.1, evil, 10.0.0.1"], "10.0.0.1"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([b"[2001:db8:2::1]:443, 2001:db8:1::7"], "2001:db8:2::1"),
        ([b"192.0.2.1:1234"], "192.0.2.1"),
        ([b""], None),
        ([b",,,"], None),
        ([b"\xff\xfe"], None),
        ([b"192.0.2.1," + b"10.0.0.1," * 20_000], None),
        ([b"9" * 100_000], None),
    ],
)
def test_client_is_the_nearest_untrusted_address(values: list[bytes], client: str | None) -> None:
    assert TrustedProxies(TRUSTED).client_of(values) == client


def test_client_is_the_leftmost_address_if_all_proxies_are_trusted() -> None:
    assert TrustedProxies(["*"]).client_of([b"192.0.2.1, 198.51.100.1"]) == "192.0.2.1"


@pytest.mark.parametrize(
    ("trusted", "clients"),
    [
        (True, [("127.0.0.1", 1), ("10.255.0.1", 1), ("::ffff:127.0.0.1", 1), ("2001:db8:1::7", 1), None]),
        (False, [("::ffff:192.0.2.1", 1), ("192.0.2.1", 1), ("localhost", 1), ("", 0), ("1" * 1000, 1)]),
    ],
)
def test_only_trusted_peers_are_proxies(trusted: bool, clients: list[tuple[str, int] | None]) -> None:
    for client in clients:
        assert TrustedProxies(TRUSTED).is_proxy(http_scope(client=client)) is trusted, client
        assert TrustedProxies(["*"]).is_proxy(http_scope(client=client)), client


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("192.0.2.9", "203.0.113.5", "203.0.113.5"),
        ("192.0.2.9", "203.0.113.5:4711", "203.0.113.5"),
        ("192.0.2.9", "hostile", "192.0.2.9:50000"),
        ("127.0.0.1", "203.0.113.5", "127.0.0.1:50000"),
    ],
)
def test_access_line_has_the_client_from_a_trusted_proxy(
    peer: str, header: str, expected: str, configure: Callable[..., Application], logs: Logs
) -> None:
    app = configure(FORWARDED_ALLOW_IPS="192.0.2.0/24")
    connect(app, peer).get("/api/demo", headers={"X-Forwarded-For": header})
    assert [f"s {expected} - " in line for line in logs.access] == [True]


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "http", "http"),
        ("127.0.0.1", "javascript", "http"),
        ("127.0.0.1", "https, http", "http"),
        ("192.0.2.1", "https", "http"),
    ],
)
def test_forwarded_scheme_is_accepted_from_trusted_proxies(
    peer: str, proto: str, scheme: str, app: Application
) -> None:
    @app.get("/url")
    async def url(request: Request) -> str:
        return request.url.scheme

    assert connect(app, peer).get("/url", headers={"X-Forwarded-Proto": proto}).json() == scheme


def test_forwarded_https_sets_the_scheme_of_a_websocket_to_wss() -> None:
    scope = http_scope(type="websocket", scheme="ws")
    TrustedProxies(TRUSTED).apply(scope, [b"192.0.2.1"], b"https")
    assert (scope["scheme"], scope["client"]) == ("wss", ("192.0.2.1", 0))
