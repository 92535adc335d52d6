"""SAQ without a broker: IDs of jobs, responses during an outage, and secrets that must not appear in the log."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from saq import Job, Status, Worker
from saq.queue.redis import RedisQueue
from starlette.testclient import TestClient

from app.common.constants import PARENT_ID_KEY, REQUEST_ID_KEY
from app.common.exceptions import NotReady
from app.common.request_id import current_request_id
from app.common.task_record import TaskRecord
from app.environment import project_metadata, read_settings
from app.integrations.saq import SETTINGS, after_process, before_process, get_queue, queue, ready, settings
from app.integrations.saq.queue import make_queue, record_of
from app.main import Application
from app.settings import current
from tests.conftest import reset
from tests.support import HEADER, ID, UUID4, Logs, connect

Configure = Callable[..., Application]

UNREACHABLE = "redis://127.0.0.1:1/0"
UNAVAILABLE = "The SAQ broker is unavailable."
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def application(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> Application:
    """The service without other integrations, which would need their brokers; the SAQ broker is unreachable."""
    for name in ("app.integrations.integration_names", "app.integrations.processes.integration_names"):
        monkeypatch.setattr(name, lambda: ["saq"])
    monkeypatch.setattr(queue, "_outage", {})
    monkeypatch.setattr(queue, "_recovered", {})
    return configure(SAQ_URL=UNREACHABLE)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that SAQ has stored in a simulated broker."""
    jobs: list[Job] = []

    async def store(_: RedisQueue, job: Job, *args: object, **options: object) -> Job:  # noqa: ARG001
        jobs.append(job)
        logging.getLogger("saq").info("Stored %s", job)
        return job

    for name in ("_enqueue", "_update", "_retry", "_finish"):
        monkeypatch.setattr(RedisQueue, name, store)
    return jobs


def context(job: Job) -> dict[str, Any]:
    """Return the context that a worker passes to its hooks."""
    return {"job": job, "worker": Worker(**settings())}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
    """Run a coroutine in a new event loop; fail after 5 seconds, since a worker's call may take a minute."""
    return asyncio.run(asyncio.wait_for(coroutine, 5))


def test_job_enqueued_by_a_request_has_its_id_and_no_parent(stored: list[Job]) -> None:
    with TaskRecord(ID, "-"):
        run(get_queue().enqueue("demo", tree=True))
    assert stored[0].meta == {REQUEST_ID_KEY: ID}


