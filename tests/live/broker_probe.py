"""An integration for the live tests: it depends on a broker that is a folder of files.

It is copied into the baked project as `app/integrations/broker/__init__.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.common.exceptions import NotReady
from app.common.response import Response
from app.settings import EnvironmentSettings, read_settings
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
    folder: Path = Field(description="where the broker is")


settings = read_settings(SETTINGS) if os.environ.get("BROKER_FOLDER") else None


def state(name: str) -> Path:
    """Return a file that stands for a state of the broker, or a mark of ours."""
    assert settings is not None
    return settings.folder / name


def install(app: FastAPI, _settings: Settings) -> None:
    """Add a route that tells how the broker is."""

    @app.get("/broker")
    async def broker() -> Response[int]:
        log.info("asked for the size")
        return Response(result=0 if settings is None else settings.size)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connect and disconnect."""
    if state("refuses").exists():
        raise ConnectionError("nobody answers at broker:5672")
    state(f"connected.{os.getpid()}").touch()
    yield
    state(f"disconnected.{os.getpid()}").touch()


async def ready() -> None:
    """Look whether the broker answers."""
    log.info("asking the broker")
    if state("hangs").exists():
        await asyncio.sleep(30)
    if state("crashes").exists():
        raise OSError("amqp://user:hunter2@broker:5672")
    if not state("up").exists():
        raise NotReady("The broker at broker:5672 does not answer.")
