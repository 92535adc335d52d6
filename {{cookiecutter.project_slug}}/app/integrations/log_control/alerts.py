"""Alerts on errors: to a line, to functions of yours in `hooks`, to an address."""

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
from app.integrations.log_control.thinning import Key, Thinning
from app.settings import get_settings

NAME: Final = "log_control"
OURS: Final = {"passes_filters": True}
MOST_WAITING, POST_SECONDS, SILENCE = 100, 3.0, 60.0
log = logging.getLogger("app.alert")


class Alert(NamedTuple):
    """What hooks get; `times`: how many records it stands for, `request_id`: of the first of them."""

    time: str
    service: str
    logger: str
    level: str
    message: str
    request_id: str
    times: int


hooks: Final[dict[str, Callable[[Alert], object]]] = {}
"""Who is told, under names of yours; in a thread of its own, in which no record raises an alert."""


class Alerts:
    """One alert for the first of a kind, one for all that follow within `interval` seconds, and so on."""

    def __init__(self, interval: float, lines: Thinning) -> None:
        self.kinds = Thinning(1, interval, lambda key, kind: self.tell(key, key[2], kind.ids[0], kind.held))
        self.lines, self.pause = lines, max(min(interval, lines.window, 10) / 10, 0.05)
        self.forget()

    def forget(self) -> None:
        """Begin anew, as after a fork, where there is no thread."""
        self.lock, self.waiting, self.thread = RLock(), SimpleQueue[Alert | None](), Thread()
        self.lost, self.reason, self.silent_until = 0, "", 0.0

    def tell(self, key: Key, message: str, request_id: str, times: int) -> None:
        """Give an alert to the hooks; where it stands for more than one record, it is a line of its own as well."""
        level, service = logging.getLevelName(key[1]), project_metadata().get("name", "service")
        message = redact(message)
        alert = Alert(iso_clock.format(time()), service, key[0], level, message, request_id, times)
        if times > 1:
            log.warning("%d times %s of %s, first in %s: %s", times, level, key[0], request_id, message, extra=OURS)
        if hooks and self.waiting.qsize() < MOST_WAITING:
            self.waiting.put(alert)
            self.wake()
        elif hooks:
            self._lose(1, "too many wait")

    def wake(self) -> None:
        """Start the thread unless it runs."""
        with self.lock, suppress(RuntimeError):  # it cannot start while the process ends, which calls `stop`
            if not self.thread.is_alive():
                self.thread = Thread(target=self._work, args=(self.waiting,), name=NAME, daemon=True)
                self.thread.start()

    def _work(self, waiting: SimpleQueue[Alert | None]) -> None:
        while waiting is self.waiting and NAME in log_filters:
            with suppress(Empty):
                if (alert := waiting.get(timeout=self.pause)) is None:
                    return
                self._deliver(alert)
            self._tell_lost(at_once=False)
            self.lines.close()
            self.kinds.close()

    def _deliver(self, alert: Alert) -> None:
        for name, hook in list(hooks.items()):
            try:
                hook(alert)
            except Exception as error:
                self._lose(1, f"{name}: {error!r}")

    def _lose(self, count: int, reason: str) -> None:
        with self.lock:
            self.lost, self.reason = self.lost + count, reason

    def _tell_lost(self, *, at_once: bool) -> None:
        with self.lock:
            if not self.lost or (monotonic() < self.silent_until and not at_once):
                return
            lost, self.lost, self.silent_until = self.lost, 0, monotonic() + SILENCE
        log.warning("%d alerts are lost; %s", lost, self.reason, extra=OURS)

    def stop(self, seconds: float) -> None:
        """Tell what is held back, and wait so long for the thread, but only once for a hook that hangs."""
        if NAME in log_filters:
            self.lines.close(self.lines.window)
            self.kinds.close(self.kinds.window)
        if self.thread.is_alive():
            self.waiting.put(None)
            self.thread.join(seconds)
        if (left := self.waiting.qsize() - self.thread.is_alive()) > 0:  # of a hook that hangs the last is None
            self._lose(left, "the process ends")
        self.waiting, self.thread = SimpleQueue(), Thread()
        self._tell_lost(at_once=True)


def post_to(url: str, alert: Alert) -> None:
    """Post an alert as JSON; raises what httpx2 raises, and OSError for an answer that is none of success."""
    with outbound_client(get_settings(), timeout=POST_SECONDS) as client:
        status = client.post(url, json=alert._asdict()).status_code
    if not 200 <= status < 300:  # noqa: PLR2004
        raise OSError(f"answer {status}")
