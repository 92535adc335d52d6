"""Rate limiting of repeated log records, sampling by request, and alerts on errors."""

import logging
import os
import re
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import blake2b
from multiprocessing.util import Finalize, register_after_fork
from typing import Final, Literal

from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from app.common.constants import ACCESS_LOGGER, NO_REQUEST_ID
from app.common.context.observers import log_filters
from app.common.context.request_record import RequestRecord, current_record
from app.common.logs.filters import RepetitionFilter
from app.common.outbound import logger as outbound_logger
from app.common.request_id import logged_id
from app.environment import EnvironmentSettings, read_settings
from app.integrations.log_control.alerts import BYPASS, NAME, Alerts, hooks, post_to
from app.integrations.log_control.rate_limiter import Group, GroupKey, RateLimiter
from app.settings import Settings

URL: Final = r"^https?://([^\s/?#@]+@)?([\w.-]+|\[[\dA-Fa-f:.]+\])(:\d{1,5})?([/?][^\s#]*)?$"
ALL, OFF = 100, 1000
FLUSH_SECONDS: Final = 2.0
is_not_duplicate, digits = RepetitionFilter().filter, re.compile(r"\d+")
active_controls: list["Control"] = []


class SETTINGS(EnvironmentSettings, env_prefix="LOG_CONTROL_"):
    """Rate limit of log records, share of sampled requests, alerts."""

    burst: int = Field(10, ge=0, description="log records of a group, from WARNING up, written per window; 0: all")
    window: float = Field(10, gt=0, le=3600, description="length of a window in seconds")
    sample: float = Field(100, ge=0, le=100, description="percent of requests whose records below WARNING are written")
    alert_level: Literal["WARNING", "ERROR", "CRITICAL", "OFF"] = Field("ERROR", description="lowest level of alerts")
    alert_interval: float = Field(60, gt=0, le=86400, description="seconds between two alerts of one group")
    alert_url: str | None = Field(None, pattern=URL, repr=False, description="http(s) URL for alerts; empty: none")


