"""The broker, whose kind its URL decides: what each message carries, how it ends, how the connection is kept."""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from faststream import BaseMiddleware, PublishType, StreamMessage
from faststream.exceptions import NackMessage
from pydantic import Field, ValidationError

from app.common.errors import log_unhandled
from app.common.exceptions import NotReady
from app.common.request_id import current_request_id, new_request_id
from app.common.task_record import TaskRecord, extract, inject
from app.environment import EnvironmentSettings, project_metadata, read_settings, server_url
from app.settings import get_settings

MESSAGE_KEY = "x-message-id"
URL = server_url("nats", "rediss?", "amqps?") + r"|^kafka://[\w.,:\[\]-]+$"
KINDS = "broker: nats, redis, amqp; kafka, with neither user nor password"
# The names of what the clients raise for want of a connection or of an answer.
LOST = re.compile("Connection|Time(d)?[oO]ut|IncorrectState|InvalidState|StreamResponse|Available|Unavailable|Closed")
log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings, env_prefix="FASTSTREAM_"):
    """The address of the broker, and which processes work on its messages."""

    url: str = Field("nats://127.0.0.1:4222", pattern=URL, repr=False, description=KINDS)
    consume: bool = Field(True, description="whether the API's own processes work on messages as well")
    stream: str | None = Field(None, pattern=r"^[\w-]+$", description="begins all names there; empty: project's name")
    redeliver_after: int = Field(30, ge=1, description="seconds until a dead worker's message comes again: NATS, Redis")
    alive_file: Path | None = Field(None, description="file touched while the broker answers, for health checks")


settings = read_settings(SETTINGS)
KIND = {"a": "rabbit", "k": "kafka", "n": "nats", "r": "redis"}[settings.url[0]]
LOGIN, PLACE = re.findall(r"://(.*@)?([^/?#]*)", settings.url.replace(",nats://", ","))[0]
SERVERS = {"kafka": PLACE, "nats": [f"nats://{LOGIN}{host}" for host in PLACE.split(",")]}.get(KIND, settings.url)
GRACE = get_settings().graceful_timeout / 4
kit: Any = import_module(f"faststream.{KIND}")
NAME = settings.stream or project_metadata().get("name", "service")
STREAM: Any = kit.JStream(NAME, subjects=[f"{NAME}.>"], max_age=604_800) if KIND == "nats" else None


class NotTaken(NotReady):
    """The broker does not answer, or has not said that it has the message."""


class Correlation(BaseMiddleware[Any, Any]):
    """Binds a message's record until its replies are out, and writes the IDs into what is published."""

    record: TaskRecord | None = None

    async def consume_scope(self, call_next: Callable[[Any], Any], msg: StreamMessage[Any]) -> object:
        """Work under the ID in the sender's header, or else under its correlation ID."""
        if self.context.get_local("message") is msg:  # else no handler gets it: it answers a request, or is fetched
            self.record = extract(msg.headers, msg.headers.get(MESSAGE_KEY) or new_request_id(), msg.correlation_id)
            self.context.set_local("record", self.record)
            self.record.begin(self.context.get_local("handler_").specification.call_name)
        return await call_next(msg)

    async def after_processed(self, _: object = None, error: BaseException | None = None, __: object = None) -> bool:
        """Log how it ended; a message whose reply the broker did not take is returned instead of acknowledged."""
        if self.record:
            back = isinstance(error, (NotTaken, NackMessage, asyncio.CancelledError))
            if error and not back:
                tell_failure(error)
            state = "returned" if back else "failed" if error else "processed"
            level = logging.WARNING if error else logging.INFO
            self.record.finish(self.record.name, state, level, failed=state == "failed")
            self.record.__exit__()
            if isinstance(error, NotTaken):
                await asyncio.sleep(KIND in ("kafka", "rabbit"))  # a second: they give it again at once
                raise NackMessage(**({"delay": settings.redeliver_after} if KIND == "nats" else {})) from error
        return False

    async def publish_scope(self, call_next: Callable[[Any], Any], cmd: Any) -> object:  # noqa: ANN401
        """Await the broker's word that it has the message; raise NotTaken without it."""
        cmd.headers = {MESSAGE_KEY: new_request_id()} | cmd.headers
        inject(cmd.headers, cmd.headers[MESSAGE_KEY])
        if not broker.answers:
            await ready()
        try:
            async with asyncio.timeout(None if cmd.publish_type is PublishType.REQUEST else 2):
                return await call_next(cmd)
        except Exception as error:
            if not any(LOST.search(kind.__name__) for kind in type(error).__mro__):
                raise
            raise NotTaken(f"The broker at {PLACE} has not taken the message; try again.") from error


