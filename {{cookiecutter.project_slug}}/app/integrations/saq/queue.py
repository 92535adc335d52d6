"""The queue of this process: whose IDs its jobs have, and what happens while its broker is away."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from time import monotonic
from typing import Any, Final

import psycopg
import saq.job
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool
from pydantic import Field
from redis.exceptions import RedisError
from saq import Job, Queue
from saq.queue.postgres import PostgresQueue

from app.common.exceptions import NotReady
from app.common.request_id import new_request_id
from app.common.task_record import TaskRecord, extract, inject, printable
from app.environment import EnvironmentSettings, project_metadata, read_settings, server_url

# What asks a broker, and what that raises while it is gone, late, or (PostgreSQL, at the very first) without tables.
ASKS: Final = (
    *("connect", "dequeue", "_enqueue", "update", "retry", "finish", "abort"),
    *("jobs", "count", "schedule", "sweep", "worker_info"),
)
LOST: Final = (OSError, RedisError, psycopg.OperationalError, psycopg.errors.UndefinedTable)
URL: Final = server_url("rediss?", "postgres(ql)?")

log = logging.getLogger(__name__)
_gone: dict[str, bool] = {}
_back: dict[str, float] = {}  # when the broker was back last, in seconds of the monotonic clock
_queues: dict[asyncio.AbstractEventLoop, Queue] = {}
saq.job.uuid1 = new_request_id  # type: ignore[attr-defined] # a job's key, which tells neither the host nor the time


class SETTINGS(EnvironmentSettings, env_prefix="SAQ_"):
    """Where the queue is, and how a worker works on it."""

    url: str = Field("redis://127.0.0.1:6379/0", pattern=URL, repr=False, description="Redis or PostgreSQL, as a URL")
    queue: str | None = Field(None, min_length=1, description="name of the queue; empty: the project's")
    concurrency: int = Field(10, ge=1, description="jobs that one worker does at a time")
    sweep: int = Field(60, ge=1, description="seconds between two searches for jobs whose worker has died")


def get_queue(*, stays: bool = False) -> Queue:
    """Return the queue of the loop that runs; where none does, a new one, for the loop that will use it first."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return make_queue()
    for ended in [one for one in list(_queues) if one.is_closed()]:
        _queues.pop(ended, None)
    if loop not in _queues:
        _queues[loop] = make_queue(stays=stays)
    return _queues[loop]


def make_queue(*, stays: bool = False, waits: bool = False) -> Queue:
    """Make one. Who lets it `stay` closes it; while the broker is gone, a worker's `waits`, others raise NotReady."""
    own = read_settings(SETTINGS)
    make: Any = partial(_on_postgres, stays) if own.url.startswith("postgres") else Queue.from_url
    queue: Any = make(own.url, name=own.queue or project_metadata().get("name", "service"))
    for name in ASKS:
        seconds = None if name == "sweep" else 60 if waits else 3  # a sweep waits five for each job that it finds
        setattr(queue, name, partial(_ask, queue, waits and name != "connect", seconds, getattr(queue, name)))
    queue.ending, queue.opened = asyncio.Event(), _opened(queue, queue.disconnect)
    queue.connect, queue.disconnect = partial(_connect, queue.connect), queue.opened.aclose
    queue._cleanup_script = _look  # noqa: SLF001 - where Redis has it; PostgreSQL asks for no such thing
    return queue  # type: ignore[no-any-return]


def _on_postgres(stays: bool, url: str, name: str) -> Queue:
    """Return a queue on PostgreSQL. One that stays keeps connections; a loop that ends while one is made would hang."""
    logging.getLogger("psycopg.pool").addFilter(lambda line: line.levelno > logging.INFO and not _gone)
    kind: Any = AsyncConnectionPool if stays else AsyncNullConnectionPool
    least, waits = 4 if stays else 0, {"timeout": 0.7, "reconnect_timeout": 1}
    pool = kind(url, min_size=least, max_size=20, check=kind.check_connection, open=False, **waits)
    return PostgresQueue(pool, name=name, min_size=least, manage_pool_lifecycle=True)


async def _opened(queue: Queue, disconnect: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Go on until the queue is closed: by who opened it, or by its loop, which closes its generators when it ends."""
    _queues.setdefault(asyncio.get_running_loop(), queue)
    try:
        while True:
            yield
    finally:
        _queues.pop(asyncio.get_running_loop(), None)
        with suppress(*LOST):  # SAQ says good-bye to Redis first, whether it is there or not
            async with asyncio.timeout(2):
                await disconnect()
                if pool := getattr(queue, "pool", None):  # which SAQ leaves open when its server was never there
                    await pool.close()


async def _connect(call: Callable[[], Awaitable[None]]) -> None:
    """Open the queue; while its broker is gone, that is left to who asks it next."""
    with suppress(NotReady):
        await call()


async def _look(keys: list[str], args: list[int], client: Any) -> list[list[bytes]]:  # noqa: ANN401
    """Return the jobs that workers have taken; SAQ would take one for lost that a worker is just about to mark."""
    if not await client.set(keys[0], 1, nx=True, ex=args[0]):
        return []
    taken = await client.lrange(keys[1], 0, -1)
    await asyncio.sleep(1)
    found = [[key, await client.get(key)] for key in taken]
    still = set(await client.lrange(keys[1], 0, -1))
    return [pair for pair in found if pair[0] in still]


async def _ask(queue: Any, waits: bool, limit: float | None, call: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401
    """Call the broker, with the IDs of the job."""
    job = next((one for one in args if isinstance(one, Job)), None)
    with record_of(job) if job else nullcontext():
        if "connection" in more:  # part of another call, which is made again as a whole
            return await call(*args, **more)
        await anext(queue.opened, None)
        return await _insist(queue, waits, limit, partial(call, *args, **more))


async def _insist(queue: Any, waits: bool, limit: float | None, call: Any) -> Any:  # noqa: ANN401
    """Call until there is an answer, if this `waits`: SAQ itself would without a pause, and without a word."""
    while True:
        began = monotonic()
        try:
            async with asyncio.timeout(2 if queue.ending.is_set() else limit):
                await type(queue).connect(queue)
                if _gone and await type(queue).count(queue, "queued") >= 0 and _gone.pop("broker", None):
                    _back["broker"] = monotonic()
                    log.warning("The broker is back")
                return await call()
        except LOST as error:
            # A call that began during an outage may fail after it, on a connection that was lost: no second outage.
            is_new = not _gone and began > _back.get("broker", 0)
            log.log(logging.WARNING if is_new else logging.DEBUG, "The broker is away: %s", str(error) or "late")
            if is_new:
                _gone["broker"] = True
            if not waits or queue.ending.is_set():
                raise NotReady("The broker of the jobs does not answer.") from None
            await asyncio.sleep(1)


def record_of(job: Job) -> TaskRecord:
    """Return the record of a job, whose meta has its request ID from now on: also one that replaces a doubtful one."""
    meta = dict(job.meta) if isinstance(job.meta, dict) else {}
    key = printable(job.key)  # as it is in the records, which cut it
    inject(meta, key)  # what is sent again, or cron sent, keeps its own
    record, job.meta = extract(meta, key), meta
    return record
