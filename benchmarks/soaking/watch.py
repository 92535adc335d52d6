"""What the workers hold while the soak runs: memory, descriptors, threads."""

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

INTERVAL = 0.5
"""Seconds between two looks at the workers."""
SETTLED = 15
"""Seconds after the last request in which the workers must be idle again."""
WARM_UP = 0.1
"""The share of the lines that does not count, while memory is still taken for the first time."""
EDGE = 10
"""Samples at each edge whose median is taken, so that no single one decides."""


class Sample(NamedTuple):
    """A worker after so many access lines of the service; memory in KiB."""

    lines: int
    rss: int
    pss: int
    descriptors: int
    threads: int


class Watched(NamedTuple):
    """The workers before, while and after they were asked, by process ID; those that were there at the end; seconds."""

    before: dict[int, Sample]
    under_load: dict[int, list[Sample]]
    after: dict[int, Sample]
    at_end: list[int]
    seconds: float


class Trend(NamedTuple):
    """A worker's resident memory in KiB: after the warm-up, at the end, and bytes more for 1,000 access lines."""

    after_warm_up: float
    at_end: float
    slope: float

    @property
    def growth(self) -> float:
        """KiB more at the end."""
        return self.at_end - self.after_warm_up


class LineCounter:
    """Counts the lines of a file that grows, each part of it once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self.lines = 0

    def count(self) -> int:
        """Give the lines that the file has by now."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            while part := file.read(1 << 20):
                self.lines += part.count(b"\n")
            self._at = file.tell()
        return self.lines


def sample(pid: int, lines: int) -> Sample:
    """Look at a worker; raises FileNotFoundError when there is none."""
    process = Path(f"/proc/{pid}")
    memory = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE))
    descriptors = len(list((process / "fd").iterdir()))
    threads = len(list((process / "task").iterdir()))
    return Sample(lines, int(memory["Rss"]), int(memory["Pss"]), descriptors, threads)


def look(workers: Sequence[int], lines: int) -> dict[int, Sample]:
    """Look at each worker that is there."""
    found = {}
    for pid in workers:
        with suppress(OSError):
            found[pid] = sample(pid, lines)
    return found


def settled(before: Mapping[int, Sample], lines: int) -> dict[int, Sample]:
    """Wait until the workers hold no more descriptors than before, for SETTLED seconds at most, and look at them."""
    end = time.monotonic() + SETTLED
    while True:
        time.sleep(INTERVAL)  # at least once, since a client that has left is still worked for
        after = look(list(before), lines)
        idle = all(one.descriptors <= before[pid].descriptors for pid, one in after.items())
        if idle or time.monotonic() > end:
            return after


def trend(samples: Sequence[Sample]) -> Trend:
    """Give what the memory does after the warm-up; raises StatisticsError when there are too few samples."""
    counted = [one for one in samples if one.lines >= samples[-1].lines * WARM_UP]
    slope = statistics.linear_regression([one.lines for one in counted], [one.rss for one in counted]).slope
    first, end = counted[:EDGE], counted[-EDGE:]
    after, at_end = (statistics.median(one.rss for one in edge) for edge in (first, end))
    return Trend(after, at_end, slope * 1024 * 1000)
