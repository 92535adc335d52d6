"""Client address and scheme from `X-Forwarded-For` and `X-Forwarded-Proto`, accepted from trusted proxies only."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope

from app.common.logs.access_fields import MAX_ADDRESS, parse_address, to_ip_address


class TrustedProxies:
    """The addresses and networks of the proxies whose `X-Forwarded-*` headers are trusted; `*` trusts every peer."""

    def __init__(self, allowed: Iterable[str]) -> None:
        entries = tuple(allowed)
        self._trusts_all = "*" in entries
        self._networks = tuple(ipaddress.ip_network(entry, strict=False) for entry in entries if entry != "*")
        self._contains = lru_cache(maxsize=1024)(self._lookup)

    def __contains__(self, host: str) -> bool:
        return self._trusts_all or self._contains(host[:MAX_ADDRESS])

    def _lookup(self, host: str) -> bool:
        try:
            address = to_ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def is_proxy(self, scope: Scope) -> bool:
        """Return whether the peer is a trusted proxy; a peer without an address (Unix socket) is trusted."""
        client = scope.get("client")
        return client is None or client[0] in self

    def client_of(self, values: list[bytes]) -> str | None:
        """Return the rightmost address that is not a trusted proxy, or the leftmost; None if the last value is invalid.

        Each proxy appends its peer, and clients can forge what is further left: stop at an untrusted or invalid value.
        """
        client = None
        for text in reversed(b",".join(values).decode("latin-1").split(",")[-64:]):
            address = parse_address(text)
            if address is None:
                break
            client = address
            if not self._trusts_all and address not in self:
                break
        return client

    def apply(self, scope: Scope, forwarded_for: list[bytes], forwarded_proto: bytes | None) -> None:
        """Set client and scheme of the scope from the headers of a trusted proxy; the client's port is unknown: 0."""
        client = self.client_of(forwarded_for) if forwarded_for else None
        if client is not None:
            scope["client"] = (client, 0)
        if forwarded_proto in (b"http", b"https"):
            secure = forwarded_proto == b"https"
            scope["scheme"] = ("wss" if secure else "ws") if scope["type"] == "websocket" else forwarded_proto.decode()
