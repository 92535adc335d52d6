"""Samples the workers during the soak test: memory, file descriptors, threads."""

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.5
"""Seconds between two samples."""
SETTLED = 15
"""Seconds that the workers have after the last request to become idle again."""
WARM_UP = 0.1
"""The share of the access log lines that counts as warm-up, while memory is still allocated for the first time."""
EDGE = 10
"""Number of samples at the start and at the end whose median is taken, so that one outlier has no effect."""


class Sample(NamedTuple):
    """A worker when the service has written `lines` access log lines; memory in KiB."""

    lines: int
    rss: int
    pss: int
    descriptors: int
    threads: int


class WorkerSamples(NamedTuple):
    """Samples before, under and after the load, by process ID; the process IDs at the end; the duration in seconds."""

    before: dict[int, Sample]
    under_load: dict[int, list[Sample]]
    after: dict[int, Sample]
    at_end: list[int]
    seconds: float


class Trend(NamedTuple):
    """A worker's resident memory: KiB after the warm-up and at the end, growth in bytes per 1,000 access log lines."""

    after_warm_up: float
    at_end: float
    slope: float

    @property
    def growth(self) -> float:
        """Growth in KiB from the warm-up to the end."""
        return self.at_end - self.after_warm_up


class LineCounter:
    """Counts the lines of a growing file; reads each part only once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.lines = 0

    def count(self) -> int:
        """Return the current number of lines."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            while part := file.read(1 << 20):
                self.lines += part.count(b"\n")
            self._at = file.tell()
        return self.lines


def sample_worker(pid: int, lines: int) -> Sample:
    """Return a sample of a worker; raise FileNotFoundError if the process does not exist."""
    process = Path(f"/proc/{pid}")
    memory = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE))
    descriptors = len(list((process / "fd").iterdir()))
    threads = len(list((process / "task").iterdir()))
    return Sample(lines, int(memory["Rss"]), int(memory["Pss"]), descriptors, threads)


def sample_workers(workers: Sequence[int], lines: int) -> dict[int, Sample]:
    """Return a sample of each worker that still exists."""
    found = {}
    for pid in workers:
        with suppress(OSError):
            found[pid] = sample_worker(pid, lines)
    return found


def wait_until_idle(before: Mapping[int, Sample], lines: int) -> dict[int, Sample]:
    """Wait at most SETTLED seconds until no worker has more descriptors than before, and return the last samples."""
    end = time.monotonic() + SETTLED
    while True:
        time.sleep(INTERVAL)  # at least once, because a request may still run after its client disconnected
        after = sample_workers(list(before), lines)
        idle = all(one.descriptors <= before[pid].descriptors for pid, one in after.items())
        if idle or time.monotonic() > end:
            return after


def compute_trend(samples: Sequence[Sample]) -> Trend:
    """Return the trend of the memory after the warm-up; raise StatisticsError if there are too few samples."""
    counted = [one for one in samples if one.lines >= samples[-1].lines * WARM_UP]
    slope = statistics.linear_regression([one.lines for one in counted], [one.rss for one in counted]).slope
    first, end = counted[:EDGE], counted[-EDGE:]
    after, at_end = (statistics.median(one.rss for one in edge) for edge in (first, end))
    return Trend(after, at_end, slope * 1024 * 1000)
