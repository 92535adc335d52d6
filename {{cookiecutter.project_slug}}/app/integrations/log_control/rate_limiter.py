"""Rate limiting of repeated log records: the first of each group are admitted, the others are counted exactly."""

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from time import monotonic
from typing import Final

GroupKey = tuple[str, int, str, str]
"""What the records of a group share: logger, level, text (with server or task), error with its origin."""
MAX_GROUPS: Final = 1000
"""Limit of tracked groups. One more evicts the oldest and reports its count, so records that all differ are written."""


class Group:
    """The records of one group in the current window: two counts, and at most two request IDs of suppressed ones."""

    def __init__(self, started: float) -> None:
        self.started, self.admitted, self.suppressed, self.request_ids = started, 0, 0, list[str]()


class RateLimiter:
    """Admits `burst` records per group in `window` seconds; counts that no admitted record carries go to `report`."""

    def __init__(self, burst: int, window: float, report: Callable[[GroupKey, Group], None]) -> None:
        self.burst, self.window, self.report = burst, window, report
        self.reset()

    def reset(self) -> None:
        """Drop all groups, also after a fork: the counts are the parent's, and the copied lock may be held forever."""
        self.lock, self.groups = RLock(), OrderedDict[GroupKey, Group]()  # reentrant: a destructor may log at any time

    def admit(self, key: GroupKey, request_id: str) -> int:
        """Return how many records of the group were suppressed before this one, or -1 if this one is suppressed."""
        evicted, suppressed, now = None, 0, monotonic()
        with self.lock:
            group = self.groups.get(key)
            if group is None or now - group.started >= self.window:
                suppressed = self.groups.pop(key).suppressed if group else 0
                evicted = self.groups.popitem(last=False) if len(self.groups) >= MAX_GROUPS else None
                group = self.groups[key] = Group(now)
            if group.admitted < self.burst:
                group.admitted += 1
            else:
                group.suppressed, suppressed = group.suppressed + 1, -1
                if request_id not in group.request_ids and not group.request_ids[1:]:
                    group.request_ids.append(request_id)
        if evicted and evicted[1].suppressed:
            self.report(*evicted)
        return suppressed

    def report_expired(self, early: float = 0) -> None:
        """Report and drop groups with suppressed records whose window has ended, or ends within `early` seconds."""
        with self.lock:
            latest_start = monotonic() + early - self.window
            expired = [(key, one) for key, one in self.groups.items() if one.suppressed and one.started <= latest_start]
            for key, _ in expired:
                del self.groups[key]
        for key, group in expired:
            self.report(key, group)
