"""An integration for the live tests: its message handler sends a task, a job, a message and an HTTP request.

It is copied into the generated project as `app/integrations/onwards_probe/__init__.py`.
"""

import asyncio
import logging

from app.common.outbound import outbound_async_client
from app.common.response import Response
from app.integrations.celery.tasks import debug
from app.integrations.faststream import channel, demo
from app.integrations.saq import get_queue
from app.settings import Settings, get_settings
from fastapi import FastAPI

log = logging.getLogger(__name__)
on_onwards, onwards = channel("onwards")


@on_onwards
async def pass_on(url: str) -> None:
    """Send a task, a job, a message and an HTTP request."""
    log.info("passing on")
    await asyncio.to_thread(debug.delay, 4)
    await get_queue().enqueue("demo")
    await demo.publish("demo")
    async with outbound_async_client(get_settings()) as client:
        await client.get(url)


def install(service: FastAPI, _settings: Settings) -> None:
    """Add an endpoint that publishes the message."""

    @service.post("/probe/onwards")
    async def publish(url: str) -> Response[str]:
        await onwards.publish(url)
        return Response(result="published")
