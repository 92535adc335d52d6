"""Jobs on Redis or PostgreSQL, by SAQ: docs/saq.md says how to run its worker, and how to add one."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import cache, partial
from typing import Any, Final

import psycopg
from fastapi import FastAPI
from pydantic import Field
from redis.exceptions import RedisError
from saq import Job, Queue, Status
from saq.web.starlette import saq_web

from app.common.exceptions import NotReady
from app.common.log_handler import configure_logging, prepare_log_files
from app.common.response import Response
from app.common.task_record import extract, inject
from app.integrations.saq.jobs import AGAIN, WORK
from app.settings import EnvironmentSettings, Settings, get_settings, read_settings

# What asks a broker, and what that raises while it is gone, late, or (PostgreSQL, at the very first) without tables.
ASKS: Final = ("connect", "dequeue", "_enqueue", "retry", "finish", "jobs", "count", "schedule", "sweep", "worker_info")
LOST: Final = (OSError, RedisError, psycopg.OperationalError, psycopg.errors.UndefinedTable)
URL: Final = r"^(rediss?|postgres(ql)?)://(([^\s/?#@%]|%[\dA-Fa-f]{2})*@)?[\w.,:\[\]-]*([/?][^\s@#]*)?$"

log = logging.getLogger(__name__)
_gone: dict[str, bool] = {}
Job.info = lambda job, full=False: f"{job.function} {job.key}"  # type: ignore # noqa: ARG005 - no secrets in lines


class SETTINGS(EnvironmentSettings, env_prefix="SAQ_"):
    """Where the queue is, and how a worker works on it."""

    url: str = Field("redis://127.0.0.1:6379/0", pattern=URL, repr=False, description="Redis or PostgreSQL, as a URL")
    queue: str = Field("default", min_length=1, description="name of the queue")
    concurrency: int = Field(10, ge=1, description="jobs that one worker does at a time")
    sweep: int = Field(60, ge=1, description="seconds between two searches for jobs whose worker has died")


async def before_process(ctx: dict[str, Any]) -> None:
    """Bind a job's IDs to all that it does."""
    ctx["record"] = extract(ctx["job"].meta, ctx["job"].key).__enter__()


async def after_process(ctx: dict[str, Any]) -> None:
    """Write the last line of an attempt."""
    state = "retried" if ctx["job"].status is Status.QUEUED else ctx["job"].status.value
    ctx["record"].tell(ctx["job"].function, state, logging.INFO if state == "complete" else logging.WARNING)
    ctx["record"].__exit__()


@cache
def get_queue(*, waits: bool = False) -> Queue:
    """Return the queue of this process. While its broker is gone, a worker's `waits`, the service's raises NotReady."""
    queue = Queue.from_url(read_settings(SETTINGS).url, name=read_settings(SETTINGS).queue)
    if pool := getattr(queue, "pool", None):  # PostgreSQL's, slow to come back, and with much to say until then
        pool.timeout, pool.reconnect_timeout = 0.7, 1
        logging.getLogger("psycopg.pool").addFilter(lambda line: line.levelno > logging.INFO and not _gone)
    for name in ASKS:
        seconds = None if name == "sweep" else 60 if waits else 3  # a sweep waits five for each job that it finds
        setattr(queue, name, partial(_ask, queue, waits, seconds, getattr(queue, name)))
    return queue


async def _ask(queue: Any, waits: bool, limit: float | None, call: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401
    """Call the broker, with the IDs of the job. SAQ asks one that is gone again without a pause, and without a word."""
    if job := next((one for one in args if isinstance(one, Job)), None):
        inject(job.meta, job.key)  # what is sent again, or cron sent, keeps its own
    with extract(job.meta, job.key) if job else nullcontext():
        while True:
            try:
                async with asyncio.timeout(limit):
                    await type(queue).connect(queue)
                    if _gone and await type(queue).count(queue, "queued") >= 0 and _gone.pop("broker", None):
                        log.warning("The broker is back")
                    return await call(*args, **more)
            except LOST as error:
                log.log(logging.DEBUG if _gone else logging.WARNING, "The broker is away: %s", str(error) or "late")
                _gone["broker"] = True
                if not waits or "connection" in more:  # of a transaction that is lost
                    raise NotReady("The broker of the jobs does not answer.") from None
                await asyncio.sleep(1)


def install(app: FastAPI, settings: Settings) -> None:
    """Add the demo, and in debug mode SAQ's own pages."""
    get_queue.cache_clear()
    app.add_api_route("/api/saq/demo", start_demo, methods=["POST"], status_code=202, tags=["saq"])
    if settings.debug:
        app.mount("/saq", saq_web("/saq", [get_queue()]))


async def start_demo() -> Response[str]:
    """Enqueue a job that enqueues two more; the result is its key."""
    job = await get_queue().enqueue("demo", tree=True, **AGAIN)
    return Response(result=job and job.key)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open the queue outside of any request, whose ID the lines of its pool had else, and close it."""
    await asyncio.gather(get_queue().connect(), return_exceptions=True)
    yield
    await asyncio.gather(asyncio.wait_for(get_queue().disconnect(), 2), return_exceptions=True)


async def ready() -> None:
    """Raise NotReady when the broker does not answer."""
    await get_queue().count("queued")


def settings() -> dict[str, Any]:
    """Return what `saq app.integrations.saq.settings` works with; its lines are written as the service's are."""
    prepare_log_files(get_settings())
    configure_logging(get_settings())
    own, hooks = read_settings(SETTINGS), {"before_process": before_process, "after_process": after_process}
    work = {"concurrency": own.concurrency, "timers": {"sweep": own.sweep}, "dequeue_timeout": 5, **hooks, **WORK}
    return {"queue": get_queue(waits="--check" not in sys.argv), **work}
