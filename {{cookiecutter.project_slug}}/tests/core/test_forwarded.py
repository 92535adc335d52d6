"""Who is calling: proxies of ours are believed, and nobody else."""

from collections.abc import Callable

import pytest
from starlette.requests import Request

from app.common.forwarded import TrustedProxies, parse_address
from app.main import Application
from tests.core.support import http_scope
from tests.support import Logs, connect


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
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("localhost", None),
        ("192.0.2.256", None),
        ("192.0.2.01", None),
        ("3221225985", None),
        ("0x7f000001", None),
        ("fe80::1%eth0", None),
        ("192.0.2.1\nforged", None),
        ("192.0.2.1, 192.0.2.2", None),
        ("\u0661\u0662\u0667.0.0.1", None),
        ("1" * 65, None),
    ],
)
def test_only_ip_addresses_are_parsed(text: str, address: str | None) -> None:
    assert parse_address(text) == address


OURS = ("127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48")


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
    assert TrustedProxies(OURS).client_of(values) == client


def test_with_all_proxies_trusted_the_client_is_the_first() -> None:
    assert TrustedProxies(["*"]).client_of([b"192.0.2.1, 198.51.100.1"]) == "192.0.2.1"


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (("127.0.0.1", 1), True),
        (("10.255.0.1", 1), True),
        (("::ffff:127.0.0.1", 1), True),
        (("::ffff:192.0.2.1", 1), False),
        (("2001:db8:1::7", 1), True),
        (("192.0.2.1", 1), False),
        (("localhost", 1), False),
        (("", 0), False),
        (("1" * 1000, 1), False),
        (None, True),
    ],
)
def test_only_trusted_peers_are_proxies(client: tuple[str, int] | None, trusted: bool) -> None:
    assert TrustedProxies(OURS).is_proxy(http_scope(client=client)) is trusted
    assert TrustedProxies(["*"]).is_proxy(http_scope(client=client))


@pytest.mark.parametrize(
    ("peer", "header", "shown"),
    [
        ("127.0.0.1", None, "127.0.0.1:50000"),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "spoofed, 2001:db8::1", "[2001:db8::1]"),
        ("127.0.0.1", "hostile", "127.0.0.1:50000"),
        ("127.0.0.1", "192.0.2.1:4711", "192.0.2.1"),
        ("198.51.100.1", "192.0.2.1", "198.51.100.1:50000"),
    ],
)
def test_the_access_line_shows_the_client(
    peer: str, header: str | None, shown: str, app: Application, logs: Logs
) -> None:
    connect(app, peer).get("/api/demo", headers={"X-Forwarded-For": header} if header else {})
    (line,) = logs.access
    assert f"s {shown} - " in line


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
def test_forwarded_scheme_is_taken_from_trusted_proxies(peer: str, proto: str, scheme: str, app: Application) -> None:
    @app.get("/url")
    async def url(request: Request) -> str:
        return request.url.scheme

    assert connect(app, peer).get("/url", headers={"X-Forwarded-Proto": proto}).json() == scheme


def test_a_websocket_of_the_outside_is_secure_too() -> None:
    scope = http_scope(type="websocket", scheme="ws")
    TrustedProxies(OURS).apply(scope, [b"192.0.2.1"], b"https")
    assert (scope["scheme"], scope["client"]) == ("wss", ("192.0.2.1", 0))


def test_trusted_proxies_are_a_setting(configure: Callable[..., Application], logs: Logs) -> None:
    app = configure(FORWARDED_ALLOW_IPS="192.0.2.0/24")
    for peer in ("192.0.2.9", "127.0.0.1"):
        connect(app, peer).get("/api/demo", headers={"X-Forwarded-For": "203.0.113.5"})
    assert ["s 203.0.113.5 - " in line for line in logs.access] == [True, False]