class Control:
    """Decides which log records are written, and counts the others."""

    def __init__(self, settings: SETTINGS) -> None:
        self.sample, self.alert_level = settings.sample, logging.getLevelNamesMapping().get(settings.alert_level, OFF)
        self.limiter = RateLimiter(settings.burst, settings.window, write_suppressed)
        self.alerts = Alerts(settings.alert_interval, self.limiter)

    def should_write(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written: below WARNING by sampling, from WARNING up by the rate limit."""
        if record.levelno < logging.WARNING:
            return self.sample == ALL or self.is_sampled(record)
        return not is_not_duplicate(record) or self.admit(record)

    def is_sampled(self, record: logging.LogRecord) -> bool:
        """Return whether the record's request is sampled; its ID decides, so all records and processes agree."""
        request = getattr(record, "request", None)
        if isinstance(request, RequestRecord) and (request.status >= 400 or request.flags or request.failed):  # noqa: PLR2004
            return True  # the access log record of a failed or flagged request
        return percentile(id_of(record)) < self.sample

    def admit(self, record: logging.LogRecord) -> bool:
        """Return whether a record is within the rate limit; add the suppressed count to it, and send its alert."""
        key, request_id = group_key(record), id_of(record)
        alerted = 0
        if record.levelno >= self.alert_level and record.threadName != NAME:
            alerted = self.alerts.limiter.admit(key, request_id)
            if alerted >= 0:
                self.alerts.send(key, message_of(record, key), request_id, alerted + 1)
        suppressed = self.limiter.admit(key, request_id) if self.limiter.burst else 0
        if suppressed > 0:
            vars(record).update(suppressed_fields(suppressed, record))
        elif suppressed < 0 or alerted < 0:
            self.alerts.start_thread()
        return suppressed >= 0


def suppressed_fields(count: int, record: object = None) -> dict[str, object]:
    """Return the attributes that show, in JSON and in text, how many records were suppressed before this one."""
    return {"suppressed": count, "ids_suffix": f"{getattr(record, 'ids_suffix', '')} suppressed={count}"}


def write_suppressed(key: GroupKey, group: Group) -> None:
    """Write a record with the number of suppressed ones; it has their request ID if all are of one request.

    It goes to the handlers directly: code that counts records or reports errors has seen each suppressed one already.
    """
    request_id = logged_id(group.request_ids[0]) if len(group.request_ids) == 1 else NO_REQUEST_ID
    source = {"name": key[0], "levelno": key[1], "levelname": logging.getLevelName(key[1]), "filename": NAME}
    content = {"msg": "Repeated: %s", "args": (key[2],), "request_id": request_id}
    record = logging.makeLogRecord({**source, **content, **suppressed_fields(group.suppressed), **BYPASS})
    logger: logging.Logger | None = logging.getLogger(key[0])
    while logger:
        for handler in logger.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
        logger = logger.parent if logger.propagate else None


def group_key(record: logging.LogRecord) -> GroupKey:
    """Return what a record shares with its repetitions, without calling `str()` or `==` of a logged object."""
    text, args = record.msg, record.args
    if isinstance(text, str) and text == "%s" and isinstance(args, tuple) and args:
        text, args = args[0], ()
    text = text[:200] if isinstance(text, str) else type(text).__name__
    name = getattr(record, "server", getattr(record, "task", None))  # servers (or tasks) can share a template
    suffix = f" ({name[:64]})" if isinstance(name, str) else ""
    return record.name, record.levelno, (text if args else digits.sub("#", text)) + suffix, error_origin(record)


def error_origin(record: logging.LogRecord) -> str:
    """Return the type of the record's error, and the file and line that raised it; empty without a traceback."""
    _, error, trace = record.exc_info or (None, None, None)
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{type(error).__name__} {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""


def message_of(record: logging.LogRecord, key: GroupKey) -> str:
    """Return the message, truncated to 1,000 characters, or the group's text if it cannot be formatted."""
    with suppress(Exception):
        return record.getMessage()[:1000]
    return key[2]


def id_of(record: logging.LogRecord) -> str:
    """Return the record's request ID, truncated to LOG_ID_LENGTH unless it is that of the current request."""
    current, stamped = current_record.get(), getattr(record, "request_id", NO_REQUEST_ID)
    stamped = stamped if isinstance(stamped, str) else NO_REQUEST_ID
    return current.request_id if current and logged_id(current.request_id) == stamped else stamped


@lru_cache(1024)
def percentile(request_id: str) -> float:
    """Return the position of an ID from 0 to 100, evenly distributed; -1 outside of a request: always written."""
    number = int.from_bytes(blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest())
    return -1.0 if request_id == NO_REQUEST_ID else number / 2**64 * 100


def is_not_from_alert_thread(record: logging.LogRecord) -> bool:
    """Drop the outbound client's records of alerts: the URL's path may be a secret, and `Alerts` logs failures."""
    return record.threadName != NAME


def observe(*_: object) -> None:
    """Install rate limit, sampling and alerts in this process; those of an earlier call are removed."""
    settings, access = read_settings(SETTINGS), logging.getLogger(ACCESS_LOGGER)
    flush()
    for old in active_controls:
        access.removeFilter(old.is_sampled)
    active_controls[:] = [control := Control(settings)]
    log_filters[NAME] = control.should_write
    if settings.sample < ALL:
        access.addFilter(control.is_sampled)
    hooks.pop("url", None)
    if settings.alert_url:
        outbound_logger.addFilter(is_not_from_alert_thread)
        hooks["url"] = partial(post_to, settings.alert_url)
    Finalize(None, flush, exitpriority=0)
    register_after_fork(control, lambda _: Finalize(None, flush, exitpriority=0))  # multiprocessing clears the parent's


install = observe


def wrap(app: ASGIApp, _settings: Settings) -> ASGIApp:
    """Return the application with a flush after its lifespan: a process that a signal ends runs no exit handlers."""

    async def flush_after_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["type"] == "lifespan":
            flush()

    return flush_after_lifespan


def flush() -> None:
    """Report suppressed records, and wait up to two seconds until alerts are delivered."""
    for control in active_controls:
        control.alerts.stop(FLUSH_SECONDS)


def reset() -> None:
    """Reset the counts in a forked child; the parent reports its own."""
    for control in active_controls:
        for part in (control.limiter, control.alerts.limiter, control.alerts):
            part.reset()


os.register_at_fork(after_in_child=reset)
