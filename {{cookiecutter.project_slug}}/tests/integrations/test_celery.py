"""Celery in this process, with a broker in memory, and with a broker that is unavailable."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu.pools
import pytest
from celery import current_task, signals
from celery.contrib.testing.worker import start_worker

from app.common.exceptions import NotReady
from app.common.request_id import current_request_id
from app.common.task_record import TaskRecord
from app.environment import read_settings
from app.integrations import celery as integration
from app.integrations.celery import SETTINGS, app, propagation
from app.main import Application
from tests.support import HEADER, ID, UUID4, Logs, connect

log = logging.getLogger("work")
REDIS = "redis://127.0.0.1:{}/0"


@app.task
def probe() -> dict[str, str]:
    log.info("probing")
    return {"request_id": current_request_id(), "task_id": current_task.request.id}


@app.task
def send() -> None:
    log.info("sending")
    probe.delay()


@app.task(bind=True, max_retries=1)
def flaky(self: Any) -> None:  # noqa: ANN401
    log.info("attempt")
    if not self.request.retries:
        raise self.retry(countdown=0)


@app.task
def fails(secret: str) -> None:
    raise ValueError(len(secret))


@pytest.fixture
def eager() -> Iterator[None]:
    """Run tasks in the caller's thread. Not with `monkeypatch`, which cannot undo a change to Celery's settings."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@contextmanager
def broker_at(url: str) -> Iterator[None]:
    """Use another broker inside the `with` block."""
    url_before, options_before = app.conf.broker_url, app.conf.broker_transport_options
    point_to(url, {"polling_interval": 0.01})  # the default of memory:// is 1 s
    try:
        yield
    finally:
        kombu.pools.reset()
        point_to(url_before, options_before)


def point_to(url: str, options: dict[str, Any]) -> None:
    app.conf.broker_url, app.conf.broker_transport_options = url, options
    app._pool = app.amqp._producer_pool = None


@pytest.fixture
def sent() -> Iterator[list[dict[str, Any]]]:
    """The headers of all tasks sent during the test; the broker is in memory."""
    headers: list[dict[str, Any]] = []

    def add_headers(**message: Any) -> None:  # noqa: ANN401
        headers.append(message["headers"])

    signals.after_task_publish.connect(add_headers, weak=False)
    with broker_at("memory://"):
        yield headers
        app.control.purge()
    signals.after_task_publish.disconnect(add_headers)


def test_sent_task_has_the_ids_in_its_headers(sent: list[dict[str, Any]]) -> None:
    with TaskRecord(ID, "task-1", "task-0"):
        probe.delay()
        probe.apply_async(headers={"x-request-id": "by-hand-1"})
    probe.delay()
    assert [headers["x-request-id"] for headers in sent[:2]] == [ID, "by-hand-1"]
    assert [headers["x-parent-id"] for headers in sent[:2]] == ["task-1", "task-1"]
    assert UUID4.fullmatch(sent[2]["x-request-id"])
    assert "x-parent-id" not in sent[2]
    assert sent[0]["parent_id"] is None  # the header that Celery uses itself is unchanged


@pytest.mark.usefixtures("sent")
def test_worker_runs_tasks_with_the_ids_of_their_messages(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the message carries the IDs to the worker's thread. With `use_task_id=False`, each run has a new task ID."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    propagation._set_up_logging()
    with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
        with TaskRecord(ID, "-"):
            send_id, flaky_id, fails_id = send.delay().id, flaky.delay().id, fails.delay("hunter2").id
        for text, count in (("probing", 1), ("attempt", 2), ("failure", 1), ("success", 3)):
            assert len(logs.wait("error.log", text, count)) == count
        monkeypatch.setitem(app.conf.changes, "use_task_id", False)
        with TaskRecord("each-run", "-"):
            flaky.delay()
        assert len(logs.wait("error.log", "success", 4)) == 4
    lines = [json.loads(line) for line in logs.error]

    def ids(message: str, request_id: str = ID) -> list[tuple[str, str]]:
        found = [line for line in lines if (line["message"], line["request_id"]) == (message, request_id)]
        return [(line["current_id"], line["parent_id"]) for line in found]

    assert ids("sending") == [(send_id, "-")]
    assert [parent_id for _, parent_id in ids("probing")] == [send_id]
    assert ids("attempt") == [(flaky_id, "-")] * 2
    assert len(set(ids("attempt", "each-run"))) == len(ids("attempt", "each-run")) == 2
    (failed,) = [line for line in lines if line["level"] == "ERROR"]
    assert (failed["request_id"], failed["current_id"], failed["parent_id"]) == (ID, fails_id, "-")
    output = "\n".join(logs.error)
    assert output.count("ValueError: 7") == 1
    assert not [text for text in ("hunter2", "succeeded in", '"data"') if text in output]


@pytest.mark.usefixtures("eager")
def test_eager_task_has_the_request_id_of_its_caller_or_of_its_headers(app: Application, logs: Logs) -> None:
    @app.get("/eager")
    def call() -> list[str]:
        inner = send.delay() and probe.delay().get()["request_id"]
        return [inner, current_request_id()]

    assert connect(app).get("/eager", headers={HEADER: ID}).json() == [ID, ID]
    assert sum(line.endswith(" probing") for line in logs.error) == 2
    assert all(f"[{ID}]" in line for line in logs.error)
    valid, forged = (probe.apply(headers={"x-request-id": sent}).get()["request_id"] for sent in (ID, "forged\nline"))
    assert valid == ID
    assert UUID4.fullmatch(forged)


@pytest.mark.parametrize("url", [REDIS.format(1), "amqp://127.0.0.1:1//"])
def test_unavailable_broker_gives_503_without_traceback(
    url: str, configure: Callable[..., Application], logs: Logs
) -> None:
    service = configure()
    with broker_at(url):
        response = connect(service).post("/api/celery/demo", headers={HEADER: ID})
        with pytest.raises(NotReady, match="is unavailable"):
            asyncio.run(integration.ready())
    assert (response.status_code, response.headers[HEADER], response.json()["request_id"]) == (503, ID, ID)
    assert response.json()["cause"] == integration.UNAVAILABLE
    assert len(logs.access) == 1
    assert not any("Traceback" in line for line in logs.error)


def test_hanging_broker_does_not_block_threads(
    configure: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending a task and the readiness checks time out; all checks share one thread."""
    monkeypatch.setattr(integration, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(integration, "SEND_SECONDS", 0.2)

    async def check_readiness() -> None:
        results = await asyncio.gather(*(integration.ready() for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [NotReady] * 3
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncio_")]

    with socket.create_server(("127.0.0.1", 0)) as server, broker_at(REDIS.format(server.getsockname()[1])):
        watchdog = threading.Timer(20, server.shutdown, [socket.SHUT_RDWR])  # ends a call that has no timeout
        watchdog.start()
        began = time.monotonic()
        try:
            assert connect(configure()).post("/api/celery/demo").status_code == 503
            asyncio.run(check_readiness())
        finally:
            watchdog.cancel()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
@pytest.mark.parametrize(
    "url", ["http://user:hunter2@host", "nonsense", "sqs://", "redis://:hunter2/x@host", "amqp://u:hunter2#x@host"]
)
def test_invalid_url_is_rejected_without_its_password(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(SystemExit, match=f"{name} is invalid") as error:
        read_settings(SETTINGS)
    assert "hunter2" not in str(error.value)
