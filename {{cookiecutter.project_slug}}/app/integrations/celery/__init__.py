"""Celery: tasks in processes of their own, `celery -A app.integrations.celery worker`, under the request's ID."""

import asyncio

from celery import Celery
from fastapi import FastAPI
from kombu.exceptions import OperationalError
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from app.common.errors import error_response
from app.common.exceptions import NotReady
from app.common.response import Response
from app.integrations.celery import trail
from app.settings import EnvironmentSettings, Settings, read_settings

BROKERS = "^(rediss?|amqps?|memory)://"
NO_ANSWER = "The broker of the tasks does not answer."


class SETTINGS(EnvironmentSettings):
    """Read from variables that begin with CELERY_."""

    model_config = SettingsConfigDict(env_prefix="CELERY_")

    broker_url: str = Field("redis://127.0.0.1:6379/0", pattern=BROKERS, repr=False, description="Redis or RabbitMQ")
    result_backend: str | None = Field(None, repr=False, description="where results are kept; chords need it")
    use_task_id: bool = Field(True, description="a task's own ID is that of Celery; false: each run has one of its own")
    visibility_timeout: int = Field(3600, ge=1, description="seconds until Redis gives a dead worker's task to another")


own = read_settings(SETTINGS)
for_redis = {"visibility_timeout": own.visibility_timeout, "unacked_restore_throttle": 1, "socket_connect_timeout": 0.8}
app = Celery(__name__, broker=own.broker_url, backend=own.result_backend, include=[f"{__name__}.tasks"])
app.Task.Request = trail.TrailRequest
app.conf.update(
    use_task_id=own.use_task_id,
    # Given back only when it is done: what a dead worker was at is done by another, so a task may run twice.
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=0.8,
    # RabbitMQ says that it has a task before the caller is told that it was sent.
    broker_transport_options={"confirm_publish": True} if own.broker_url.startswith("amqp") else for_redis,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
)


def install(service: FastAPI, _settings: Settings) -> None:
    """Answer 503 where a task cannot be sent, and add the demo."""
    from app.integrations.celery.tasks import debug  # noqa: PLC0415 - it needs this module

    service.add_exception_handler(OperationalError, lambda *_: error_response(503, NO_ANSWER))

    @service.post("/api/celery/demo", status_code=202, tags=["celery"])
    def demo() -> Response[str]:
        """Send a task that sends others, eleven in all: each of their lines has the ID of this request."""
        return Response(result=debug.delay(1).id)


async def ready() -> None:
    """Raise NotReady if the broker does not answer."""
    try:
        with app.connection_for_write() as connection:
            await asyncio.to_thread(connection.ensure_connection, max_retries=1, interval_start=0, timeout=0.8)
    except (OperationalError, OSError):
        raise NotReady(NO_ANSWER) from None
