"""The broker, whose kind its URL decides: where messages lie, what each carries, how the connection is kept."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from faststream import AckPolicy, BaseMiddleware, PublishType, StreamMessage
from faststream.exceptions import NackMessage
from pydantic import Field

from app.common.exceptions import NotReady
from app.common.log_filters import log_unhandled
from app.common.request_id import current_request_id, new_request_id
from app.common.task_record import TaskRecord, extract, inject
from app.settings import EnvironmentSettings, get_settings, read_settings

MESSAGE_ID_KEY = "x-message-id"
KINDS = r"^(nats|rediss?|amqps?|kafka)://"
log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings, env_prefix="FASTSTREAM_"):
    """Where the broker is, and who works on its messages."""

    url: str = Field("nats://127.0.0.1:4222", pattern=KINDS, repr=False, description="broker: nats, redis, amqp, kafka")
    consume: bool = Field(True, description="whether the API's own processes work on messages as well")
    stream: str = Field("service", pattern=r"^[\w-]+$", description="stream and group; queues and topics begin with it")
    redeliver_after: int = Field(30, ge=1, description="seconds until a dead worker's message comes again: NATS, Redis")
    alive_file: Path | None = Field(None, description="file touched while the broker answers, for health checks")


settings = read_settings(SETTINGS)
KIND = {"a": "rabbit", "k": "kafka", "n": "nats", "r": "redis"}[settings.url[0]]
PLACE = settings.url.partition("://")[2].rpartition("@")[2].partition("/")[0]
GRACE = get_settings().graceful_timeout / 4
kit: Any = import_module(f"faststream.{KIND}")
WEEK = 7 * 24 * 60 * 60  # seconds that JetStream keeps a message
STREAM: Any = kit.JStream(settings.stream, subjects=[f"{settings.stream}.>"], max_age=WEEK) if KIND == "nats" else None


class Correlation(BaseMiddleware[Any, Any]):
    """Binds a message's record until its replies are out, and writes the IDs into what is published."""

    record: TaskRecord | None = None

    async def consume_scope(self, call_next: Callable[[Any], Any], msg: StreamMessage[Any]) -> object:
        """Work under the ID in the sender's header, or else under its correlation ID."""
        self.record = extract(msg.headers, msg.headers.get(MESSAGE_ID_KEY) or new_request_id(), msg.correlation_id)
        self.record.__enter__()
        return await call_next(msg)

    async def after_processed(self, _: object = None, error: BaseException | None = None, __: object = None) -> bool:
        """Tell how it ended; a message whose reply the broker did not take goes back instead of being put away."""
        if self.record:
            back = isinstance(error, (NotReady, NackMessage, asyncio.CancelledError))
            state = "returned" if back else "failed" if error else "processed"
            name = self.context.get_local("handler_").specification.call_name
            if error and state == "failed":
                log_unhandled(error)
            self.record.tell(name, state, logging.WARNING if error else logging.INFO)
            self.record.__exit__()
        if isinstance(error, NotReady):
            raise NackMessage(**({"delay": settings.redeliver_after} if KIND == "nats" else {})) from error
        return False

    async def publish_scope(self, call_next: Callable[[Any], Any], cmd: Any) -> object:  # noqa: ANN401
        """Await the broker's word that it has the message; raise NotReady without it."""
        cmd.headers = {MESSAGE_ID_KEY: new_request_id()} | cmd.headers
        inject(cmd.headers, cmd.headers[MESSAGE_ID_KEY])
        if not broker.answers:
            await ready()
        try:
            async with asyncio.timeout(None if cmd.publish_type is PublishType.REQUEST else 2):
                return await call_next(cmd)
        except Exception as error:
            raise NotReady(f"The broker at {PLACE} has not taken the message; try again.") from error


