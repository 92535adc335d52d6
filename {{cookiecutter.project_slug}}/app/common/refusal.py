"""Answers of the server itself: what is wrong with a request before the application sees it."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from app.common.errors import error_response

REFUSAL_KEY: Final = "app.refusal"
"""A scope with a `Refusal` under this key is answered at the door; it gets its ID and its line as any other."""

BODY_FAULT_KEY: Final = "app.body_fault"
"""A `Refusal` under this key came up while the body was read; the reader gets it as an HTTPException."""

_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*").fullmatch
_WEBSOCKET_KEY_BYTES = 16


class Refusal(NamedTuple):
    """An HTTP status and a sentence for the client."""

    status: int
    cause: str


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the envelope, and close the connection, whose further bytes cannot be trusted (RFC 9112, 9.3)."""
    refusal: Refusal = scope[REFUSAL_KEY]
    response = error_response(refusal.status, refusal.cause)
    response.headers["connection"] = "close"
    if refusal.status == 426:  # noqa: PLR2004 - the client learns which version it may use (RFC 6455, 4.4)
        response.headers["upgrade"] = "websocket"
        response.headers["sec-websocket-version"] = "13"
    await response(scope, receive, send)


class Parser(Protocol):
    """What is asked of the parser of a request's head."""

    def get_http_version(self) -> str:
        """Return e.g. `1.1`."""

    def get_method(self) -> bytes:
        """Return e.g. `GET`."""


def fault_of_head(parser: Parser, headers: Sequence[tuple[bytes, bytes]], *, upgrade: bool) -> Refusal | None:
    """Return what forbids to serve a request with this head; `upgrade`: it asks for a websocket."""
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        return Refusal(400, "HTTP is spoken in version 1.1 here.")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return Refusal(400, "A request has exactly one Host header.")  # RFC 9112, 3.2
    if hosts and not _HOST(hosts[0]):
        return Refusal(400, "The Host header is not the name of a host.")
    return _fault_of_handshake(parser, headers) if upgrade else None


def _fault_of_handshake(parser: Parser, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    versions = [value.strip() for name, value in headers if name == b"sec-websocket-version"]
    if parser.get_method() != b"GET":
        return Refusal(400, "A websocket begins with a GET request.")
    if versions != [b"13"]:
        return Refusal(426, "A websocket is spoken in version 13 here.")
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    try:
        valid = len(keys) == 1 and len(b64decode(keys[0].strip(), validate=True)) == _WEBSOCKET_KEY_BYTES
    except Base64Error:
        valid = False
    return None if valid else Refusal(400, "A websocket begins with a key of 16 bytes in Base64.")
