"""Jobs on Redis or PostgreSQL, by SAQ: docs/saq.md says how to run its worker, and how to add one."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from saq import Job, Status
from saq.web.starlette import saq_web
from starlette.types import Receive, Scope, Send

from app.common.context.request_record import current_record
from app.common.request_id import stamp
from app.common.response import Response
from app.environment import read_settings
from app.integrations.processes import set_up_process
from app.integrations.saq.jobs import AGAIN, WORK
from app.integrations.saq.queue import SETTINGS, get_queue, make_queue, record_of
from app.settings import Settings

STATES: Final = {Status.QUEUED: "retried", Status.ACTIVE: "cancelled"}  # the latter where nobody could be told

__all__ = ("SETTINGS", "get_queue", "install", "lifespan", "ready", "settings")


class Name(str):
    """What lines call a job: without its arguments, which may be secrets, and with an end."""

    job: Job


def _name(job: Job, full: bool = False) -> str:  # noqa: ARG001 - called as SAQ calls its own
    name = Name(f"{job.function[:256]} {job.key[:128]}")
    name.job = job
    return name


def _finish_line(line: logging.LogRecord) -> bool:
    """Give a line of SAQ's the IDs of the job that it is about, where none are bound, and its words an end."""
    words = line.args if isinstance(line.args, tuple) else ()
    job = next((word if isinstance(word, Job) else word.job for word in words if isinstance(word, (Job, Name))), None)
    if job and current_record.get() is None:
        with record_of(job):
            stamp(line)
    line.args = tuple(word if isinstance(word, int) else str(word)[:1024] for word in words) or line.args
    return True


Job.info = _name  # type: ignore[assignment, method-assign]
logging.getLogger("saq").addFilter(_finish_line)


async def startup(ctx: dict[str, Any]) -> None:
    """Let the queue know when its worker is told to end: for a broker that is gone, it does not wait then."""
    ctx["worker"].queue.ending = ctx["worker"].event


async def before_process(ctx: dict[str, Any]) -> None:
    """Bind a job's IDs to all that it does."""
    ctx["record"] = record_of(ctx["job"]).begin(ctx["job"].function)
    if ctx["job"].function not in ctx["worker"].functions:  # SAQ's KeyError has the name, however long it is
        raise LookupError("This worker has no such function.")


async def after_process(ctx: dict[str, Any]) -> None:
    """Write the last line of an attempt."""
    state = STATES.get(ctx["job"].status, ctx["job"].status.value)
    level = logging.INFO if state == "complete" else logging.WARNING
    ctx["record"].finish(ctx["job"].function, state, level, failed=ctx["job"].status is Status.FAILED)
    ctx["record"].__exit__()


def install(app: FastAPI, settings: Settings) -> None:
    """Add the demo, and in debug mode SAQ's own pages."""
    app.add_api_route("/api/saq/demo", start_demo, methods=["POST"], status_code=202, tags=["saq"])
    if settings.debug:
        app.mount("/saq", show_pages)


async def start_demo() -> Response[str]:
    """Enqueue a job that enqueues two more; the result is its key."""
    job = await get_queue().enqueue("demo", tree=True, **AGAIN)
    return Response(result=job and job.key)


async def show_pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the pages of SAQ, of the queue that the running loop has."""
    await saq_web("/saq", [get_queue()])(scope, receive, send)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open the queue outside of any request, whose ID the lines of its pool had else, and close it."""
    queue = get_queue(stays=True)
    await queue.connect()
    yield
    await queue.disconnect()


async def ready() -> None:
    """Raise NotReady when the broker does not answer."""
    await get_queue().count("queued")


def settings() -> dict[str, Any]:
    """Return what `saq app.integrations.saq.settings` works with; its lines are written as the service's are."""
    set_up_process()
    own, queue = read_settings(SETTINGS), make_queue(stays=True, waits="--check" not in sys.argv)
    hooks = {"startup": startup, "before_process": before_process, "after_process": after_process}
    work = {"concurrency": own.concurrency, "timers": {"sweep": own.sweep}, "dequeue_timeout": 5}
    return {"queue": queue, **work, **hooks, **WORK}
