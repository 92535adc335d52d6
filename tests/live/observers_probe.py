"""An integration for the live tests, with endpoints and tasks that call, log, bind values, wait and fail.

Tests copy it into the baked project as `app/integrations/observers_probe/__init__.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

import structlog
from app.common.outbound import outbound_async_client
from app.common.response import Response
from app.integrations import celery, faststream, saq
from app.integrations.saq.jobs import JOBS
from app.settings import Settings, get_settings
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from starlette.responses import StreamingResponse
from structlog.contextvars import bind_contextvars, get_contextvars

log = logging.getLogger(__name__)
router = APIRouter(prefix="/probe")


@router.get("/call")
async def call(url: str = "") -> None:
    """Send a request to `url`, if given."""
    if url:
        async with outbound_async_client(get_settings()) as client:
            await client.get(url)


@router.get("/stream")
async def stream() -> StreamingResponse:
    """Send the last byte inside another span, half a second after the first."""

    async def chunks() -> AsyncIterator[bytes]:
        with trace.get_tracer("probe").start_as_current_span("own"):
            yield b"first"
            await asyncio.sleep(0.5)
            log.info("streaming")
            yield b"last"

    return StreamingResponse(chunks())


@router.get("/slow")
async def slow() -> None:
    """Take longer than the server waits at shutdown."""
    log.info("slow begins")
    await asyncio.sleep(30)


@router.get("/bound/{number}")
async def bind(number: int) -> Response[int]:
    """Bind a number; log it with structlog, and with logging in a thread."""
    found = len(get_contextvars())
    bind_contextvars(number=number)
    await asyncio.sleep(0.001)
    structlog.get_logger("bound").info("by structlog", found=found)
    await asyncio.to_thread(logging.getLogger("plain").info, "by logging")
    return Response(result=number)


@router.get("/observed/{number}")
async def observed(number: int) -> None:
    """Log with structlog and logging, then fail; log record and error contain secrets."""
    bind_contextvars(number=number)
    structlog.get_logger("observed").info("by structlog", password="hunter2")
    log.info("by logging")
    raise RuntimeError("it failed, token=hunter2")


# Tasks that fail


@celery.app.task  # type: ignore[untyped-decorator]
def fail_in_celery(password: str) -> None:
    log.info("about to fail with %d characters", len(password))
    raise RuntimeError("on purpose")


async def fail_in_saq(_: object, *, password: str) -> None:
    fail_in_celery(password)


async def fail_in_faststream(password: str) -> None:
    fail_in_celery(password)


JOBS["functions"] = (*JOBS["functions"], fail_in_saq)
on_failing, failing = faststream.channel("failing")
if faststream.IS_WORKER:
    on_failing(fail_in_faststream)


@router.post("/send/{queue}")
async def send(queue: str, password: str) -> None:
    match queue:
        case "celery":
            await asyncio.to_thread(fail_in_celery.delay, password)
        case "saq":
            await saq.get_queue().enqueue("fail_in_saq", password=password)
        case _:
            await failing.publish(password)


def install(service: FastAPI, _settings: Settings) -> None:
    service.include_router(router)


def observe(_settings: Settings) -> None:
    """Do nothing. Workers import each integration that has this function, and so register the tasks of this module."""
