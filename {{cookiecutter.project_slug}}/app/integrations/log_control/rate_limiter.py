"""Lets the first few of what repeats itself pass, and counts the others to the last one."""

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from time import monotonic
from typing import Final

Key = tuple[str, int, str, str]
"""What makes a kind: logger, level, text with the server or task it is about, error and where it was raised."""
MOST_KINDS: Final = 1000
"""More of them at a time, and the oldest is forgotten, its figure told: what differs is not repeated."""


class Kind:
    """One kind since its window began: how many passed and were held back, and two requests of these at most."""

    def __init__(self, began: float) -> None:
        self.began, self.passed, self.held, self.ids = began, 0, 0, list[str]()


class Thinning:
    """Lets `burst` of a kind pass in `window` seconds; of the rest the next to pass is told, else `report` is."""

    def __init__(self, burst: int, window: float, report: Callable[[Key, Kind], None]) -> None:
        self.burst, self.window, self.report = burst, window, report
        self.forget()

    def forget(self) -> None:
        """Begin anew, as after a fork: the figures are the parent's, and the lock may be held by no one here."""
        self.lock, self.kinds = RLock(), OrderedDict[Key, Kind]()  # reentrant: a destructor may log in the midst of it

    def admit(self, key: Key, request_id: str) -> int:
        """Return how many of the kind were held back before this one; -1: this one is as well."""
        gone, held, now = None, 0, monotonic()
        with self.lock:
            kind = self.kinds.get(key)
            if kind is None or now - kind.began >= self.window:
                held = self.kinds.pop(key).held if kind else 0
                gone = self.kinds.popitem(last=False) if len(self.kinds) >= MOST_KINDS else None
                kind = self.kinds[key] = Kind(now)
            if kind.passed < self.burst:
                kind.passed += 1
            else:
                kind.held, held = kind.held + 1, -1
                if request_id not in kind.ids and not kind.ids[1:]:
                    kind.ids.append(request_id)
        if gone and gone[1].held:
            self.report(*gone)
        return held

    def close(self, early: float = 0) -> None:
        """Report what is held back of kinds whose window has ended, or ends within `early` seconds."""
        with self.lock:
            end = monotonic() + early - self.window
            over = [(key, kind) for key, kind in self.kinds.items() if kind.held and kind.began <= end]
            for key, _ in over:
                del self.kinds[key]
        for key, kind in over:
            self.report(key, kind)
