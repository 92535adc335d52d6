"""The steps of a request as callables, for `hot_loops.py`; imported in the service's environment."""

import logging
import os
import uuid
from collections.abc import Awaitable, Callable

from app.common.context.request_record import RequestRecord, current_record
from app.common.log_handler import RequestLogHandler
from app.common.logs.access import AccessRecord, logger, write_access_line
from app.common.logs.handlers import LogFileHandler
from app.common.middlewares import ContextMiddleware
from app.common.request_id import RequestIdPlugin, new_request_id
from app.common.response import Response
from app.settings import get_settings
from in_process import START, Cycle, new_scope, trivial
from pydantic import BaseModel, TypeAdapter
from starlette.types import Receive, Scope, Send
from starlette_context import _request_scope_context_storage as context_storage

ID = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
Ingredients = dict[str, Callable[[], object]]
"""Callables by the name that the results page shows."""


class FixedFormatter(logging.Formatter):
    """Returns the same preformatted line for every record."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line

    def format(self, _record: logging.LogRecord) -> str:
        """Return the line."""
        return self.line


class PlainEnvelope(BaseModel):
    """The response envelope with a constant ID, without looking up the current one."""

    code: int = 0
    message: str = "success"
    cause: str = ""
    request_id: str = ID
    result: str | None = None


def run_to_completion(awaitable: Awaitable[object]) -> None:
    """Run an awaitable without an event loop; raise RuntimeError if it suspends."""
    for _ in awaitable.__await__():
        raise RuntimeError("The awaitable suspended; it must complete without an event loop.")


def finished_request() -> RequestRecord:
    """Return the record of a completed request."""
    record = RequestRecord(ID, new_scope())
    record.status, record.bytes_sent, record.duration = 200, 94, 0.001
    return record


def request_ids() -> Ingredients:
    """Return the generation of an ID, two alternatives to it, and the validation of an incoming ID."""
    plugin, incoming = RequestIdPlugin(), [ID.encode()]
    return {
        "ID: `new_request_id()`": new_request_id,
        "ID: `str(uuid.uuid4())`": lambda: str(uuid.uuid4()),
        "ID: `os.urandom(16).hex()`": lambda: os.urandom(16).hex(),
        "ID: incoming ID, validated and accepted": lambda: plugin.choose(incoming, from_proxy=False),
    }


def context() -> Ingredients:
    """Return the creation of a request record, and the setting of both context variables that lead to it."""
    scope, record = new_scope(), finished_request()

    def publish() -> None:
        current_record.set(record)
        context_storage.set(record.context)

    return {
        "record: create `RequestRecord`": lambda: RequestRecord(ID, scope),
        "context: set both context variables": publish,
    }


def header() -> Ingredients:
    """Return the sending of a response start, through the middleware's `send` and directly through the server's."""
    cycle = Cycle()
    sends: list[Send] = []

    async def capture(scope: Scope, receive: Receive, send: Send) -> None:
        sends.append(send)
        await trivial(scope, receive, send)

    run_to_completion(ContextMiddleware(capture)(new_scope(), cycle.receive, cycle.send))
    return {
        "header: response start, passed on with the ID": lambda: run_to_completion(sends[0](START)),
        "header: response start, passed on unchanged": lambda: run_to_completion(cycle.send(START)),
    }


def access_line(form: str) -> Ingredients:
    """Return three steps of the access log: format a line, format and write it, and do both through `logging`."""
    request = finished_request()
    formatter, record = logger.handlers[0].formatter, AccessRecord(request)
    assert formatter is not None
    return {
        f"access log: format a line, {form}": lambda: formatter.format(record),
        f"access log: format and write a line, {form}": lambda: write_access_line(request),
        f"access log: format and write a line through `logging`, {form}": lambda: logger.handle(AccessRecord(request)),
    }


def writing() -> Ingredients:
    """Return the writing of a preformatted line, by the service's handler and by the system call alone."""
    record = AccessRecord(finished_request())
    formatter = logger.handlers[0].formatter
    assert formatter is not None
    line = formatter.format(record)
    handler = LogFileHandler(get_settings().log_path / "ready.log")  # type: ignore[operator]
    handler.setFormatter(FixedFormatter(line))
    raw = (line + "\n").encode()
    descriptor = os.open(handler.baseFilename, os.O_WRONLY | os.O_APPEND)
    return {
        "write: preformatted line, by `LogFileHandler`": lambda: handler.emit(record),
        "write: the same bytes, by `os.write`": lambda: os.write(descriptor, raw),
    }


def application_line(form: str) -> Ingredients:
    """Return the logging of an application line, by the service's handler and by the standard library's."""
    ours, both = RequestLogHandler("ours", stream=False), RequestLogHandler("both")
    stdlib = logging.getLogger("stdlib")
    stdlib.propagate = False
    handler = logging.FileHandler(get_settings().log_path / "stdlib.log")  # type: ignore[operator]
    handler.setFormatter(
        logging.Formatter("%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) %(levelname)s %(message)s")
    )
    stdlib.addHandler(handler)
    return {
        f"application log: `RequestLogHandler`, file, {form}": lambda: ours.info("demo"),
        f"application log: `RequestLogHandler`, file and stream, {form}": lambda: both.info("demo"),
        "application log: `logging.FileHandler`, without an ID": lambda: stdlib.info("demo"),
    }


def response() -> Ingredients:
    """Return the creation of a response envelope and its serialization, as FastAPI does it."""
    ours, plain = TypeAdapter(Response[str]), TypeAdapter(PlainEnvelope)
    return {
        "response: create and serialize `Response`": lambda: ours.dump_json(Response[str](result="demo")),
        "response: the same model, with a constant ID": lambda: plain.dump_json(PlainEnvelope(result="demo")),
    }


def middleware(form: str) -> Ingredients:
    """Return a request through the middleware to a trivial application, and one to that application alone."""
    app, cycle = ContextMiddleware(trivial), Cycle()
    return {
        f"total: middleware and access log, {form}": lambda: run_to_completion(
            app(new_scope(), cycle.receive, cycle.send)
        ),
        "total: the same application without the middleware": lambda: run_to_completion(
            trivial(new_scope(), cycle.receive, cycle.send)
        ),
    }


def all_ingredients(form: str) -> Ingredients:
    """Return all steps for a log format, text or JSON."""
    ingredients: Ingredients = {"empty call": lambda: None, **request_ids(), **context(), **header()}
    return ingredients | {
        **access_line(form),
        **writing(),
        **application_line(form),
        **response(),
        **middleware(form),
    }
