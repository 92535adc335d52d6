"""ASGI messages: which is which, what a server can send, and how many bytes one brings to the client."""

from collections.abc import Sequence
from pathlib import Path

from starlette.types import Message

STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""Messages that carry the response's headers."""

BODIES = frozenset({"http.response.body", "http.response.pathsend"})
"""Messages that carry a response's body; the second names a file that the server sends by itself."""

COUNTED = BODIES | {"websocket.send", "websocket.http.response.body"}
"""Messages whose bytes the access line counts."""

SWITCHING_PROTOCOLS = 101
"""The status of a websocket that was accepted. No `HTTPStatus` where each request comes by: in 3.11 it costs a call."""

NO_CLOSE_FRAME = frozenset({1005, 1006})
"""Codes of a websocket that ended without one (RFC 6455, 7.4.1)."""

_UNSENDABLE = bytes(code for code in range(32) if code != ord("\t")) + b"\x7f"


def check(status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise ValueError for what no server can send: uvicorn finds out when it is too late for another answer."""
    if not 100 <= status < 600:  # noqa: PLR2004
        raise ValueError(f"A response has a status from 100 to 599, and {status} is none.")
    values = b"".join([value for _, value in headers])
    if len(values.translate(None, _UNSENDABLE)) < len(values):
        raise ValueError("A header of the response has a control character in its value.")


def size_of(message: Message) -> int:
    """Return the bytes that the message brings to the client."""
    if "path" in message:
        return Path(message["path"]).stat().st_size
    text = message.get("text")
    return len(text.encode()) if text else len(message.get("body") or message.get("bytes") or b"")
