"""SAQ jobs on Redis or PostgreSQL; docs/saq.md describes how to run a worker and how to add a job."""

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
from app.integrations.saq.jobs import JOBS, RETRY_OPTIONS
from app.integrations.saq.queue import SETTINGS, get_queue, make_queue, record_of
from app.settings import Settings

STATES: Final = {Status.QUEUED: "retried", Status.ACTIVE: "cancelled"}  # still active: an outage prevented a requeue

__all__ = ("SETTINGS", "get_queue", "install", "lifespan", "ready", "settings")


class JobLabel(str):
    """A job in SAQ's log messages: its function and key, truncated, without its arguments, which may be secrets."""

    job: Job


def _label(job: Job, full: bool = False) -> str:  # noqa: ARG001 - the signature of SAQ's Job.info
    label = JobLabel(f"{job.function[:256]} {job.key[:128]}")
    label.job = job
    return label


def _add_ids(record: logging.LogRecord) -> bool:
    """Add the IDs of the job in the arguments of SAQ's log record, if no IDs are bound; truncate the arguments."""
    args = record.args if isinstance(record.args, tuple) else ()
    job = next((arg if isinstance(arg, Job) else arg.job for arg in args if isinstance(arg, (Job, JobLabel))), None)
    if job and current_record.get() is None:
        with record_of(job):
            stamp(record)
    record.args = tuple(arg if isinstance(arg, int) else str(arg)[:1024] for arg in args) or record.args
    return True


Job.info = _label  # type: ignore[assignment, method-assign]
logging.getLogger("saq").addFilter(_add_ids)


async def startup(ctx: dict[str, Any]) -> None:
    """Share the worker's stop event with the queue, which then stops waiting for an unavailable broker."""
    ctx["worker"].queue.stopping = ctx["worker"].event


async def before_process(ctx: dict[str, Any]) -> None:
    """Bind the IDs of the job: its log lines and the jobs that it enqueues have them."""
    ctx["record"] = record_of(ctx["job"]).begin(ctx["job"].function)
    if ctx["job"].function not in ctx["worker"].functions:  # SAQ's KeyError would log the name at any length
        raise LookupError("The job's function is not registered in this worker; deploy its code.")


async def after_process(ctx: dict[str, Any]) -> None:
    """Log the end of an attempt, and unbind the IDs."""
    state = STATES.get(ctx["job"].status, ctx["job"].status.value)
    level = logging.INFO if state == "complete" else logging.WARNING
    ctx["record"].finish(ctx["job"].function, state, level, failed=ctx["job"].status is Status.FAILED)
    ctx["record"].__exit__()


def install(app: FastAPI, settings: Settings) -> None:
    """Add the demo endpoint and, in debug mode, SAQ's web interface."""
    app.add_api_route("/api/saq/demo", start_demo, methods=["POST"], status_code=202, tags=["saq"])
    if settings.debug:
        app.mount("/saq", show_pages)


async def start_demo() -> Response[str]:
    """Enqueue a job that enqueues two more; return its key."""
    job = await get_queue().enqueue("demo", tree=True, **RETRY_OPTIONS)
    return Response(result=job and job.key)


async def show_pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve SAQ's web interface for the queue of the running event loop."""
    await saq_web("/saq", [get_queue()])(scope, receive, send)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open and close the queue. If a request opened it, the log lines of its pool would have that request's ID."""
    queue = get_queue(pooled=True)
    await queue.connect()
    yield
    await queue.disconnect()


async def ready() -> None:
    """Raise NotReady if the broker is unavailable."""
    await get_queue().count("queued")


def settings() -> dict[str, Any]:
    """Return the settings of a worker (`saq app.integrations.saq.settings`); configure logging as in the service."""
    set_up_process()
    own, queue = read_settings(SETTINGS), make_queue(pooled=True, retry_calls="--check" not in sys.argv)
    options = {"queue": queue, "concurrency": own.concurrency, "timers": {"sweep": own.sweep}, "dequeue_timeout": 5}
    return {"startup": startup, "before_process": before_process, "after_process": after_process, **options, **JOBS}
