"""Many requests at once over few connections, one after the other or pipelined, with nothing lost of what came back."""

import asyncio
import json
from dataclasses import dataclass

from .client import ID_HEADER, build_request, new_id


@dataclass(frozen=True)
class Job:
    """One request to make: with an ID of its own, or without."""

    target: str
    request_id: str | None


@dataclass(frozen=True)
class Outcome:
    """What came back for a job."""

    job: Job
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def request_id(self) -> str:
        """Return the ID in the header, after a look at all the places where it must be the same."""
        values = self.values(ID_HEADER)
        assert self.status == 200, self
        assert len(values) == 1, self
        assert self.job.request_id in (None, values[0]), self
        envelope = json.loads(self.body)
        assert envelope["request_id"] == values[0], self
        assert envelope["result"] in (values[0], "waited"), self
        return values[0]


def make_jobs(targets: tuple[str, ...], count: int, *, without_id: int = 5) -> list[Job]:
    """Make jobs that go round the targets; every n-th has no ID."""
    return [
        Job(targets[number % len(targets)], None if number % without_id == 0 else new_id(f"load{number}"))
        for number in range(count)
    ]


async def _read(reader: asyncio.StreamReader, job: Job) -> Outcome:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2]))
    body = await reader.readexactly(int(dict(headers)["content-length"]))
    return Outcome(job, int(head[0].split(" ")[1]), headers, body)


async def _converse(port: int, jobs: list[Job], batch: int) -> list[Outcome]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    outcomes = []
    for start in range(0, len(jobs), batch):
        some = jobs[start : start + batch]
        writer.write(b"".join(build_request("GET", job.target, request_id=job.request_id, close=False) for job in some))
        outcomes += [await _read(reader, job) for job in some]
    writer.close()
    await writer.wait_closed()
    return outcomes


async def _all(port: int, jobs: list[Job], connections: int, batch: int) -> list[Outcome]:
    shares = [jobs[number::connections] for number in range(connections)]
    results = await asyncio.gather(*(_converse(port, share, batch) for share in shares))
    return [outcome for result in results for outcome in result]


def run_jobs(port: int, jobs: list[Job], *, connections: int, batch: int = 1) -> list[Outcome]:
    """Make all requests; `batch` of them are written at once before an answer is read."""
    return asyncio.run(_all(port, jobs, connections, batch))
