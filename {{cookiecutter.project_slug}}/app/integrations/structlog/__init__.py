"""structlog beside standard logging: its events become records of the standard logger, and so the service's lines."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any, Final

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars
from structlog.stdlib import LoggerFactory, PositionalArgumentsFormatter, filter_by_level
from structlog.typing import EventDict, WrappedLogger

from app.common.context.observers import log_fields, task_observers
from app.common.context.request_record import RequestRecord, current_record
from app.common.logs.extra import safe, shown, with_values
from app.common.task_record import TaskRecord
from app.settings import Settings

OF_LOGGING: Final = ("exc_info", "stack_info", "stacklevel")


def install(_app: FastAPI, settings: Settings) -> None:
    """Hand over what structlog is told."""
    observe(settings)


def observe(_settings: Settings) -> None:
    """Hand it over to standard logging, in this process, and show what is bound in each line."""
    log_fields["structlog"], task_observers["structlog"] = bound, nothing_bound
    structlog.configure(
        processors=[filter_by_level, PositionalArgumentsFormatter(), hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=StandardLoggers(),
        cache_logger_on_first_use=True,
    )


def wrap(app: ASGIApp, _settings: Settings) -> ASGIApp:
    """Begin each request with nothing bound; what it binds stays for its last lines, as the server's task ends then."""

    async def unbound(scope: Scope, receive: Receive, send: Send) -> None:
        record = current_record.get()
        with nothing_bound(record) if record else nullcontext():
            await app(scope, receive, send)

    return unbound


@contextmanager
def nothing_bound(record: RequestRecord) -> Iterator[None]:
    """Begin with nothing bound; give it back to whoever goes on here: another task, or who has called this one."""
    before = get_contextvars()
    clear_contextvars()
    try:
        yield
    finally:
        if record.outer is not None or isinstance(record, TaskRecord):
            clear_contextvars()
            bind_contextvars(**before)


class StandardLoggers(LoggerFactory):
    """Gives standard loggers whose lines have the file and the line of who has called structlog."""

    def __init__(self) -> None:
        before = logging.getLoggerClass()
        super().__init__(["app.integrations.structlog"])
        self.find_caller = logging.getLoggerClass().findCaller
        logging.setLoggerClass(before)  # theirs would be for every logger, but only for those that are made later

    def __call__(self, *args: Any) -> logging.Logger:  # noqa: ANN401 - structlog's
        """Return the logger with the name that was asked for, else with that of the calling module."""
        logger = super().__call__(*args)
        logger.findCaller = MethodType(self.find_caller, logger)  # type: ignore[method-assign]
        return logger


def hand_over(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return what the logger's method is called with; in a text line the values stand behind the message."""
    options = {name: event.pop(name) for name in OF_LOGGING if name in event}
    message, values = with_values(str(event.pop("event", "")), event)
    return {"msg": message, "extra": values, **options}


def bound() -> Mapping[str, object]:
    """Return what `bind_contextvars` has bound here, for every line, whoever writes it."""
    values = get_contextvars()
    return {name: shown(value) for name, value in safe(values).items()} if values else {}
