"""Who is really calling: `X-Forwarded-For` and `X-Forwarded-Proto`, believed only from the proxies in the settings."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope

from app.common.logs.access_fields import MAX_ADDRESS, parse_address, unmapped


class TrustedProxies:
    """The addresses and networks whose word on the client counts; `*` stands for everyone."""

    def __init__(self, allowed: Iterable[str]) -> None:
        words = tuple(allowed)
        self.everyone = "*" in words
        self._networks = tuple(ipaddress.ip_network(word, strict=False) for word in words if word != "*")
        self._contains = lru_cache(maxsize=1024)(self._lookup)

    def __contains__(self, host: str) -> bool:
        return self.everyone or self._contains(host[:MAX_ADDRESS])

    def _lookup(self, host: str) -> bool:
        try:
            address = unmapped(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def is_proxy(self, scope: Scope) -> bool:
        """Tell whether the peer is one of them; a peer without an address came over a unix socket of this machine."""
        client = scope.get("client")
        return client is None or client[0] in self

    def client_of(self, values: list[bytes]) -> str | None:
        """Return the nearest address that is no proxy of ours; None if a proxy handed on something else.

        Read from the right, since each proxy appends: what stands further left is only the client's word.
        """
        found = None
        for text in reversed(b",".join(values).decode("latin-1").split(",")[-64:]):
            address = parse_address(text)
            if address is None:
                break
            found = address
            if not self.everyone and address not in self:
                break
        return found

    def apply(self, scope: Scope, forwarded_for: list[bytes], forwarded_proto: bytes | None) -> None:
        """Write the client and the scheme that a trusted proxy tells into the scope; the port is then unknown: 0."""
        client = self.client_of(forwarded_for) if forwarded_for else None
        if client is not None:
            scope["client"] = (client, 0)
        if forwarded_proto in (b"http", b"https"):
            secure = forwarded_proto == b"https"
            scope["scheme"] = ("wss" if secure else "ws") if scope["type"] == "websocket" else forwarded_proto.decode()
