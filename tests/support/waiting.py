"""The one way in which tests and benchmarks wait: for a condition, and with a name for what did not come."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.speed import slowness

T = TypeVar("T")
PATIENCE = 30.0
INTERVAL = 0.02


def wait_for(look: Callable[[], T], what: str, seconds: float = PATIENCE, interval: float = INTERVAL) -> T:
    """Call `look` until it returns something true, and return that.

    `seconds` is how long to wait on a fast, idle machine; a slow one gets more. It bounds a failure, not a promise.
    Raises AssertionError that names `what`, and whatever `look` raises.
    """
    began = time.monotonic()
    factor = 1.0
    while not (seen := look()):
        if time.monotonic() - began > seconds * factor:
            factor, former = max(factor, slowness()), factor
            assert factor > former, f"{what} did not come within {seconds * factor:.0f} s"
        time.sleep(interval)
    return seen
