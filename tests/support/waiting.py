"""Wait for a condition, with a timeout that is scaled to the speed of the machine."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.speed import slowness

T = TypeVar("T")
TIMEOUT_SECONDS = 30.0
INTERVAL = 0.02


def wait_for(condition: Callable[[], T], what: str, seconds: float = TIMEOUT_SECONDS, interval: float = INTERVAL) -> T:
    """Call `condition` until it returns a true value, and return the value.

    `seconds` is the timeout on a fast, idle machine; it is longer on a slow one. It only limits how long a failure
    takes: to test a time limit, measure the time and compare it with `scaled()`.
    Raises AssertionError with `what` after the timeout, and any exception of `condition`.
    """
    began = time.monotonic()
    factor = 1.0
    while not (value := condition()):
        if time.monotonic() - began > seconds * factor:
            factor, former = max(factor, slowness()), factor
            assert factor > former, f"timeout after {seconds * factor:.0f} s: {what}"
        time.sleep(interval)
    return value
