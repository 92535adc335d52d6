"""A small HTTP/1.1 client over a plain socket: it does not retry, merge headers or hide errors."""

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
    """Return a new, valid request ID, which the service must accept unchanged."""
    return f"{label}-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Response:
    """One response as received: repeated headers stay repeated, and `complete` is False if the body is incomplete."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def header_values(self, name: str) -> list[str]:
        """Return all values of a header, in the order of arrival."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str = ID_HEADER) -> str:
        """Return the value of a header; AssertionError unless the response has it exactly once."""
        values = self.header_values(name)
        assert len(values) == 1, f"{name} is there {len(values)} times: {self.headers}"
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
    """Return a request as bytes; `Host` and `Content-Length` are added if `headers` lack them."""
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
    """A TCP connection on which a test writes requests and reads responses."""

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
        """Close the connection normally."""
        self.socket.close()

    def abort(self) -> None:
        """Close the connection with a reset (RST), like a crashed client."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes unmodified."""
        self.socket.sendall(data)

    def request(
        self, method: str, target: str, headers: Headers = (), body: bytes = b"", *, request_id: str | None = None
    ) -> Response:
        """Send one request with keep-alive, and read its response."""
        self.send(build_request(method, target, headers, body, request_id=request_id, close=False))
        return self.read_response(method)

    def read_response(self, method: str = "GET") -> Response:
        """Read one response, skipping interim ones (1xx other than 101); EOFError if the peer closes first."""
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200 or status == 101:
                break
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        if method == "HEAD" or status in BODYLESS or status == 101:
            return Response(status, headers, b"")
        fields = {name.lower(): value for name, value in headers}
        if fields.get("transfer-encoding", "").lower() == "chunked":
            body, complete = self._chunks()
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body = self._exactly(length)
            complete = len(body) == length
        else:
            body, complete = self.read_to_end(), True
        return Response(status, headers, body, complete)

    def read_to_end(self) -> bytes:
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
