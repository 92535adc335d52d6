"""Messages with FastStream: the channels, the demo handlers and the API; docs/faststream.md describes them."""

import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream import AckPolicy, AsyncAPI
from faststream.asgi import make_asyncapi_asgi

from app.common.request_id import new_request_id
from app.common.response import Response
from app.integrations.faststream.broker import KIND, MESSAGE_KEY, NAME, SETTINGS, STREAM, broker, lib, ready, settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.settings import Settings

__all__ = ["SETTINGS", "broker", "install", "lifespan", "ready"]

log = logging.getLogger(__name__)
IS_WORKER = sys.argv[0].removesuffix("/__main__.py").endswith("faststream")


def channel(name: str) -> tuple[Callable[[Any], Any], Any]:
    """Return the decorator of the handler for messages of this name, and their publisher."""
    path, handle, after = f"{NAME}.{name}", broker.subscriber, settings.redeliver_after
    match KIND:
        case "nats":
            limits = lib.ConsumerConfig(ack_wait=after, max_deliver=5)
            pull = {"durable": name, "config": limits, "pull_sub": lib.PullSub(batch_size=10, timeout=1)}
            return handle(path, stream=STREAM, **pull), broker.publisher(path, stream=STREAM, timeout=2)
        case "redis":
            group = {"group": NAME, "consumer": new_request_id(), "polling_interval": 1000}
            new = handle(stream=lib.StreamSub(path, max_records=1, **group), ack_policy=AckPolicy.ACK)
            again = handle(stream=lib.StreamSub(path, min_idle_time=1000 * after, **group), ack_policy=AckPolicy.ACK)
            return lambda work: new(again(work)), broker.publisher(stream=lib.StreamSub(path, maxlen=100_000))
        case "rabbit":
            return handle(path), broker.publisher(path, persist=True)  # FastStream's queues are durable
    policy = {"auto_offset_reset": "earliest", "ack_policy": AckPolicy.ACK, "group_id": NAME}
    # Create the subscriber only with a handler: without one it would still be assigned partitions.
    return lambda work: handle(path, **policy)(work), broker.publisher(path)  # noqa: PLW0108


on_demo, demo = channel("demo")
on_done, done = channel("demo-done")


async def work(text: str) -> str:
    """Handle a message of the demo; the return value is published."""
    log.info("working")
    return text.upper()


async def conclude(_text: str) -> None:
    """Handle the second message of the demo."""
    log.info("done")


if settings.consume or IS_WORKER:
    on_demo(done(work))
    on_done(conclude)


def install(app: "FastAPI", service: "Settings") -> None:
    """Add the demo endpoint and, in debug mode, the AsyncAPI page."""
    if IS_WORKER:
        raise SystemExit("Run `faststream run app.integrations.faststream.worker:worker`; serve the API with gunicorn.")

    @app.post("/api/faststream/demo", status_code=202, tags=["faststream"])
    async def publish() -> Response[str]:
        """Publish a message whose handler publishes another; return the ID of the first."""
        message_id = new_request_id()
        await demo.publish("demo", headers={MESSAGE_KEY: message_id})
        return Response(result=message_id)

    if service.debug:
        app.mount("/api/faststream/asyncapi", make_asyncapi_asgi(AsyncAPI(broker), try_it_out_path=None))


@asynccontextmanager
async def lifespan(_app: "FastAPI") -> AsyncIterator[None]:
    """Connect in the background; disconnect at shutdown."""
    await broker.start()
    yield
    await broker.stop()
