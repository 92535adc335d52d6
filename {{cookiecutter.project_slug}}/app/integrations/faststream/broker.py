"""The broker connection, the headers of messages, and the log record that ends each message."""

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
URL_PATTERN = server_url("nats", "rediss?", "amqps?") + r"|^kafka://[\w.,:\[\]-]+$"
URL_HELP = "URL of the broker: nats://, redis://, rediss://, amqp://, amqps:// or kafka:// (without user and password)"
# Matches the class names of exceptions that the clients raise when the connection or a response is missing.
LOST = re.compile("Connection|Time(d)?[oO]ut|IncorrectState|InvalidState|StreamResponse|Available|Unavailable|Closed")
UNAVAILABLE = "The broker at %s is unavailable (%s); reconnecting. Check that it runs and that FASTSTREAM_URL is right"
log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings, env_prefix="FASTSTREAM_"):
    """Where the broker is, which processes handle messages, and when messages are redelivered."""

    url: str = Field("nats://127.0.0.1:4222", pattern=URL_PATTERN, repr=False, description=URL_HELP)
    consume: bool = Field(True, description="true: API processes also handle messages; false: only workers do")
    stream: str | None = Field(None, pattern=r"^[\w-]+$", description="prefix of channel names; empty: project's name")
    redeliver_after: int = Field(30, ge=1, description="seconds until redelivery without acknowledgement: NATS, Redis")
    alive_file: Path | None = Field(None, description="file touched while the broker is available, for health checks")


settings = read_settings(SETTINGS)
KIND = {"a": "rabbit", "k": "kafka", "n": "nats", "r": "redis"}[settings.url[0]]
LOGIN, ADDRESS = re.findall(r"://(.*@)?([^/?#]*)", settings.url.replace(",nats://", ","))[0]
SERVERS = {"kafka": ADDRESS, "nats": [f"nats://{LOGIN}{host}" for host in ADDRESS.split(",")]}.get(KIND, settings.url)
DRAIN_SECONDS = get_settings().graceful_timeout / 4
lib: Any = import_module(f"faststream.{KIND}")
NAME = settings.stream or project_metadata().get("name", "service")
STREAM: Any = lib.JStream(NAME, subjects=[f"{NAME}.>"], max_age=604_800) if KIND == "nats" else None


class BrokerUnavailable(NotReady):
    """The broker does not respond, or did not acknowledge a published message."""


class CorrelationMiddleware(BaseMiddleware[Any, Any]):
    """Binds the task record of a message until its replies are published; writes the IDs to published headers."""

    record: TaskRecord | None = None

    async def consume_scope(self, call_next: Callable[[Any], Any], msg: StreamMessage[Any]) -> object:
        """Begin the task record: the request ID is that of the header `x-request-id`, or else the correlation ID."""
        if self.context.get_local("message") is msg:  # replies and fetched messages have no handler
            self.record = extract(msg.headers, msg.headers.get(MESSAGE_KEY) or new_request_id(), msg.correlation_id)
            self.context.set_local("record", self.record)
            self.record.begin(self.context.get_local("handler_").specification.call_name)
        return await call_next(msg)

    async def after_processed(self, _: object = None, error: BaseException | None = None, __: object = None) -> bool:
        """Log how the message ended; requeue it if the broker did not acknowledge its reply."""
        if record := self.record:
            requeued = isinstance(error, (BrokerUnavailable, NackMessage, asyncio.CancelledError))
            if error and not requeued:
                log_failure(error)
            state = "returned" if requeued else "failed" if error else "processed"
            record.finish(record.name, state, logging.WARNING if error else logging.INFO, failed=state == "failed")
            record.__exit__()
            if isinstance(error, BrokerUnavailable):
                await asyncio.sleep(KIND in ("kafka", "rabbit"))  # 1 s: these redeliver immediately
                raise NackMessage(**({"delay": settings.redeliver_after} if KIND == "nats" else {})) from error
        return False

    async def publish_scope(self, call_next: Callable[[Any], Any], cmd: Any) -> object:  # noqa: ANN401
        """Publish; raise BrokerUnavailable without an acknowledgement in 2 seconds (a request has its own timeout)."""
        cmd.headers = {MESSAGE_KEY: new_request_id()} | cmd.headers
        inject(cmd.headers, cmd.headers[MESSAGE_KEY])
        if not broker.available:
            await ready()
        try:
            async with asyncio.timeout(None if cmd.publish_type is PublishType.REQUEST else 2):
                return await call_next(cmd)
        except Exception as error:
            if not any(LOST.search(base.__name__) for base in type(error).__mro__):
                raise
            raise BrokerUnavailable(f"The broker at {ADDRESS} did not acknowledge the message; try again.") from error


