"""The ingredients of a request, each as something to call; in the service's environment, for `hot_loops.py`."""

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


class Ready(logging.Formatter):
    """Gives a line that is made already."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line

    def format(self, _record: logging.LogRecord) -> str:
        """Give the line."""
        return self.line


class Plain(BaseModel):
    """The envelope with an ID that is given, not found."""

    code: int = 0
    message: str = "success"
    cause: str = ""
    request_id: str = ID
    result: str | None = None


def drive(awaitable: Awaitable[object]) -> None:
    """Run what waits for nothing to its end, without an event loop; raises RuntimeError when it does wait."""
    for _ in awaitable.__await__():
        raise RuntimeError("It waits for something.")


def finished_request() -> RequestRecord:
    """Give the record of a request that has been answered."""
    record = RequestRecord(ID, new_scope())
    record.status, record.bytes_sent, record.duration = 200, 94, 0.001
    return record


def identity() -> Ingredients:
    """Give the ways of the ID: made, beside two other ways of making one; and taken over."""
    plugin, incoming = RequestIdPlugin(), [ID.encode()]
    return {
        "ID: `new_request_id()`": new_request_id,
        "ID: `str(uuid.uuid4())`": lambda: str(uuid.uuid4()),
        "ID: `os.urandom(16).hex()`": lambda: os.urandom(16).hex(),
        "ID: an incoming one, checked and chosen": lambda: plugin.choose(incoming, from_proxy=False),
    }


def context() -> Ingredients:
    """Give the record, and the places where it is found."""
    scope, record = new_scope(), finished_request()

    def publish() -> None:
        current_record.set(record)
        context_storage.set(record.context)

    return {"record: `RequestRecord`": lambda: RequestRecord(ID, scope), "context: both variables set": publish}


def header() -> Ingredients:
    """Give the start of an answer, through the `send` that the middleware gives its application, and past it."""
    cycle = Cycle()
    caught: list[Send] = []

    async def catch(scope: Scope, receive: Receive, send: Send) -> None:
        caught.append(send)
        await trivial(scope, receive, send)

    drive(ContextMiddleware(catch)(new_scope(), cycle.receive, cycle.send))
    return {
        "header: start of an answer, handed on with the ID": lambda: drive(caught[0](START)),
        "header: start of an answer, handed on as it is": lambda: drive(cycle.send(START)),
    }


def access_line(form: str) -> Ingredients:
    """Give the access line: record, format, and all of it with the writing."""
    request = finished_request()
    formatter, record = logger.handlers[0].formatter, AccessRecord(request)
    assert formatter is not None
    return {
        f"access line: formatted, {form}": lambda: formatter.format(record),
        f"access line: formatted and written, {form}": lambda: write_access_line(request),
        f"access line: the same where somebody else listens, by `logging`, {form}": lambda: logger.handle(
            AccessRecord(request)
        ),
    }


def writing() -> Ingredients:
    """Give a line that is ready, written by the service's handler, and by nothing but the system call."""
    record = AccessRecord(finished_request())
    formatter = logger.handlers[0].formatter
    assert formatter is not None
    line = formatter.format(record)
    handler = LogFileHandler(get_settings().log_path / "ready.log")  # type: ignore[operator]
    handler.setFormatter(Ready(line))
    raw = (line + "\n").encode()
    descriptor = os.open(handler.baseFilename, os.O_WRONLY | os.O_APPEND)
    return {
        "write: a ready line, by `LogFileHandler`": lambda: handler.emit(record),
        "write: the same bytes, by `os.write`": lambda: os.write(descriptor, raw),
    }


def application_line(form: str) -> Ingredients:
    """Give a line of the application: the service's way, and the standard library's with nothing of ours."""
    ours, both = RequestLogHandler("ours", stream=False), RequestLogHandler("both")
    stdlib = logging.getLogger("stdlib")
    stdlib.propagate = False
    handler = logging.FileHandler(get_settings().log_path / "stdlib.log")  # type: ignore[operator]
    handler.setFormatter(
        logging.Formatter("%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) %(levelname)s %(message)s")
    )
    stdlib.addHandler(handler)
    return {
        f"application line: `RequestLogHandler`, file, {form}": lambda: ours.info("demo"),
        f"application line: `RequestLogHandler`, file and stream, {form}": lambda: both.info("demo"),
        "application line: `logging.FileHandler`, without ID": lambda: stdlib.info("demo"),
    }


def answer() -> Ingredients:
    """Give the model of an answer, made and serialised as FastAPI does."""
    ours, plain = TypeAdapter(Response[str]), TypeAdapter(Plain)
    return {
        "answer: `Response`, made and serialised": lambda: ours.dump_json(Response[str](result="demo")),
        "answer: the same model, with an ID that is given": lambda: plain.dump_json(Plain(result="demo")),
    }


def whole(form: str) -> Ingredients:
    """Give all of it: the middleware around an application that does nothing, and that application alone."""
    app, cycle = ContextMiddleware(trivial), Cycle()
    return {
        f"all: middleware and access line, {form}": lambda: drive(app(new_scope(), cycle.receive, cycle.send)),
        "all: the same application without it": lambda: drive(trivial(new_scope(), cycle.receive, cycle.send)),
    }


def all_of(form: str) -> Ingredients:
    """Give all of them, for lines in a form: text or JSON."""
    ingredients: Ingredients = {"a call of nothing": lambda: None, **identity(), **context(), **header()}
    return ingredients | {
        **access_line(form),
        **writing(),
        **application_line(form),
        **answer(),
        **whole(form),
    }
