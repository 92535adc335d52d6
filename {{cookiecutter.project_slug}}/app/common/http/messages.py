"""ASGI messages: their types, which response starts are valid, and how many bytes a message sends to the client."""

from collections.abc import Sequence
from pathlib import Path

from starlette.types import Message

STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""Messages with the response headers."""

BODIES = frozenset({"http.response.body", "http.response.pathsend"})
"""Messages with the response body; `pathsend` names a file that the server reads and sends itself."""

COUNTED = BODIES | {"websocket.send", "websocket.http.response.body"}
"""Messages whose bytes the access log line counts."""

SWITCHING_PROTOCOLS = 101
"""The status of an accepted WebSocket; a plain int, since in Python 3.11 an `HTTPStatus` costs each request a call."""

NO_CLOSE_FRAME = frozenset({1005, 1006})
"""Close codes of a WebSocket that ended without a close code (1005) or a close frame (1006; RFC 6455, 7.4.1)."""

_UNSENDABLE = bytes(code for code in range(32) if code != ord("\t")) + b"\x7f"


def check_start(status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise ValueError for an invalid status or header value; uvicorn detects it too late for an error response."""
    if not 100 <= status < 600:  # noqa: PLR2004
        raise ValueError(f"The response status is {status}; it must be from 100 to 599.")
    values = b"".join([value for _, value in headers])
    if len(values.translate(None, _UNSENDABLE)) < len(values):
        raise ValueError("The value of a response header contains a control character.")


def size_of(message: Message) -> int:
    """Return how many bytes the message sends to the client."""
    if "path" in message:
        return Path(message["path"]).stat().st_size
    text = message.get("text")
    return len(text.encode()) if text else len(message.get("body") or message.get("bytes") or b"")
