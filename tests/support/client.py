"""A small HTTP/1.1 client over a bare socket: it hides nothing, repeats nothing and repairs nothing."""

import json
import socket
import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

ID_HEADER = "X-Request-ID"
BODYLESS = frozenset({204, 304})

Json = Any
Headers = Iterable[tuple[str, str]]


def new_id(label: str = "test") -> str:
    """Make a distinct ID that the service must take over as it is."""
    return f"{label}-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Answer:
    """One response as it came: doubled headers stay doubled, a body that was cut off says so."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def all(self, name: str) -> list[str]:
        """Every value of a header, in the order of arrival."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str = ID_HEADER) -> str:
        """Return the value of a header that must be there exactly once."""
        values = self.all(name)
        assert len(values) == 1, f"{name} came {len(values)} times: {self.headers}"
        return values[0]

    def json(self) -> Json:
        """Return the body as JSON."""
        return json.loads(self.body)


def build_request(
    method: str,
    target: str,
    headers: Headers = (),
    body: bytes = b"",
    *,
    request_id: str | None = None,
    close: bool = True,
) -> bytes:
    """Write a request as bytes; a `Host` and a `Content-Length` are added where the caller gave none."""
    pairs = list(headers)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("Host", "testserver"))
    if request_id is not None:
        pairs.append((ID_HEADER, request_id))
    if close and "connection" not in names:
        pairs.append(("Connection", "close"))
    if (body or method in {"POST", "PUT", "PATCH"}) and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in pairs) + "\r\n"
    return head.encode("latin-1") + body


class Connection:
    """One TCP connection on which requests are written and answers read by hand."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 60.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection in the ordinary way."""
        self.socket.close()

    def abort(self) -> None:
        """Close the connection with a reset, as a crashed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.socket.sendall(data)

    def request(
        self, method: str, target: str, headers: Headers = (), body: bytes = b"", *, request_id: str | None = None
    ) -> Answer:
        """Send one request that keeps the connection, and read its answer."""
        self.send(build_request(method, target, headers, body, request_id=request_id, close=False))
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer; interim answers (1xx other than 101) are skipped. EOFError: nothing came at all."""
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200 or status == 101:
                break
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        if method == "HEAD" or status in BODYLESS or status == 101:
            return Answer(status, headers, b"")
        fields = {name.lower(): value for name, value in headers}
        if fields.get("transfer-encoding", "").lower() == "chunked":
            body, complete = self._chunks()
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body = self._exactly(length)
            complete = len(body) == length
        else:
            body, complete = self.rest(), True
        return Answer(status, headers, body, complete)

    def rest(self) -> bytes:
        """Read until the peer closes."""
        while self._fill():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def _fill(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if not self._fill():
                raise EOFError(f"closed by the peer after {self._buffer!r}")
        data, _, self._buffer = self._buffer.partition(mark)
        return data

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length and self._fill():
            pass
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            try:
                length = int(self._until(b"\r\n").split(b";")[0], 16)
            except EOFError:
                return body, False
            body += self._exactly(length)
            if self._exactly(2) != b"\r\n":
                return body, False
            if not length:
                return body, True
