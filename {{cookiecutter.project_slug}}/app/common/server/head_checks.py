"""Checks of the request head: HTTP version, Host header, WebSocket handshake (RFC 9112, RFC 6455)."""

import logging
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence

import httptools

from app.common.constants import ERROR_LOGGER
from app.common.http.refusals import Refusal

Headers = Sequence[tuple[bytes, bytes]]
_HOST_VALUE = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*").fullmatch
_WEBSOCKET_KEY_BYTES = 16


def check_head(version: str, method: bytes, headers: Headers, *, upgrade: bool) -> Refusal | None:
    """Return why a request with this head is refused, or None; `upgrade`: it is a WebSocket handshake."""
    if version not in ("1.0", "1.1"):
        return Refusal(400, "The HTTP version must be 1.0 or 1.1.")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return Refusal(400, "The request must have exactly one Host header.")  # RFC 9112, 3.2
    if hosts and not _HOST_VALUE(hosts[0]):
        return Refusal(400, "The Host header is invalid.")
    return _check_handshake(method, headers) if upgrade else None


def _check_handshake(method: bytes, headers: Headers) -> Refusal | None:
    versions = [value.strip() for name, value in headers if name == b"sec-websocket-version"]
    if method != b"GET":
        return Refusal(400, "A WebSocket handshake must be a GET request.")
    if any(name in (b"content-length", b"transfer-encoding") for name, _ in headers):
        return Refusal(400, "A WebSocket handshake must not have a body.")
    if versions != [b"13"]:
        return Refusal(426, "Sec-WebSocket-Version must be 13.")
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    try:
        valid = len(keys) == 1 and len(b64decode(keys[0].strip(), validate=True)) == _WEBSOCKET_KEY_BYTES
    except Base64Error:
        valid = False
    return None if valid else Refusal(400, "Sec-WebSocket-Key must be 16 bytes in Base64.")


class RefusedError(Exception):
    """Raised in a callback of the parser to refuse the request with `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.cause)
        self.refusal = refusal


def refusal_in(error: httptools.HttpParserError) -> Refusal:
    """Return the refusal that a callback raised (the parser wraps it); for any other error, a refusal with 400."""
    cause = error.__context__
    if isinstance(cause, RefusedError):
        return cause.refusal
    if cause is not None and not isinstance(cause, httptools.HttpParserError | ValueError | AttributeError):
        logging.getLogger(ERROR_LOGGER).error("A callback of the HTTP parser failed", exc_info=cause)
    return Refusal(400, "The request is not valid HTTP.")


def target_of(url: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target, as far as they can be parsed, and never credentials before a host."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserError:
        path, _, query = url.partition(b"?")
        return (path, query) if url.startswith(b"/") else (b"-", b"")
    return parsed.path or b"/", parsed.query or b""
