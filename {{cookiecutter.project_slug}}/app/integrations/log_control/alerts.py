"""Alerts on errors: log records, calls of the functions in `hooks`, and POST requests to a URL."""

import logging
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from time import monotonic, time
from typing import Final, NamedTuple

from app.common.context.observers import log_filters
from app.common.logs.formatters import iso_clock
from app.common.outbound import outbound_client
from app.common.redaction import redact
from app.environment import project_metadata
from app.integrations.log_control.rate_limiter import GroupKey, RateLimiter
from app.settings import get_settings

NAME: Final = "log_control"
BYPASS: Final = {"passes_filters": True}  # `extra` of records that the log filters must not suppress
MAX_QUEUED, POST_SECONDS, LOST_LOG_INTERVAL = 100, 3.0, 60.0
log = logging.getLogger("app.alert")


class Alert(NamedTuple):
    """What hooks receive: an alert about `times` records; `request_id` belongs to one of them, usually the first."""

    time: str
    service: str
    logger: str
    level: str
    message: str
    request_id: str
    times: int


hooks: Final[dict[str, Callable[[Alert], object]]] = {}
"""Functions that receive each alert, by name. They run in the alert thread; what they log there raises no alert."""


class Alerts:
    """Raises an alert for the first record of a group, then at most one every `interval` seconds for those after it."""

    def __init__(self, interval: float, log_limiter: RateLimiter) -> None:
        self.limiter = RateLimiter(1, interval, lambda key, g: self.send(key, key[2], g.request_ids[0], g.suppressed))
        self.log_limiter, self.poll_seconds = log_limiter, max(min(interval, log_limiter.window, 10) / 10, 0.05)
        self.reset()

    def reset(self) -> None:
        """Drop all state, also after a fork, which copies no thread."""
        self.lock, self.queue, self.thread = RLock(), SimpleQueue[Alert | None](), Thread()
        self.lost, self.reason, self.silent_until = 0, "", 0.0

    def send(self, key: GroupKey, message: str, request_id: str, times: int) -> None:
        """Queue an alert for the hooks; also log it if it is about more than one record."""
        level, service = logging.getLevelName(key[1]), project_metadata().get("name", "service")
        message = redact(message)
        alert = Alert(iso_clock.format(time()), service, key[0], level, message, request_id, times)
        if times > 1:
            log.warning("%d %s records of %s, first in %s: %s", times, level, key[0], request_id, message, extra=BYPASS)
        if hooks and self.queue.qsize() < MAX_QUEUED:
            self.queue.put(alert)
            self.start_thread()
        elif hooks:
            self._count_lost(1, "the queue is full")

    def start_thread(self) -> None:
        """Start the alert thread unless it is running."""
        with self.lock, suppress(RuntimeError):  # during interpreter shutdown no thread can start; `stop` follows
            if not self.thread.is_alive():
                self.thread = Thread(target=self._run, args=(self.queue,), name=NAME, daemon=True)
                self.thread.start()

    def _run(self, queue: SimpleQueue[Alert | None]) -> None:
        while queue is self.queue and NAME in log_filters:
            with suppress(Empty):
                if (alert := queue.get(timeout=self.poll_seconds)) is None:
                    return
                self._deliver(alert)
            self._log_lost(immediately=False)
            self.log_limiter.report_expired()
            self.limiter.report_expired()

    def _deliver(self, alert: Alert) -> None:
        for name, hook in list(hooks.items()):
            try:
                hook(alert)
            except Exception as error:
                self._count_lost(1, f"{name}: {error!r}")

    def _count_lost(self, count: int, reason: str) -> None:
        with self.lock:
            self.lost, self.reason = self.lost + count, reason

    def _log_lost(self, *, immediately: bool) -> None:
        with self.lock:
            if not self.lost or (monotonic() < self.silent_until and not immediately):
                return
            lost, self.lost, self.silent_until = self.lost, 0, monotonic() + LOST_LOG_INTERVAL
        log.warning("%d alerts were lost: %s", lost, self.reason, extra=BYPASS)

    def stop(self, seconds: float) -> None:
        """Report all suppressed records, and wait up to `seconds` for the thread, but not again if a hook hangs."""
        if NAME in log_filters:
            self.log_limiter.report_expired(self.log_limiter.window)
            self.limiter.report_expired(self.limiter.window)
        if self.thread.is_alive():
            self.queue.put(None)
            self.thread.join(seconds)
        if (undelivered := self.queue.qsize() - self.thread.is_alive()) > 0:  # if a hook hangs, None stays queued
            self._count_lost(undelivered, "the process exits")
        self.queue, self.thread = SimpleQueue(), Thread()
        self._log_lost(immediately=True)


def post_to(url: str, alert: Alert) -> None:
    """Post an alert as JSON; raise what httpx2 raises, and OSError for a response status other than 2xx."""
    with outbound_client(get_settings(), timeout=POST_SECONDS) as client:
        status = client.post(url, json=alert._asdict()).status_code
    if not 200 <= status < 300:  # noqa: PLR2004
        raise OSError(f"response status {status}")
