"""An integration for the live tests: it depends on a broker, which a folder of files simulates.

It is copied into the baked project as `app/integrations/broker/__init__.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.common.exceptions import NotReady
from app.common.response import Response
from app.environment import EnvironmentSettings, read_settings
from pydantic import Field
from pydantic_settings import SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.settings import Settings
    from fastapi import FastAPI

if os.environ.get("LACK"):
    import missing_package  # type: ignore[import-not-found]  # noqa: F401

log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings):
    """Settings of the environment variables BROKER_*."""

    model_config = SettingsConfigDict(env_prefix="BROKER_")

    size: int = Field(1, ge=1, description="connections to the broker")
    folder: Path | None = Field(None, description="the folder that simulates the broker")
    ports: list[int] = Field([], repr=False, description="ports of the broker")


settings = read_settings(SETTINGS)


def state(name: str) -> Path:
    """Return the path of a file that represents a state of the broker, or that records an event for the test."""
    return (settings.folder or Path("/nowhere")) / name


def install(app: FastAPI, _settings: Settings) -> None:
    """Add a route that returns the size; wait while the state is `slow`."""
    if state("slow").exists():
        state(f"installing.{os.getpid()}").touch()
    while state("slow").exists():
        time.sleep(0.02)

    @app.get("/broker")
    async def broker() -> Response[int]:
        log.info("asked for the size")
        return Response(result=settings.size)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connect to the broker, run the consumer, and disconnect."""
    if state("refuses").exists():
        raise ConnectionError("connection to broker:5672 refused")
    if settings.folder is not None:
        state(f"connected.{os.getpid()}").touch()
        atexit.register(state(f"atexit.{os.getpid()}").touch)
    async with asyncio.TaskGroup() as group:
        consumer = group.create_task(consume())
        yield
        consumer.cancel()
    if state("hangs_during_shutdown").exists():
        await asyncio.sleep(60)
    if settings.folder is not None:
        state(f"disconnected.{os.getpid()}").touch()


async def consume() -> None:
    """Run until the broker breaks."""
    while not state("breaks").exists():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.05)
    raise ConnectionError("broker:5672 is gone")


async def ready() -> None:
    """Check the state of the broker."""
    if settings.folder is None:
        raise NotReady("BROKER_FOLDER is not set.")
    log.info("asking the broker")
    while state("hangs").exists():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(60)
    if state("crashes").exists():
        raise OSError("broker://user:hunter2@broker:5672")
    if not state("up").exists():
        raise NotReady("The broker at broker:5672 is unavailable.")