def test_job_enqueued_by_a_job_has_that_job_as_its_parent(stored: list[Job]) -> None:
    with TaskRecord(ID, "job-1", "job-0"):
        run(get_queue().enqueue("demo"))
    assert stored[0].meta == {REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"}


def test_job_enqueued_outside_of_a_request_has_a_new_id(stored: list[Job], logs: Logs) -> None:
    """This applies to each occurrence of a cron job, and its log line shows the ID."""
    for _ in range(2):
        run(get_queue().enqueue("demo", key="cron:demo"))
    assert len({job.meta[REQUEST_ID_KEY] for job in stored}) == 2
    assert PARENT_ID_KEY not in stored[0].meta
    for job in stored:
        assert len(logs.wait("error.log", f" [{job.meta[REQUEST_ID_KEY]}] [cron:demo -] Stored demo cron:demo")) == 1


@pytest.mark.parametrize("parent", [{}, {PARENT_ID_KEY: "job-1"}])
def test_retried_job_keeps_its_ids(parent: dict[str, str], stored: list[Job]) -> None:
    job = Job("demo", key="job-2", queue=get_queue(), meta={REQUEST_ID_KEY: ID, **parent})

    async def fail() -> None:
        await before_process(ctx := context(job))
        await job.retry("a traceback")
        await job.enqueue()  # a job that enqueues itself again, to continue later
        await after_process(ctx)

    run(fail())
    assert [saved.meta for saved in stored] == [{REQUEST_ID_KEY: ID, **parent}] * 2


def test_retried_job_of_a_foreign_producer_is_not_its_own_parent(stored: list[Job], logs: Logs) -> None:
    """It has no request ID; the worker assigns one, and a retry keeps it."""
    job = Job("demo", key="job-2", queue=get_queue())

    async def fail() -> None:
        await before_process(context(job))
        await job.retry("a traceback")
        assert job.meta == {REQUEST_ID_KEY: current_request_id()}
        assert UUID4.fullmatch(current_request_id())

    run(fail())
    assert len(stored) == 1
    assert len(logs.wait("error.log", " [job-2 -] Retrying demo job-2")) == 1


@pytest.mark.parametrize(
    "meta",
    [
        {REQUEST_ID_KEY: "not valid"},
        {REQUEST_ID_KEY: ID, "X-Request-Id": "not\nvalid"},
        {"X-REQUEST-ID": 7},
        [ID],
        None,
    ],
)
def test_invalid_id_is_replaced_once(meta: Any, stored: list[Job]) -> None:  # noqa: ANN401
    """The job keeps the new ID in all of its attempts."""
    job = Job("demo", key="job-2", queue=get_queue(), meta=meta)

    async def fail() -> str:
        await job.update(status=Status.ACTIVE)
        await before_process(ctx := context(Job("demo", key="job-2", queue=job.queue, meta=stored[-1].meta)))
        await ctx["job"].retry("a traceback")
        return current_request_id()

    request_id = run(fail())
    assert UUID4.fullmatch(request_id)
    assert [saved.meta for saved in stored] == [{REQUEST_ID_KEY: request_id}] * 2
    assert record_of(stored[-1]).request_id == request_id


def test_job_key_is_a_random_uuid_unless_given(stored: list[Job]) -> None:
    run(get_queue().enqueue("demo"))
    run(get_queue().enqueue("demo", key="mine"))
    assert UUID4.fullmatch(stored[0].key)
    assert stored[1].key == "mine"


def process(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """Let a worker process a job."""

    async def work() -> None:
        worker: Worker[Any] = Worker(**settings())
        job.queue = worker.queue
        monkeypatch.setattr(worker.queue, "dequeue", give)
        assert await worker.process()

    async def give(**_: object) -> Job:
        return job

    run(work())


@pytest.mark.usefixtures("stored")
def test_long_function_name_and_key_are_truncated_in_the_log(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has no such function. The traceback is short, too, and every line has the IDs of the job."""
    job = Job("f" * 200_000, key="k" * 50_000, meta={REQUEST_ID_KEY: ID})
    process(monkeypatch, job)
    assert job.status is Status.FAILED
    logging.getLogger("saq").warning("Aborting %s", f"saq:job:{job.key}")
    lines = logs.wait("error.log", "Aborting")
    assert "LookupError: The job's function is not registered in this worker; deploy its code." in "".join(logs.error)
    assert len(lines) == 1
    assert max(map(len, logs.error)) < 2000
    assert all(f" [{ID}] [{'k' * 128} -] " in line for line in logs.error if "ffff" in line)


@pytest.mark.usefixtures("stored")
def test_error_before_a_job_starts_is_logged_with_its_ids(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAQ logs the error before `before_process` has bound the IDs."""

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("not written")

    monkeypatch.setattr(RedisQueue, "update", fail)
    process(monkeypatch, Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"}))
    (line,) = logs.wait("error.log", "Error processing job")
    assert f" ERROR [{ID}] [job-2 job-1] Error processing job demo job-2" in line


def test_worker_waits_for_a_broker_that_fails_while_a_job_is_dequeued(
    stored: list[Job], monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    results: list[Exception | None] = [ConnectionError("gone"), None]

    async def update(*_: object, **__: object) -> None:
        if error := results.pop(0):
            raise error

    async def count(*_: object) -> int:
        return 0

    monkeypatch.setattr(RedisQueue, "update", update)
    monkeypatch.setattr(RedisQueue, "count", count)
    process(monkeypatch, Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID}))
    assert [job.status for job in stored] == [Status.COMPLETE]
    assert len(logs.wait("error.log", f" WARNING [{ID}] [job-2 -] SAQ broker unavailable: gone; ")) == 1
    assert "Traceback" not in "".join(logs.error)


@pytest.mark.parametrize("template", ["Sweeping job %s", "Sweeping %s"])
def test_saq_log_line_about_a_job_has_its_ids(template: str, logs: Logs) -> None:
    settings()
    job = Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"})
    logging.getLogger("saq").info(template, job.info(full=False))
    with TaskRecord("another-request", "job-3"):
        logging.getLogger("saq").info("In %s", job)
    logging.getLogger("saq").info("%d of %s", 1, ["a"])
    assert f"INFO [{ID}] [job-2 job-1] {template % 'demo job-2'}" in logs.wait("error.log", "Sweeping")[0]
    assert "INFO [another-request] [job-3 -] In demo job-2" in logs.wait("error.log", "In demo")[0]
    assert "INFO [-] 1 of ['a']" in logs.wait("error.log", "1 of")[0]


def test_each_event_loop_has_a_separate_queue(stored: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is closed when its loop ends. Jobs share the queue of their worker."""
    closed: list[RedisQueue] = []

    async def disconnect(queue: RedisQueue) -> None:
        closed.append(queue)
        raise ConnectionError("SAQ sends a command to an unavailable broker")

    async def twice() -> RedisQueue:
        await get_queue().enqueue("demo")
        second = get_queue()
        assert isinstance(second, RedisQueue)
        assert second is get_queue()
        return second

    async def work() -> None:
        worker_queue = make_queue(retry_calls=True)
        await worker_queue.connect()
        assert get_queue() is worker_queue
        await worker_queue.disconnect()

    monkeypatch.setattr(RedisQueue, "disconnect", disconnect)
    run(get_queue().enqueue("demo"))
    assert run(twice()) is closed[1]
    run(work())
    assert len(set(map(id, closed))) == len(closed) == 3
    assert len(stored) == 2
    assert queue._queues == {}


def test_queue_of_a_closed_loop_is_removed() -> None:
    loop = asyncio.new_event_loop()

    async def get() -> None:
        get_queue()

    loop.run_until_complete(get())
    loop.close()
    run(get())
    assert loop not in queue._queues


def test_queue_has_the_name_of_the_project_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same name, another service on the same broker would take its jobs."""
    assert get_queue().name == project_metadata()["name"]
    monkeypatch.setenv("SAQ_QUEUE", "mine")
    assert get_queue().name == "mine"


@pytest.mark.parametrize(
    ("status", "state", "level"),
    [
        (Status.COMPLETE, "complete", "INFO"),
        (Status.QUEUED, "retried", "WARNING"),
        (Status.ACTIVE, "cancelled", "WARNING"),
        (Status.FAILED, "failed", "WARNING"),
        (Status.ABORTED, "aborted", "WARNING"),
    ],
)
def test_end_of_each_attempt_is_logged(status: Status, state: str, level: str, logs: Logs) -> None:
    job = Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"})

    async def work() -> None:
        await before_process(ctx := context(job))
        assert current_request_id() == ID
        job.status = status
        await after_process(ctx)
        assert current_request_id() == "-"

    run(work())
    (line,) = logs.wait("error.log", f"demo {state} ")
    assert f" {level} [{ID}] [job-2 job-1] demo {state} 0.0" in line


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_arguments_and_results_are_not_logged(level: str, stored: list[Job], logs: Logs, configure: Configure) -> None:
    configure(LOG_LEVEL=level)
    job = Job("demo", key="job-2", kwargs={"password": SECRET}, result=SECRET, error=SECRET)

    async def work() -> None:
        await get_queue().enqueue(job)
        await job.finish(Status.COMPLETE, result=SECRET)

    run(work())
    assert len(stored) == 2
    logging.getLogger("saq").error("Error processing job %s", job)
    assert SECRET not in repr(job)
    assert len(logs.wait("error.log", "Error processing job demo job-2")) == 1
    assert not any(SECRET in line for line in logs.error)


@pytest.mark.parametrize("url", [UNREACHABLE, "postgresql://user@127.0.0.1:1/jobs"])
def test_service_starts_while_the_broker_is_unavailable(url: str, configure: Configure, logs: Logs) -> None:
    with connect(configure(SAQ_URL=url)) as client:
        response = client.post("/api/saq/demo", headers={HEADER: ID})
        assert (response.status_code, response.headers[HEADER]) == (503, ID)
        assert response.json() == {
            "code": 503,
            "message": "failed",
            "cause": UNAVAILABLE,
            "request_id": ID,
            "result": None,
        }
        assert client.post("/api/saq/demo").status_code == 503
        response = client.get("/readyz")
        assert (response.status_code, response.json()["cause"]) == (503, f"saq: {UNAVAILABLE}")
        assert client.get("/livez").status_code == 200
    assert len(logs.wait("error.log", "SAQ broker unavailable: ")) == 1


def test_demo_request_enqueues_a_job(stored: list[Job], application: Application) -> None:
    response = connect(application).post("/api/saq/demo", headers={HEADER: ID})
    assert (response.status_code, response.json()["request_id"]) == (202, ID)
    assert [(job.function, job.key, job.meta) for job in stored] == [
        ("demo", response.json()["result"], {REQUEST_ID_KEY: ID})
    ]
    assert stored[0].retries > 1, "the job of a killed worker would be lost"


def test_service_is_not_ready_while_the_broker_is_unavailable() -> None:
    with pytest.raises(NotReady, match=UNAVAILABLE):
        run(ready())


GONE = ConnectionError("gone")


@pytest.mark.parametrize(
    ("results", "retries"),
    [([GONE, TimeoutError(), GONE, None, None], 3), ([GONE, None, ConnectionError("old"), None], 2)],
    ids=["outage", "connection-lost-in-the-outage"],
)
def test_worker_retries_until_the_broker_is_available(
    results: list[Exception | None], retries: int, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """It logs the start and the end of the outage once, and pauses for a second between calls."""
    results = results.copy()
    pauses: list[float] = []

    async def respond(*_: object) -> None:
        if error := results.pop(0):
            raise error

    async def count(*_: object) -> int:
        await respond()
        return 0

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(RedisQueue, "dequeue", respond)
    monkeypatch.setattr(RedisQueue, "count", count)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    run(make_queue(retry_calls=True).dequeue(5))
    assert (pauses, results) == ([1] * retries, [])
    warnings = [line.partition(" WARNING ")[2] for line in logs.wait("error.log", "SAQ broker ", 2)]
    assert warnings == [
        "[-] SAQ broker unavailable: gone; check that it runs and that SAQ_URL is right",
        "[-] SAQ broker available again",
    ]


def test_call_in_a_transaction_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction has lost its connection; the outer call is retried on a new one."""

    async def finish(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(RedisQueue, "finish", finish)
    retrying = make_queue(retry_calls=True)
    with pytest.raises(ConnectionError):
        run(retrying.finish(Job("demo", queue=retrying), Status.ABORTED, connection=object()))


def test_type_error_is_not_reported_as_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def enqueue(*_: object) -> None:
        raise TypeError("Object of type UUID is not JSON serializable")

    monkeypatch.setattr(RedisQueue, "_enqueue", enqueue)
    with pytest.raises(TypeError):
        run(get_queue().enqueue("demo"))


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:{SECRET}@127.0.0.1/",
        f"http://user:{SECRET}@127.0.0.1/",
        SECRET,
        f"redis://:{SECRET}/1@127.0.0.1:6379/0",
        f"redis://:{SECRET}#1@127.0.0.1:6379/0",
        f"postgresql://user:{SECRET}%zz@127.0.0.1/jobs",
        f"postgresql://user:{SECRET}@1@127.0.0.1/jobs",
    ],
)
def test_invalid_url_is_refused_without_logging_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAQ_URL", url)
    with pytest.raises(SystemExit) as refused:
        read_settings(SETTINGS)
    assert str(refused.value).startswith("The environment variable SAQ_URL is invalid: ")
    assert "SAQ_URL: broker URL, Redis or PostgreSQL" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        f"rediss://user:{SECRET}@broker.example.org:6380/1?socket_timeout=10",
        f"redis://:{SECRET}%40@[::1]:6379/0",
        f"postgresql://user:{SECRET}@one.example.org:5432,two.example.org/jobs?connect_timeout=5",
        "postgres:///jobs?host=/run/postgresql",
    ],
)
def test_valid_url_is_accepted_and_its_password_hidden(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAQ_URL", url)
    assert read_settings(SETTINGS).url == url
    assert SECRET not in repr(read_settings(SETTINGS))
    assert SECRET not in repr(get_queue())


@pytest.mark.parametrize(("debug", "status"), [("true", 200), ("false", 404)])
def test_saq_web_interface_is_served_only_in_debug_mode(debug: str, status: int, configure: Configure) -> None:
    client = TestClient(configure(DEBUG=debug))
    assert client.get("/saq/").status_code == status


def test_worker_has_the_settings_and_the_logging_of_the_service(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """A log line is written once, although SAQ has also configured logging."""
    reset()
    logging.root.addHandler(own := logging.StreamHandler())
    monkeypatch.setenv("SAQ_CONCURRENCY", "3")
    monkeypatch.setenv("SAQ_QUEUE", "mine")
    monkeypatch.setenv("SAQ_SWEEP", "7")
    worker: Worker[Any] = Worker(**settings())
    assert (worker.concurrency, worker.queue.name, worker.timers["sweep"]) == (3, "mine", 7)
    assert set(worker.functions) == {"demo", "demo_in_thread"}
    with TaskRecord(ID, "job-1"):
        logging.getLogger("saq").info("once")
    assert own not in logging.root.handlers
    assert len(logs.wait("error.log", f"[{ID}] [job-1 -] once")) == 1


def test_worker_does_not_start_if_the_log_folder_is_not_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_PATH", "/dev/null/log")
    current.clear()
    with pytest.raises(SystemExit, match="no file can be written there"):
        settings()
