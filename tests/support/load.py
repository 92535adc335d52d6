"""Requests at a steady rate (`Load`), or many at once (`send_all`); each is sent once, and its answer is kept."""

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
KEPT = 4
"""How many connections are kept and used in turn, so that every worker gets some; more only as they are needed."""


@dataclass
class Sent:
    """A request and its answer. `request_id` may be empty; times are those of `time.monotonic`, in seconds."""

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
        """Return every value of a response header."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def answered(self) -> bool:
        """Whether it was served, in full and under its own ID."""
        return self.status == 200 and not self.error and self.values(ID_HEADER) == [self.request_id]

    @property
    def took(self) -> float:
        """Return the seconds until the whole response had arrived."""
        return self.ended - self.began

    @property
    def returned_id(self) -> str:
        """Return the ID in the header; AssertionError unless it is the same in every place of a probe's response."""
        values = self.values(ID_HEADER)
        assert self.status == 200, self
        assert len(values) == 1, self
        assert self.request_id in ("", values[0]), self
        envelope = json.loads(self.body)
        assert envelope["request_id"] == values[0], self
        assert envelope["result"] in (values[0], "waited"), self
        return values[0]


@dataclass
class _Line:
    """A connection that is kept between requests."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, requests: Sequence[Sent]) -> None:
        self.writer.write(
            b"".join(
                build_request(one.method, one.target, request_id=one.request_id or None, close=False)
                for one in requests
            )
        )

    async def read(self, sent: Sent) -> bool:
        """Read the answer to a request; tell whether the connection can be used again."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        sent.body = await self.reader.readexactly(int(dict(pairs)["content-length"]))
        sent.headers, sent.status = tuple(pairs), int(head[0].split(" ")[1])
        return dict(pairs).get("connection") != "close"


async def _connect(port: int) -> _Line:
    return _Line(*await asyncio.open_connection("127.0.0.1", port))


@dataclass
class Load:
    """Sends `rate` requests a second until the end of a `with`, at most `clients` of them at a time.

    `sent` has all of them. `dropped` counts kept connections that were closed from the other side while no request was
    under way on them.
    """

    port: int
    rate: float = 200
    mix: Sequence[tuple[str, str]] = DEMO
    clients: int = 4
    patience: float = 40
    sent: list[Sent] = field(default_factory=list)
    dropped: int = 0
    _idle: deque[_Line | None] = field(default_factory=deque)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self.more(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.more(10)
        self._over.set()
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait until so many further requests have ended."""
        goal = self._ended() + count
        wait_for(lambda: self._ended() >= goal or not self._thread.is_alive(), f"the end of {count} more requests")
        assert self._thread.is_alive(), "the load has ended early"

    def _ended(self) -> int:
        return sum(one.ended > 0 for one in self.sent)

    async def _run(self) -> None:
        self._idle.extend([None] * min(KEPT, self.clients))
        mix = itertools.cycle(self.mix)
        due = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        while not self._over.is_set():
            await asyncio.sleep(due - time.monotonic())
            due = max(due, time.monotonic() - 1) + 1 / self.rate
            if len(tasks) >= self.clients:
                continue
            self.sent.append(sent := Sent(*next(mix), new_id("load"), time.monotonic()))
            tasks.add(task := asyncio.create_task(self._send(sent)))
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        lines = [line for line in self._idle if line]
        for line in lines:
            line.writer.close()
        await asyncio.gather(*(line.writer.wait_closed() for line in lines), return_exceptions=True)

    async def _send(self, sent: Sent) -> None:
        line = self._next()
        keep = False
        try:
            async with asyncio.timeout(self.patience):
                line = line or await _connect(self.port)
                line.write([sent])
                keep = await line.read(sent)
        except Exception as error:
            sent.error = repr(error)
        sent.ended = time.monotonic()
        if line and not keep:
            line.writer.close()
        self._idle.append(line if keep else None)

    def _next(self) -> _Line | None:
        """Return the connection that has been idle longest, or None where a new one is needed."""
        line = self._idle.popleft() if self._idle else None
        if line and line.reader.at_eof():
            line.writer.close()
            self.dropped += 1
            return None
        return line

    @property
    def answered(self) -> list[str]:
        """Return the IDs of the requests that were served."""
        return [sent.request_id for sent in self.sent if sent.answered]

    @property
    def failed(self) -> list[Sent]:
        """Return the requests that have ended without being served."""
        return [sent for sent in self.sent if sent.ended and not sent.answered]


def requests_to(targets: Sequence[str], count: int, *, without_id: int = 5) -> list[Sent]:
    """Return requests that go round the targets; every n-th has no ID."""
    return [
        Sent("GET", targets[number % len(targets)], "" if number % without_id == 0 else new_id(f"load{number}"))
        for number in range(count)
    ]


def send_all(port: int, requests: Sequence[Sent], *, connections: int, batch: int = 1) -> None:
    """Send all requests and read their answers; `batch` of them are written at once before an answer is read."""
    asyncio.run(_all(port, requests, connections, batch))


async def _all(port: int, requests: Sequence[Sent], connections: int, batch: int) -> None:
    shares = [requests[number::connections] for number in range(connections)]
    await asyncio.gather(*(_converse(port, share, batch) for share in shares))


async def _converse(port: int, share: Sequence[Sent], batch: int) -> None:
    line = await _connect(port)
    for start in range(0, len(share), batch):
        some = share[start : start + batch]
        line.write(some)
        for sent in some:
            await line.read(sent)
    line.writer.close()
    await line.writer.wait_closed()
