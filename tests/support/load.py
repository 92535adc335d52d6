"""Send requests at a constant rate (`Load`), or as fast as possible (`send_all`), and record each response.

No request is retried.
"""

import asyncio
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.client import ID_HEADER, build_request, new_id
from tests.support.waiting import wait_for

DEMO = (("GET", "/api/demo"),)
MIN_CONNECTIONS = 4
"""This many connections are used in turn, so that each worker gets requests; more are opened if needed."""


@dataclass
class SentRequest:
    """A request and its response. `request_id` may be empty; times are from `time.monotonic`, in seconds."""

    method: str
    target: str
    request_id: str
    began: float = 0.0
    ended: float = 0.0
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: str = ""

    def values(self, name: str) -> list[str]:
        """Return all values of a response header."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def answered(self) -> bool:
        """Whether the response is a complete 200 with the ID of the request."""
        return self.status == 200 and not self.error and self.values(ID_HEADER) == [self.request_id]

    @property
    def duration(self) -> float:
        """Return the seconds until the response was complete."""
        return self.ended - self.began

    @property
    def returned_id(self) -> str:
        """Return the ID in the header of a probe's response; AssertionError unless the body has the same ID."""
        values = self.values(ID_HEADER)
        assert self.status == 200, self
        assert len(values) == 1, self
        assert self.request_id in ("", values[0]), self
        envelope = json.loads(self.body)
        assert envelope["request_id"] == values[0], self
        assert envelope["result"] in (values[0], "waited"), self
        return values[0]


@dataclass
class _Connection:
    """A keep-alive connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, requests: Sequence[SentRequest]) -> None:
        self.writer.write(
            b"".join(
                build_request(one.method, one.target, request_id=one.request_id or None, close=False)
                for one in requests
            )
        )

    async def read(self, sent: SentRequest) -> bool:
        """Read the response to a request; return whether the connection can be used again."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        sent.body = await self.reader.readexactly(int(dict(pairs)["content-length"]))
        sent.headers, sent.status = tuple(pairs), int(head[0].split(" ")[1])
        return dict(pairs).get("connection") != "close"


async def _connect(port: int) -> _Connection:
    return _Connection(*await asyncio.open_connection("127.0.0.1", port))


@dataclass
class Load:
    """A context manager that sends `rate` requests per second, at most `clients` of them at the same time.

    `sent` has all requests. `dropped` counts the idle connections that the server has closed. `timeout` is in seconds,
    for a request.
    """

    port: int
    rate: float = 200
    mix: Sequence[tuple[str, str]] = DEMO
    clients: int = 4
    timeout: float = 40
    sent: list[SentRequest] = field(default_factory=list)
    dropped: int = 0
    _idle: deque[_Connection | None] = field(default_factory=deque)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self.wait_for_requests(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait_for_requests(10)
        self._over.set()
        self._thread.join()

    def wait_for_requests(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        goal = self._ended() + count
        wait_for(lambda: self._ended() >= goal or not self._thread.is_alive(), f"{count} more responses")
        assert self._thread.is_alive(), "the thread that sends the requests has ended"

    def _ended(self) -> int:
        return sum(one.ended > 0 for one in self.sent)

    async def _run(self) -> None:
        self._idle.extend([None] * min(MIN_CONNECTIONS, self.clients))
        mix = itertools.cycle(self.mix)
        due = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            await asyncio.sleep(due - time.monotonic())
            due = max(due, time.monotonic() - 1) + 1 / self.rate
            if len(tasks) >= self.clients:
                continue
            self.sent.append(sent := SentRequest(*next(mix), new_id("load"), time.monotonic()))
            tasks.add(task := asyncio.create_task(self._send(sent)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        connections = [connection for connection in self._idle if connection]
        for connection in connections:
            connection.writer.close()
        closing = (connection.writer.wait_closed() for connection in connections)
        await asyncio.gather(*closing, return_exceptions=True)

    async def _send(self, sent: SentRequest) -> None:
        connection = self._next()
        is_reusable = False
        try:
            async with asyncio.timeout(self.timeout):
                connection = connection or await _connect(self.port)
                connection.write([sent])
                is_reusable = await connection.read(sent)
        except Exception as error:
            sent.error = repr(error)
        sent.ended = time.monotonic()
        if connection and not is_reusable:
            connection.writer.close()
        self._idle.append(connection if is_reusable else None)

    def _next(self) -> _Connection | None:
        """Return the connection that has been idle for the longest time, or None if a new one is needed."""
        connection = self._idle.popleft() if self._idle else None
        if connection and connection.reader.at_eof():
            connection.writer.close()
            self.dropped += 1
            return None
        return connection

    @property
    def answered(self) -> list[str]:
        """Return the IDs of the requests with a successful response (see `SentRequest.answered`)."""
        return [sent.request_id for sent in self.sent if sent.answered]

    @property
    def failed(self) -> list[SentRequest]:
        """Return the requests that have ended without a successful response."""
        return [sent for sent in self.sent if sent.ended and not sent.answered]


def requests_to(targets: Sequence[str], count: int, *, without_id: int = 5) -> list[SentRequest]:
    """Return `count` requests to the targets in turn; every `without_id`-th request has no ID."""
    return [
        SentRequest("GET", targets[number % len(targets)], "" if number % without_id == 0 else new_id(f"load{number}"))
        for number in range(count)
    ]


def send_all(port: int, requests: Sequence[SentRequest], *, connections: int, batch: int = 1) -> None:
    """Send all requests and read their responses; `batch` is the number of pipelined requests on a connection."""
    asyncio.run(_send_on_connections(port, requests, connections, batch))


async def _send_on_connections(port: int, requests: Sequence[SentRequest], connections: int, batch: int) -> None:
    shares = [requests[number::connections] for number in range(connections)]
    await asyncio.gather(*(_send_on_one_connection(port, share, batch) for share in shares))


async def _send_on_one_connection(port: int, requests: Sequence[SentRequest], batch: int) -> None:
    connection = await _connect(port)
    for start in range(0, len(requests), batch):
        pipelined = requests[start : start + batch]
        connection.write(pipelined)
        for sent in pipelined:
            await connection.read(sent)
    connection.writer.close()
    await connection.writer.wait_closed()