class Broker(getattr(kit, f"{KIND.title()}Broker")):  # type: ignore[misc]
    """FastStream's, which connects in the background, and again whenever the broker was away."""

    answers = False
    keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return at once; until the broker answers, whoever publishes is told NotReady."""
        self.keeper = asyncio.create_task(self._keep())

    async def stop(self, *_: object) -> None:
        """Let the handlers that run come to their end, for a quarter of GRACEFUL_TIMEOUT, and disconnect."""
        if self.keeper:
            self.keeper.cancel()
        with suppress(Exception):
            await super().stop()

    async def _keep(self) -> None:
        tries = 0
        while True:
            try:
                if STREAM:
                    STREAM.declare = True  # FastStream does so once only, whether it works or not
                async with asyncio.timeout(5):
                    # Asked before the client, which may try in vain for long, or leave something behind when it fails.
                    host, _, port = PLACE.rpartition(":")
                    if port.isdigit() and "," not in host:
                        (await asyncio.open_connection(host.strip("[]"), int(port)))[1].close()
                    await super().start()
                    await ready()
                log.info("The broker at %s answers", PLACE)
                tries, self.answers = 0, True
                while True:
                    if settings.alive_file:
                        settings.alive_file.touch()
                    await asyncio.sleep(0.5)
                    await ready()
            except Exception as error:
                tries, self.answers = tries + 1, False
                if tries == 1:
                    log.warning("The broker at %s does not answer (%s); it is tried again", PLACE, type(error).__name__)
            with suppress(Exception):
                async with asyncio.timeout(GRACE + 1):
                    await super().stop()
            await asyncio.sleep(min(tries, 5))


async def ready() -> None:
    """Raise NotReady if the broker does not answer."""
    with suppress(Exception):
        if await broker.ping(0.7):
            return
    raise NotReady(f"The broker at {PLACE} does not answer.")


def channel(name: str) -> tuple[Callable[[Any], Any], Any]:
    """Return the decorator of who works on the messages of a name, and their publisher."""
    path, handle, redeliver = f"{settings.stream}.{name}", broker.subscriber, settings.redeliver_after
    match KIND:
        case "nats":
            limits = import_module("nats.js.api").ConsumerConfig(ack_wait=redeliver, max_deliver=5)
            pull = {"durable": name, "config": limits, "pull_sub": kit.PullSub(batch_size=10, timeout=1)}
            return handle(path, stream=STREAM, **pull), broker.publisher(path, stream=STREAM, timeout=2)
        case "redis":
            group = {"group": settings.stream, "consumer": new_request_id(), "polling_interval": 1000}
            new = handle(stream=kit.StreamSub(path, max_records=1, **group), ack_policy=AckPolicy.ACK)
            left = kit.StreamSub(path, min_idle_time=1000 * redeliver, **group)
            again = handle(stream=left, ack_policy=AckPolicy.ACK)
            return lambda work: new(again(work)), broker.publisher(stream=kit.StreamSub(path, maxlen=100_000))
        case "rabbit":
            queue = kit.RabbitQueue(path, durable=True)
            return handle(queue), broker.publisher(queue, persist=True)
    policy = {"auto_offset_reset": "earliest", "ack_policy": AckPolicy.ACK, "group_id": settings.stream}
    # Not made before it is wanted: one that works on nothing takes its share of the partitions all the same.
    return lambda work: handle(path, **policy)(work), broker.publisher(path)  # noqa: PLW0108


# Of a message and of a broker that is away we tell ourselves, with the ID, and once; its other plights stay.
lines = logging.getLogger("app.faststream")
lines.setLevel(logging.ERROR)
lines.addFilter(lambda line: line.msg != "Message fetch error" and broker.context.get_local("message") is None)
for name in ("aio_pika", "aiokafka", "aiormq"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
extra: dict[str, Any] = {}
if KIND == "nats":
    extra = {"max_reconnect_attempts": -1}
elif KIND == "rabbit":
    extra = {"reconnect_interval": 1, "default_channel": kit.Channel(prefetch_count=10, on_return_raises=True)}
broker: Any = Broker(
    PLACE if KIND == "kafka" else settings.url,
    middlewares=[Correlation],
    logger=lines,
    graceful_timeout=GRACE,
    id_generator=lambda: current_request_id().removeprefix("-") or new_request_id(),
    **extra,
)
