"""Celery application: tasks run in workers (`celery -A app.integrations.celery worker`) with the ID of the request."""

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
from starlette.responses import Response as StarletteResponse

from app.common.errors import error_response
from app.common.exceptions import NotReady
from app.common.response import Response
from app.environment import EnvironmentSettings, project_metadata, read_settings, server_url
from app.integrations.celery import propagation
from app.settings import Settings

UNAVAILABLE: Final = "The Celery broker is unavailable."
CHECK_SECONDS: Final = 0.8
SEND_SECONDS: Final = 3

log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings):
    """The settings of Celery, from environment variables with the prefix CELERY_."""

    model_config = SettingsConfigDict(env_prefix="CELERY_")
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=server_url("rediss?", "amqps?", "memory"),
        repr=False,
        description="URL of the broker, Redis or RabbitMQ",
    )
    result_backend: str | None = Field(
        None,
        pattern=server_url("rediss?"),
        repr=False,
        description="URL of the Redis that stores results; chords need one; empty: results are not stored",
    )
    use_task_id: bool = Field(True, description="log Celery's ID as the task ID; false: each run has a new task ID")
    visibility_timeout: int = Field(3600, ge=1, description="seconds until Redis redelivers an unacknowledged task")


settings = read_settings(SETTINGS)
uses_rabbitmq = settings.broker_url.startswith("amqp")
redis_options = {
    "visibility_timeout": settings.visibility_timeout,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 0.8,
}
app = Celery(__name__, broker=settings.broker_url, backend=settings.result_backend, include=[f"{__name__}.tasks"])
app.Task.Request = propagation.PropagatingRequest
app.Task.MaxRetriesExceededError = propagation.MaxRetriesError
app.conf.update(
    use_task_id=settings.use_task_id,
    task_default_queue=project_metadata().get("name", "service"),
    # Late acknowledgement: the task of a killed worker is redelivered, so a task may run twice (at-least-once).
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=0.8,
    # Publisher confirms: sending a task returns only when RabbitMQ has accepted it.
    broker_transport_options={"confirm_publish": True} if uses_rabbitmq else redis_options,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
)
# All readiness checks share this thread: a broker that hangs must not block those of the event loop's executor.
check_executor = ThreadPoolExecutor(1, thread_name_prefix="celery-check")


def timeout_options(seconds: float) -> dict[str, float]:
    """Return transport options with this read and write timeout, for a broker that accepts connections but hangs."""
    return {"read_timeout": seconds, "write_timeout": seconds} if uses_rabbitmq else {"socket_timeout": seconds}


def install(service: FastAPI, _settings: Settings) -> None:
    """Respond with 503 if a task cannot be sent, and add the demo endpoint."""
    from app.integrations.celery.tasks import debug  # noqa: PLC0415 - it imports this module

    app.conf.broker_transport_options = {**app.conf.broker_transport_options, **timeout_options(SEND_SECONDS)}
    for error_type in (OperationalError, AMQPError):
        service.add_exception_handler(error_type, handle_send_error)

    @service.post("/api/celery/demo", status_code=202, tags=["celery"])
    def demo() -> Response[str]:
        """Send a task that sends others, eleven in all; each of their log lines has the ID of this request."""
        return Response(result=debug.delay(1).id)


def handle_send_error(_: Request, error: Exception) -> StarletteResponse:
    """Log why the task could not be sent, and respond with 503."""
    log.warning("Task not sent, broker unavailable or rejecting it (%s): check the broker and CELERY_BROKER_URL", error)
    return error_response(503, UNAVAILABLE)


async def ready() -> None:
    """Raise NotReady if the broker is unavailable."""
    try:
        await asyncio.get_running_loop().run_in_executor(check_executor, check_broker)
    except (OperationalError, AMQPError, RedisError, OSError):
        raise NotReady(UNAVAILABLE) from None


def check_broker() -> None:
    """Connect to the broker; raise the client library's exception if that fails."""
    with app.connection_for_write(transport_options=timeout_options(CHECK_SECONDS)) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=CHECK_SECONDS)
