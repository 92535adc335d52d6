"""How fast this machine is now, so that a bound in seconds means the same on a slow or busy one."""

import time

REFERENCE_SECONDS = 0.0040
"""What `_work` takes on an idle core of the machine on which the bounds were chosen (Python 3.11)."""


def _work() -> float:
    """Count in a loop, and return the seconds of real time that it took: a busy machine counts as a slow one."""
    began = time.perf_counter()
    number = 0
    while number < 100_000:
        number += 1
    return time.perf_counter() - began


def slowness() -> float:
    """Measure how many times slower than the reference this machine is now; at least 1."""
    return max(1.0, sorted(_work() for _ in range(5))[2] / REFERENCE_SECONDS)


def scaled(seconds: float) -> float:
    """Return a bound that was chosen on the reference machine, in seconds of this one."""
    return seconds * slowness()
