"""Fewer lines, and none uncounted: repeated ones thinned, requests sampled as a whole, alerts on errors."""

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
from app.integrations.log_control.alerts import NAME, OURS, Alerts, hooks, post_to
from app.integrations.log_control.thinning import Key, Kind, Thinning
from app.settings import Settings

URL: Final = r"^https?://([^\s/?#@]+@)?([\w.-]+|\[[\dA-Fa-f:.]+\])(:\d{1,5})?([/?][^\s#]*)?$"
ALL, OFF = 100, 1000
END_SECONDS: Final = 2.0
is_new, digits = RepetitionFilter().filter, re.compile(r"\d+")
in_force: list["Control"] = []


class SETTINGS(EnvironmentSettings, env_prefix="LOG_CONTROL_"):
    """What is thinned, what is sampled, and who is told of errors."""

    burst: int = Field(10, ge=0, description="lines of a kind, from WARNING up, that are written in a window; 0: all")
    window: float = Field(10, gt=0, le=3600, description="seconds of a window")
    sample: float = Field(100, ge=0, le=100, description="percent of the requests that keep their lines below WARNING")
    alert_level: Literal["WARNING", "ERROR", "CRITICAL", "OFF"] = Field("ERROR", description="lowest level of alerts")
    alert_interval: float = Field(60, gt=0, le=86400, description="seconds between two alerts of one kind")
    alert_url: str | None = Field(None, pattern=URL, repr=False, description="http(s) URL for alerts; empty: none")


class Control:
    """Decides which records become lines, and counts the others."""

    def __init__(self, own: SETTINGS) -> None:
        self.sample, self.alert_level = own.sample, logging.getLevelNamesMapping().get(own.alert_level, OFF)
        self.lines = Thinning(own.burst, own.window, close_kind)
        self.alerts = Alerts(own.alert_interval, self.lines)

    def passes(self, line: logging.LogRecord) -> bool:
        """Decide on a record; from WARNING up it is counted."""
        if line.levelno < logging.WARNING:
            return self.sample == ALL or self.keeps(line)
        return not is_new(line) or self.counts(line)

    def keeps(self, line: logging.LogRecord) -> bool:
        """Tell whether its request keeps such lines: by its ID, hence all of them or none, in each process alike."""
        request = getattr(line, "request", None)
        if isinstance(request, RequestRecord) and (request.status >= 400 or request.flags or request.failed):  # noqa: PLR2004
            return True
        return percentile(id_of(line)) < self.sample

    def counts(self, line: logging.LogRecord) -> bool:
        """Count a record for the alerts and for the lines; one that passes may tell how many before it did not."""
        key, request_id = kind_of(line), id_of(line)
        alerted = 0
        if line.levelno >= self.alert_level and line.threadName != NAME:
            alerted = self.alerts.kinds.admit(key, request_id)
            if alerted >= 0:
                self.alerts.tell(key, message_of(line, key), request_id, alerted + 1)
        held = self.lines.admit(key, request_id) if self.lines.burst else 0
        if held > 0:
            vars(line).update(suppressed(held, line))
        elif held < 0 or alerted < 0:
            self.alerts.wake()
        return held >= 0


def suppressed(count: int, line: object = None) -> dict[str, object]:
    """Return what a line has that tells how many before it were held back, in JSON and in text."""
    return {"suppressed": count, "ids_suffix": f"{getattr(line, 'ids_suffix', '')} suppressed={count}"}


def close_kind(key: Key, kind: Kind) -> None:
    """Write a line for those that no other will tell of; it has the ID of their request if they are of a single one.

    Given to the handlers alone: whoever counts records, or sends errors elsewhere, has seen each of them already.
    """
    request_id = logged_id(kind.ids[0]) if len(kind.ids) == 1 else NO_REQUEST_ID
    about = {"name": key[0], "levelno": key[1], "levelname": logging.getLevelName(key[1]), "filename": NAME}
    what = {"msg": "Repeated: %s", "args": (key[2],), "request_id": request_id}
    line = logging.makeLogRecord({**about, **what, **suppressed(kind.held), **OURS})
    logger: logging.Logger | None = logging.getLogger(key[0])
    while logger:
        for handler in logger.handlers:
            if line.levelno >= handler.level:
                handler.handle(line)
        logger = logger.parent if logger.propagate else None


def kind_of(line: logging.LogRecord) -> Key:
    """Return what a record has in common with its repetitions; none of it runs what others wrote."""
    text, args = line.msg, line.args
    if isinstance(text, str) and text == "%s" and isinstance(args, tuple) and args:
        text, args = args[0], ()
    text = text[:200] if isinstance(text, str) else type(text).__name__
    about = getattr(line, "server", getattr(line, "task", None))  # whose names differ where templates do not
    about = f" ({about[:64]})" if isinstance(about, str) else ""
    return line.name, line.levelno, (text if args else digits.sub("#", text)) + about, place_of(line)


def place_of(line: logging.LogRecord) -> str:
    """Return the error that a record tells of, and the line that has raised it."""
    _, error, trace = line.exc_info or (None, None, None)
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{type(error).__name__} {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""


def message_of(line: logging.LogRecord, key: Key) -> str:
    """Return the message, of bounded length; of a call whose arguments do not fit, its kind."""
    with suppress(Exception):
        return line.getMessage()[:1000]
    return key[2]


def id_of(line: logging.LogRecord) -> str:
    """Return the ID of the request that a record is about; the whole of it unless it runs elsewhere."""
    work, stamped = current_record.get(), getattr(line, "request_id", NO_REQUEST_ID)
    stamped = stamped if isinstance(stamped, str) else NO_REQUEST_ID
    return work.request_id if work and logged_id(work.request_id) == stamped else stamped


@lru_cache(1024)
def percentile(request_id: str) -> float:
    """Return where an ID stands from 0 to 100, evenly spread; what is outside of any request comes before all."""
    number = int.from_bytes(blake2b(request_id.encode("utf-8", "replace"), digest_size=8).digest())
    return -1.0 if request_id == NO_REQUEST_ID else number / 2**64 * 100


def is_not_ours(line: logging.LogRecord) -> bool:
    """Keep out what the client says of an alert's address, in whose path secrets may be; failures are told once."""
    return line.threadName != NAME


def observe(*_: object) -> None:
    """Decide from now on which records of this process become lines."""
    own, access = read_settings(SETTINGS), logging.getLogger(ACCESS_LOGGER)
    end()
    for old in in_force:
        access.removeFilter(old.keeps)
    in_force[:] = [control := Control(own)]
    log_filters[NAME] = control.passes
    if own.sample < ALL:
        access.addFilter(control.keeps)
    hooks.pop("url", None)
    if own.alert_url:
        outbound_logger.addFilter(is_not_ours)
        hooks["url"] = partial(post_to, own.alert_url)
    Finalize(None, end, exitpriority=0)
    register_after_fork(control, lambda _: Finalize(None, end, exitpriority=0))  # a child forgets those of its parent


install = observe


def wrap(app: ASGIApp, _settings: Settings) -> ASGIApp:
    """Tell what is held back when the application ends, as a process that a signal ends has no other end."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["type"] == "lifespan":
            end()

    return told


def end() -> None:
    """Tell what is held back, and wait for alerts to be delivered, two seconds at most."""
    for control in in_force:
        control.alerts.stop(END_SECONDS)


def forget() -> None:
    """Leave to the parent of a forked process what it has counted."""
    for control in in_force:
        for one in (control.lines, control.alerts.kinds, control.alerts):
            one.forget()


os.register_at_fork(after_in_child=forget)
