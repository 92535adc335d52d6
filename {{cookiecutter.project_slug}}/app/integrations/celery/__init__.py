"""Celery: tasks in processes of their own, `celery -A app.integrations.celery worker`, under the request's ID."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from amqp.exceptions import AMQPError
from celery import Celery
from fastapi import FastAPI, Request
from kombu.exceptions import OperationalError
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from redis.exceptions import RedisError
from starlette.responses import Response as Answer

from app.common.errors import error_response
from app.common.exceptions import NotReady
from app.common.response import Response
from app.environment import EnvironmentSettings, project_metadata, read_settings, server_url
from app.integrations.celery import propagation
from app.settings import Settings

NO_ANSWER: Final = "The broker of the tasks does not answer."
PROBE_SECONDS: Final = 0.8
SEND_SECONDS: Final = 3

log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings):
    """Read from variables that begin with CELERY_."""

    model_config = SettingsConfigDict(env_prefix="CELERY_")

    broker_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=server_url("rediss?", "amqps?", "memory"),
        repr=False,
        description="Redis or RabbitMQ, as a URL",
    )
    result_backend: str | None = Field(
        None,
        pattern=server_url("rediss?"),
        repr=False,
        description="Redis, where results are kept; chords need it; empty: nowhere",
    )
    use_task_id: bool = Field(True, description="a task's own ID is that of Celery; false: each run has one of its own")
    visibility_timeout: int = Field(3600, ge=1, description="seconds until Redis gives a dead worker's task to another")


own = read_settings(SETTINGS)
with_rabbitmq = own.broker_url.startswith("amqp")
for_redis = {"visibility_timeout": own.visibility_timeout, "unacked_restore_throttle": 1, "socket_connect_timeout": 0.8}

app = Celery(__name__, broker=own.broker_url, backend=own.result_backend, include=[f"{__name__}.tasks"])
app.Task.Request = propagation.PropagatingRequest
app.Task.MaxRetriesExceededError = propagation.TriedTooOftenError
app.conf.update(
    use_task_id=own.use_task_id,
    task_default_queue=project_metadata().get("name", "service"),
    # Given back only when it is done: what a dead worker was at is done by another, so a task may run twice.
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=0.8,
    # RabbitMQ says that it has a task before the caller is told that it was sent.
    broker_transport_options={"confirm_publish": True} if with_rabbitmq else for_redis,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
)
# One thread, however long a broker keeps it waiting: those of the loop are for others.
probe = ThreadPoolExecutor(1, thread_name_prefix="celery-probe")


def limits(seconds: float) -> dict[str, float]:
    """Return the options of a connection on which nobody waits longer than that for a broker that hangs."""
    if with_rabbitmq:
        return {"read_timeout": seconds, "write_timeout": seconds}
    return {"socket_timeout": seconds}


def install(service: FastAPI, _settings: Settings) -> None:
    """Answer 503 where a task cannot be sent, and add the demo."""
    from app.integrations.celery.tasks import debug  # noqa: PLC0415 - it needs this module

    app.conf.broker_transport_options = {**app.conf.broker_transport_options, **limits(SEND_SECONDS)}
    for kind in (OperationalError, AMQPError):
        service.add_exception_handler(kind, not_sent)

    @service.post("/api/celery/demo", status_code=202, tags=["celery"])
    def demo() -> Response[str]:
        """Send a task that sends others, eleven in all: each of their lines has the ID of this request."""
        return Response(result=debug.delay(1).id)


def not_sent(_: Request, error: Exception) -> Answer:
    """Answer 503; the log says why."""
    log.warning("A task was not sent: %s", error)
    return error_response(503, NO_ANSWER)


async def ready() -> None:
    """Raise NotReady if the broker does not answer."""
    try:
        await asyncio.get_running_loop().run_in_executor(probe, ask)
    except (OperationalError, AMQPError, RedisError, OSError):
        raise NotReady(NO_ANSWER) from None


def ask() -> None:
    """Connect to the broker; raise what its library raises if that fails."""
    with app.connection_for_write(transport_options=limits(PROBE_SECONDS)) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=PROBE_SECONDS)
