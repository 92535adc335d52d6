"""structlog beside standard logging: its events become log records of the standard logger with the same name."""

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
from app.common.logs.extra import format_value, rename_reserved, with_values
from app.common.task_record import TaskRecord
from app.settings import Settings

LOGGING_OPTIONS: Final = ("exc_info", "stack_info", "stacklevel")


def install(_app: FastAPI, settings: Settings) -> None:
    """Configure structlog for the service."""
    observe(settings)


def observe(_settings: Settings) -> None:
    """Configure structlog in this process: it logs through standard logging, and every record has the bound values."""
    log_fields["structlog"], task_observers["structlog"] = bound_values, without_bound_values
    structlog.configure(
        processors=[filter_by_level, PositionalArgumentsFormatter(), to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=StandardLoggerFactory(),
        cache_logger_on_first_use=True,
    )


def wrap(app: ASGIApp, _settings: Settings) -> ASGIApp:
    """Clear the bound values at the start of each request, but not at its end: the access log line needs them."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        record = current_record.get()
        with without_bound_values(record) if record else nullcontext():
            await app(scope, receive, send)

    return middleware


@contextmanager
def without_bound_values(record: RequestRecord) -> Iterator[None]:
    """Clear the bound values; restore them only where the context lives on: after a task or an in-process request."""
    before = get_contextvars()
    clear_contextvars()
    try:
        yield
    finally:
        if record.outer is not None or isinstance(record, TaskRecord):
            clear_contextvars()
            bind_contextvars(**before)


class StandardLoggerFactory(LoggerFactory):
    """Returns standard loggers whose records have the file and the line number of the code that calls structlog."""

    def __init__(self) -> None:
        before = logging.getLoggerClass()
        super().__init__(["app.integrations.structlog"])
        self.find_caller = logging.getLoggerClass().findCaller
        logging.setLoggerClass(before)  # structlog would replace the class of every logger that is created later

    def __call__(self, *args: Any) -> logging.Logger:  # noqa: ANN401 - structlog's
        """Return the logger of the given name, by default that of the calling module."""
        logger = super().__call__(*args)
        logger.findCaller = MethodType(self.find_caller, logger)  # type: ignore[method-assign]
        return logger


def to_log_kwargs(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return the arguments for the logger's method; in the text format, the values are appended to the message."""
    options = {name: event.pop(name) for name in LOGGING_OPTIONS if name in event}
    message, values = with_values(str(event.pop("event", "")), event)
    return {"msg": message, "extra": values, **options}


def bound_values() -> Mapping[str, object]:
    """Return the values of `bind_contextvars` in this context, for the log records of every logger."""
    values = get_contextvars()
    return {name: format_value(value) for name, value in rename_reserved(values).items()} if values else {}