def log_failure(error: BaseException) -> None:
    """Log an error; for a validation error only its places and types, because pydantic's message quotes the value."""
    cause = getattr(error, "original_error", error)
    if not isinstance(cause, ValidationError):
        return log_unhandled(error)
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'result'}: {fault['type']}" for fault in cause.errors()]
    return log.error("The message or the handler's return value is invalid: %s", "; ".join(faults[:5]))


class Broker(getattr(lib, f"{KIND.title()}Broker")):  # type: ignore[misc]
    """FastStream's broker; it connects in the background and reconnects after an outage."""

    available = False
    connection_task: asyncio.Task[None] | None = None

    async def __aexit__(self, *_: object) -> None:
        """Disconnect, unless `start` was called: `async with broker:` is for processes that only publish."""
        if not self.connection_task:
            await self.stop()

    async def _connect(self) -> object:
        """Open a TCP connection first: the client may retry for long, or leave resources open when it fails."""
        host, _, port = ADDRESS.rpartition(":")
        async with asyncio.timeout(5):
            if port.isdigit() and "," not in host:
                (await asyncio.open_connection(host.strip("[]"), int(port)))[1].close()
            return await super()._connect()

    async def start(self) -> None:
        """Connect in the background; until the broker is available, publishing raises BrokerUnavailable."""
        self.connection_task = asyncio.create_task(self._stay_connected())

    async def stop(self, *_: object) -> None:
        """Wait for running handlers, at most a quarter of GRACEFUL_TIMEOUT, and disconnect."""
        task, self.connection_task, self.available = self.connection_task, None, False
        if task and task.cancel():
            await asyncio.wait([task])
        with suppress(Exception):
            await super().stop()

    async def _stay_connected(self) -> None:
        attempts = 0
        while True:
            try:
                async with asyncio.timeout(5):
                    if not self.available:
                        if STREAM:
                            STREAM.declare = True  # FastStream resets it after the first attempt, even a failed one
                        await super().start()
                    await ready()
                if not self.available:
                    log.info("Connected to the broker at %s", ADDRESS)
                attempts, self.available = 0, True
                if settings.alive_file:
                    settings.alive_file.touch()
                await asyncio.sleep(0.5)
            except Exception as error:
                attempts, self.available = attempts + 1, False
                if attempts == 1:
                    log.warning(UNAVAILABLE, ADDRESS, type(error).__name__)
                with suppress(Exception):
                    await asyncio.wait_for(super().stop(), DRAIN_SECONDS + 1)
                await asyncio.sleep(min(attempts, 5))


async def ready() -> None:
    """Raise BrokerUnavailable if the broker does not respond within 0.7 seconds."""
    with suppress(Exception):
        if await broker.ping(0.7):
            return
    raise BrokerUnavailable(f"The broker at {ADDRESS} is unavailable.")


def keep_record(record: logging.LogRecord) -> bool:
    """Drop FastStream's records that repeat ours: how a message ended, and that the broker is unavailable."""
    error = type(record.exc_info[1] if record.exc_info else None).__name__
    if not broker.context.get_local("message"):
        return record.msg != "Message fetch error" and not LOST.search(error)
    if record.levelno < logging.CRITICAL:
        return not record.getMessage().startswith(f"{error}: ")
    with broker.context.get_local("record"):  # FastStream acknowledges after it was unbound
        log.error("Acknowledging the message failed (%s); the broker may redeliver it", error)
    return False


library_log = logging.getLogger("app.faststream")
library_log.setLevel(logging.ERROR)
library_log.addFilter(keep_record)
for name in ("aio_pika", "aiokafka", "aiormq", "nats"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
options: dict[str, Any] = {"nats": {"max_reconnect_attempts": -1}}.get(KIND, {})
if KIND == "rabbit":
    options = {"reconnect_interval": 1, "default_channel": lib.Channel(prefetch_count=10, on_return_raises=True)}
broker: Any = Broker(
    SERVERS,
    middlewares=[CorrelationMiddleware],
    logger=library_log,
    graceful_timeout=DRAIN_SECONDS,
    id_generator=lambda: current_request_id().removeprefix("-") or new_request_id(),
    **options,
)
