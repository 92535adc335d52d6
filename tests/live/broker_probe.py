"""An integration for the live tests: it depends on a broker that is a folder of files.

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
    import package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401

log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings):
    """Read from variables that begin with BROKER_."""

    model_config = SettingsConfigDict(env_prefix="BROKER_")

    size: int = Field(1, ge=1, description="connections to the broker")
    folder: Path | None = Field(None, description="where the broker is")
    ports: list[int] = Field([], repr=False, description="where it listens")


settings = read_settings(SETTINGS)


def state(name: str) -> Path:
    """Return a file that represents a state of the broker, or a mark of the test."""
    return (settings.folder or Path("/nowhere")) / name


def install(app: FastAPI, _settings: Settings) -> None:
    """Add a route that returns the state of the broker."""
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
    """Connect and disconnect."""
    if state("refuses").exists():
        raise ConnectionError("nobody answers at broker:5672")
    if settings.folder is not None:
        state(f"connected.{os.getpid()}").touch()
        atexit.register(state(f"atexit.{os.getpid()}").touch)
    async with asyncio.TaskGroup() as group:
        consumer = group.create_task(consume())
        yield
        consumer.cancel()
    if state("hangs_on").exists():
        await asyncio.sleep(60)
    if settings.folder is not None:
        state(f"disconnected.{os.getpid()}").touch()


async def consume() -> None:
    """Do what the broker brings, until it breaks."""
    while not state("breaks").exists():  # noqa: ASYNC110 - it is a file
        await asyncio.sleep(0.05)
    raise ConnectionError("broker:5672 is gone")


async def ready() -> None:
    """Look whether the broker answers."""
    if settings.folder is None:
        raise NotReady("BROKER_FOLDER is not set.")
    log.info("asking the broker")
    while state("hangs").exists():  # noqa: ASYNC110 - it is a file
        await asyncio.sleep(60)
    if state("crashes").exists():
        raise OSError("broker://user:hunter2@broker:5672")
    if not state("up").exists():
        raise NotReady("The broker at broker:5672 does not answer.")
