"""Messages by FastStream; docs/faststream.md says what travels with them and who works on them."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from faststream import AsyncAPI
from faststream.asgi import make_asyncapi_asgi

from app.common.request_id import new_request_id
from app.common.response import Response
from app.integrations.faststream.broker import MESSAGE_ID_KEY, SETTINGS, broker, channel, ready, settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.settings import Settings

__all__ = ["SETTINGS", "broker", "install", "lifespan", "ready"]

log = logging.getLogger(__name__)
IS_WORKER = sys.argv[0].removesuffix("/__main__.py").endswith("faststream")
on_demo, demo = channel("demo")
on_done, done = channel("demo-done")


async def work(text: str) -> str:
    """Stand for work on a message; what it returns is published."""
    log.info("working")
    return text.upper()


async def conclude(_text: str) -> None:
    """Stand for the second hop."""
    log.info("done")


if settings.consume or IS_WORKER:
    on_demo(done(work))
    on_done(conclude)


def install(app: "FastAPI", service: "Settings") -> None:
    """Add the demo and, in debug mode, the page that describes the messages."""
    if IS_WORKER:
        raise SystemExit(
            "`faststream run` cannot serve this application: the worker is started by `faststream run "
            "app.integrations.faststream.worker:worker`, and the API by `gunicorn -c gun.py`."
        )

    @app.post("/api/faststream/demo", status_code=202, tags=["faststream"])
    async def publish() -> Response[str]:
        """Publish a message that sets off another; the result is its ID."""
        message_id = new_request_id()
        await demo.publish("demo", headers={MESSAGE_ID_KEY: message_id})
        return Response(result=message_id)

    if service.debug:
        app.mount("/api/faststream/asyncapi", make_asyncapi_asgi(AsyncAPI(broker), try_it_out_path=None))


@asynccontextmanager
async def lifespan(_app: "FastAPI") -> AsyncIterator[None]:
    """Connect in the background, and disconnect at the end."""
    await broker.start()
    yield
    await broker.stop()
