"""Measure how fast the machine is now, to scale time limits on a slow or busy one."""

import time

REFERENCE_SECONDS = 0.0040
"""The duration of `_work` on an idle core of the machine for which the time limits were chosen (Python 3.11)."""


def _work() -> float:
    """Count in a loop, and return its duration in seconds of wall-clock time, which is longer on a busy machine."""
    began = time.perf_counter()
    number = 0
    while number < 100_000:
        number += 1
    return time.perf_counter() - began


def slowness() -> float:
    """Return how many times slower than the reference machine this one is now; at least 1."""
    return max(1.0, sorted(_work() for _ in range(5))[2] / REFERENCE_SECONDS)


def scaled(seconds: float) -> float:
    """Scale a time limit that was chosen for the reference machine to this one."""
    return seconds * slowness()