def tell_failure(error: BaseException) -> None:
    """Log an error; of a message that does not fit, where and why alone: pydantic's own words show what it says."""
    cause = getattr(error, "original_error", error)
    if not isinstance(cause, ValidationError):
        return log_unhandled(error)
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'result'}: {fault['type']}" for fault in cause.errors()]
    return log.error("What the handler takes or returns does not fit: %s", "; ".join(faults[:5]))


class Broker(getattr(kit, f"{KIND.title()}Broker")):  # type: ignore[misc]
    """FastStream's, which connects in the background, and again whenever the broker was away."""

    answers = False
    keeper: asyncio.Task[None] | None = None

    async def __aexit__(self, *_: object) -> None:
        """Disconnect a process that only publishes inside `async with broker:`; after `start` it stays connected."""
        if not self.keeper:
            await self.stop()

    async def _connect(self) -> object:
        """Ask the server before its client, which may try in vain for long, or leave something behind when it fails."""
        host, _, port = PLACE.rpartition(":")
        async with asyncio.timeout(5):
            if port.isdigit() and "," not in host:
                (await asyncio.open_connection(host.strip("[]"), int(port)))[1].close()
            return await super()._connect()

    async def start(self) -> None:
        """Return at once; until the broker answers, publishing raises NotTaken."""
        self.keeper = asyncio.create_task(self._keep())

    async def stop(self, *_: object) -> None:
        """Let the handlers that run come to their end, for a quarter of GRACEFUL_TIMEOUT, and disconnect."""
        keeper, self.keeper, self.answers = self.keeper, None, False
        if keeper and keeper.cancel():
            await asyncio.wait([keeper])
        with suppress(Exception):
            await super().stop()

    async def _keep(self) -> None:
        tries = 0
        while True:
            try:
                async with asyncio.timeout(5):
                    if not self.answers:
                        if STREAM:
                            STREAM.declare = True  # FastStream does so once only, whether it works or not
                        await super().start()
                    await ready()
                if not self.answers:
                    log.info("The broker at %s answers", PLACE)
                tries, self.answers = 0, True
                if settings.alive_file:
                    settings.alive_file.touch()
                await asyncio.sleep(0.5)
            except Exception as error:
                tries, self.answers = tries + 1, False
                if tries == 1:
                    log.warning("The broker at %s does not answer (%s); it is tried again", PLACE, type(error).__name__)
                with suppress(Exception):
                    await asyncio.wait_for(super().stop(), GRACE + 1)
                await asyncio.sleep(min(tries, 5))


async def ready() -> None:
    """Raise NotTaken if the broker does not answer."""
    with suppress(Exception):
        if await broker.ping(0.7):
            return
    raise NotTaken(f"The broker at {PLACE} does not answer.")


def is_news(line: logging.LogRecord) -> bool:
    """Drop what our own lines report with the ID and once: how a message ends, and that the broker is away."""
    error = type(line.exc_info[1] if line.exc_info else None).__name__
    if not broker.context.get_local("message"):
        return line.msg != "Message fetch error" and not LOST.search(error)
    if line.levelno < logging.CRITICAL:
        return not line.getMessage().startswith(f"{error}: ")
    with broker.context.get_local("record"):  # an acknowledgement comes when it is bound no more
        log.error("The broker was not told how it ended (%s), and may send it again", error)
    return False


lines = logging.getLogger("app.faststream")
lines.setLevel(logging.ERROR)
lines.addFilter(is_news)
for client in ("aio_pika", "aiokafka", "aiormq", "nats"):
    logging.getLogger(client).setLevel(logging.CRITICAL)
extra: dict[str, Any] = {"nats": {"max_reconnect_attempts": -1}}.get(KIND, {})
if KIND == "rabbit":
    extra = {"reconnect_interval": 1, "default_channel": kit.Channel(prefetch_count=10, on_return_raises=True)}
broker: Any = Broker(
    SERVERS,
    middlewares=[Correlation],
    logger=lines,
    graceful_timeout=GRACE,
    id_generator=lambda: current_request_id().removeprefix("-") or new_request_id(),
    **extra,
)
