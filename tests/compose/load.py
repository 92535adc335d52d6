"""Requests at a steady rate, whatever the service does meanwhile; each is sent once, and what comes back is kept."""

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.live.client import ID_HEADER, build_request, new_id

# Method and target, in turn: short ones and ones that take a while, and a third of them must not be sent twice.
MIXED = (("GET", "/api/demo"), ("POST", "/probe/slow?seconds=0.2"), ("GET", "/probe/slow?seconds=0.2"))


@dataclass
class Sent:
    """A request, and what has become of it: a status, or what went wrong; times are those of `time.monotonic`."""

    method: str
    target: str
    request_id: str
    began: float
    ended: float = 0.0
    status: int = 0
    returned_id: str = ""
    error: str = ""

    @property
    def answered(self) -> bool:
        """Tell whether it was served, in full and under its own ID."""
        return self.status == 200 and not self.error and self.returned_id == self.request_id

    @property
    def took(self) -> float:
        """Give the seconds until the answer was there in full."""
        return self.ended - self.began


class _Line:
    """A connection that is kept between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def exchange(self, sent: Sent) -> bool:
        """Send a request and read its answer; tell whether the connection can be used again."""
        self.writer.write(build_request(sent.method, sent.target, request_id=sent.request_id, close=False))
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        sent.returned_id = ",".join(value for name, value in pairs if name == ID_HEADER.lower())
        await self.reader.readexactly(int(dict(pairs)["content-length"]))
        sent.status = int(head[0].split(" ")[1])
        return dict(pairs).get("connection") != "close"


@dataclass
class Load:
    """Sends requests while the `with` block runs, but no more than `most` at a time; `sent` has all of them.

    `dropped` counts kept connections that were closed from the other side while nothing was under way on them.
    """

    port: int
    rate: float = 200
    mix: Sequence[tuple[str, str]] = MIXED
    patience: float = 40
    most: int = 400
    sent: list[Sent] = field(default_factory=list)
    dropped: int = 0
    _idle: list[_Line] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            time.sleep(0.5)
        self._over.set()
        self._thread.join()

    async def _run(self) -> None:
        requests: Iterator[tuple[str, str]] = itertools.cycle(self.mix)
        due = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        while not self._over.is_set():
            await asyncio.sleep(due - time.monotonic())
            due = max(due, time.monotonic() - 1) + 1 / self.rate
            if sum(not task.done() for task in tasks[-2 * self.most :]) >= self.most:
                continue
            method, target = next(requests)
            sent = Sent(method, target, new_id("load"), time.monotonic())
            self.sent.append(sent)
            tasks.append(asyncio.create_task(self._send(sent)))
        await asyncio.gather(*tasks)
        for line in self._idle:
            line.writer.close()
        await asyncio.sleep(0.05)  # in which they are closed

    async def _send(self, sent: Sent) -> None:
        line = None
        keep = False
        try:
            async with asyncio.timeout(self.patience):
                line = self._kept() or _Line(*await asyncio.open_connection("127.0.0.1", self.port))
                keep = await line.exchange(sent)
        except (OSError, EOFError, TimeoutError, KeyError) as error:
            sent.error = repr(error)
        sent.ended = time.monotonic()
        if line is not None and keep:
            self._idle.append(line)
        elif line is not None:
            line.writer.close()

    def _kept(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.reader.at_eof():
                return line
            line.writer.close()
            self.dropped += 1
        return None

    @property
    def failed(self) -> list[Sent]:
        """Give the requests that were not served."""
        return [sent for sent in self.sent if not sent.answered]

    def begun_before(self, moment: float) -> list[Sent]:
        """Give the requests that were sent before a moment."""
        return [sent for sent in self.sent if sent.began < moment]

    def summary(self, what: str) -> str:
        """Say in a line how many there were, how many failed, and how long they took at most and mostly."""
        took = sorted(sent.took for sent in self.sent)
        most = statistics.quantiles(took, n=100)
        seconds = self.sent[-1].ended - self.sent[0].began
        return (
            f"{what}: {len(took)} requests in {seconds:.1f} s, {len(self.failed)} failed; "
            f"median {most[49]:.3f} s, p99 {most[98]:.3f} s, at most {took[-1]:.3f} s"
        )
