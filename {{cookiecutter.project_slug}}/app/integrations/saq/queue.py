"""The SAQ queue: propagate the IDs to its jobs, and handle an unavailable broker."""

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

# Methods that call the broker, and what they raise if it is unavailable or slow, or if PostgreSQL has no tables yet.
BROKER_METHODS: Final = (
    *("connect", "dequeue", "_enqueue", "update", "retry", "finish", "abort"),
    *("jobs", "count", "schedule", "sweep", "worker_info"),
)
BROKER_ERRORS: Final = (OSError, RedisError, psycopg.OperationalError, psycopg.errors.UndefinedTable)
URL: Final = server_url("rediss?", "postgres(ql)?")
UNAVAILABLE: Final = "SAQ broker unavailable: %s; check that it runs and that SAQ_URL is right"

log = logging.getLogger(__name__)
_outage: dict[str, bool] = {}  # not empty while the broker is unavailable
_recovered: dict[str, float] = {}  # the end of the last outage, in seconds of the monotonic clock
_queues: dict[asyncio.AbstractEventLoop, Queue] = {}
saq.job.uuid1 = new_request_id  # type: ignore[attr-defined] # job keys without host and time


class SETTINGS(EnvironmentSettings, env_prefix="SAQ_"):
    """The settings of the queue and its workers, from environment variables with the prefix SAQ_."""

    url: str = Field("redis://127.0.0.1:6379/0", pattern=URL, repr=False, description="broker URL, Redis or PostgreSQL")
    queue: str | None = Field(None, min_length=1, description="name of the queue; empty: the project's name")
    concurrency: int = Field(10, ge=1, description="jobs that a worker runs concurrently")
    sweep: int = Field(60, ge=1, description="seconds between searches for jobs of killed workers")


def get_queue(*, pooled: bool = False) -> Queue:
    """Return the queue of the running event loop; without a loop, a new queue, for the first loop that uses it."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return make_queue()
    for closed in [key for key in list(_queues) if key.is_closed()]:
        _queues.pop(closed, None)
    if loop not in _queues:
        _queues[loop] = make_queue(pooled=pooled)
    return _queues[loop]


def make_queue(*, pooled: bool = False, retry_calls: bool = False) -> Queue:
    """Return a new queue. The caller must close a `pooled` one. Without `retry_calls`, an outage raises NotReady."""
    settings = read_settings(SETTINGS)
    make: Any = partial(_postgres_queue, pooled) if settings.url.startswith("postgres") else Queue.from_url
    queue: Any = make(settings.url, name=settings.queue or project_metadata().get("name", "service"))
    for name in BROKER_METHODS:
        seconds = None if name == "sweep" else 60 if retry_calls else 3  # a sweep waits up to 5 s for each job found
        setattr(queue, name, partial(_call, queue, retry_calls and name != "connect", seconds, getattr(queue, name)))
    queue.stopping, queue.lifetime = asyncio.Event(), _lifetime(queue, queue.disconnect)
    queue.connect, queue.disconnect = partial(_connect, queue.connect), queue.lifetime.aclose
    queue._cleanup_script = _find_active_jobs  # noqa: SLF001 - instead of SAQ's Lua script; only Redis uses it
    return queue  # type: ignore[no-any-return]


def _postgres_queue(pooled: bool, url: str, name: str) -> Queue:
    """Return a queue on PostgreSQL. Unless `pooled`, keep no connections: a loop that ends while one opens hangs."""
    logging.getLogger("psycopg.pool").addFilter(lambda record: record.levelno > logging.INFO and not _outage)
    pool_class: Any = AsyncConnectionPool if pooled else AsyncNullConnectionPool
    min_size, timeouts = 4 if pooled else 0, {"timeout": 0.7, "reconnect_timeout": 1}
    pool = pool_class(url, min_size=min_size, max_size=20, check=pool_class.check_connection, open=False, **timeouts)
    return PostgresQueue(pool, name=name, min_size=min_size, manage_pool_lifecycle=True)


async def _lifetime(queue: Queue, disconnect: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    """Close the queue when this generator is closed: by `queue.disconnect`, or by the event loop when it ends."""
    _queues.setdefault(asyncio.get_running_loop(), queue)
    try:
        while True:
            yield
    finally:
        _queues.pop(asyncio.get_running_loop(), None)
        with suppress(*BROKER_ERRORS):  # SAQ sends commands to Redis first, even if it is unavailable
            async with asyncio.timeout(2):
                await disconnect()
                if pool := getattr(queue, "pool", None):  # SAQ leaves it open if it has never connected
                    await pool.close()


async def _connect(call: Callable[[], Awaitable[None]]) -> None:
    """Open the queue. If the broker is unavailable, the next call opens it."""
    with suppress(NotReady):
        await call()


async def _find_active_jobs(keys: list[str], args: list[int], client: Any) -> list[list[bytes]]:  # noqa: ANN401
    """Return the jobs that have been with workers for a second; SAQ would sweep one just before it is marked active."""
    if not await client.set(keys[0], 1, nx=True, ex=args[0]):
        return []
    taken = await client.lrange(keys[1], 0, -1)
    await asyncio.sleep(1)
    jobs = [[key, await client.get(key)] for key in taken]
    still_taken = set(await client.lrange(keys[1], 0, -1))
    return [pair for pair in jobs if pair[0] in still_taken]


async def _call(queue: Any, retry: bool, limit: float | None, call: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Call the broker, with the IDs of the job bound."""
    job = next((arg for arg in args if isinstance(arg, Job)), None)
    with record_of(job) if job else nullcontext():
        if "connection" in kwargs:  # part of a transaction: the outer call is retried as a whole
            return await call(*args, **kwargs)
        await anext(queue.lifetime, None)
        return await _call_with_retries(queue, retry, limit, partial(call, *args, **kwargs))


async def _call_with_retries(queue: Any, retry: bool, limit: float | None, call: Any) -> Any:  # noqa: ANN401
    """Make the call; with `retry`, repeat it during an outage. SAQ would repeat it without pauses and log records."""
    while True:
        started = monotonic()
        try:
            async with asyncio.timeout(2 if queue.stopping.is_set() else limit):
                await type(queue).connect(queue)
                if _outage and await type(queue).count(queue, "queued") >= 0 and _outage.pop("broker", None):
                    _recovered["broker"] = monotonic()
                    log.warning("SAQ broker available again")
                return await call()
        except BROKER_ERRORS as error:
            # A call that started during an outage may fail after it, on a lost connection: this is not a new outage.
            is_new = not _outage and started > _recovered.get("broker", 0)
            log.log(logging.WARNING if is_new else logging.DEBUG, UNAVAILABLE, str(error) or "no response in time")
            if is_new:
                _outage["broker"] = True
            if not retry or queue.stopping.is_set():
                raise NotReady("The SAQ broker is unavailable.") from None
            await asyncio.sleep(1)


def record_of(job: Job) -> TaskRecord:
    """Return the record of a job, and write its request ID to `job.meta`, where it replaces an invalid one."""
    meta = dict(job.meta) if isinstance(job.meta, dict) else {}
    key = printable(job.key)  # the task ID as in the log, truncated
    inject(meta, key)  # a retried job or a cron job keeps its IDs
    record, job.meta = extract(meta, key), meta
    return record
