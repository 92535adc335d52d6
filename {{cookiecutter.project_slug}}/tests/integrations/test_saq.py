"""SAQ without a broker: what its hooks do, what the service answers while nobody listens, and what no line may show."""

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

NOBODY = "redis://127.0.0.1:1/0"
SILENT = "The broker of the jobs does not answer."
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> Application:
    """No other integration, which would look for its own broker; and a broker that is not there."""
    for place in ("app.integrations.names", "app.integrations.processes.names"):
        monkeypatch.setattr(place, lambda: ["saq"])
    monkeypatch.setattr(queue, "_gone", {})
    monkeypatch.setattr(queue, "_back", {})
    return configure(SAQ_URL=NOBODY)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that a broker of the test's own has been given."""
    jobs: list[Job] = []

    async def keep(_: RedisQueue, job: Job, *args: object, **options: object) -> Job:  # noqa: ARG001
        jobs.append(job)
        logging.getLogger("saq").info("Kept %s", job)
        return job

    for name in ("_enqueue", "_update", "_retry", "_finish"):
        monkeypatch.setattr(RedisQueue, name, keep)
    return jobs


def context(job: Job) -> dict[str, Any]:
    """Return what a worker gives to its hooks."""
    return {"job": job, "worker": Worker(**settings())}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401
    """Run it in a loop of its own; a minute that is not asked for would be too long for a test."""
    return asyncio.run(asyncio.wait_for(coroutine, 5))


def test_what_a_request_enqueues_has_its_id_and_no_parent(kept: list[Job]) -> None:
    with TaskRecord(ID, "-"):
        run(get_queue().enqueue("demo", tree=True))
    assert kept[0].meta == {REQUEST_ID_KEY: ID}


def test_what_a_job_enqueues_has_the_job_as_its_parent(kept: list[Job]) -> None:
    with TaskRecord(ID, "job-1", "job-0"):
        run(get_queue().enqueue("demo"))
    assert kept[0].meta == {REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"}


def test_what_is_enqueued_outside_of_everything_has_an_id_of_its_own(kept: list[Job], logs: Logs) -> None:
    """So has each occurrence of cron, and its line shows it."""
    for _ in range(2):
        run(get_queue().enqueue("demo", key="cron:demo"))
    assert len({job.meta[REQUEST_ID_KEY] for job in kept}) == 2
    assert PARENT_ID_KEY not in kept[0].meta
    for job in kept:
        assert len(logs.wait("error.log", f" [{job.meta[REQUEST_ID_KEY]}] [cron:demo -] Kept demo cron:demo")) == 1


@pytest.mark.parametrize("parent", [{}, {PARENT_ID_KEY: "job-1"}])
def test_a_retry_keeps_its_ids(parent: dict[str, str], kept: list[Job]) -> None:
    job = Job("demo", key="job-2", queue=get_queue(), meta={REQUEST_ID_KEY: ID, **parent})

    async def fail() -> None:
        await before_process(ctx := context(job))
        await job.retry("a traceback")
        await job.enqueue()  # by itself, as a job does that goes on later
        await after_process(ctx)

    run(fail())
    assert [one.meta for one in kept] == [{REQUEST_ID_KEY: ID, **parent}] * 2


def test_a_job_from_elsewhere_is_not_its_own_parent(kept: list[Job], logs: Logs) -> None:
    """It has no ID, gets one, and keeps it when it is tried again."""
    job = Job("demo", key="job-2", queue=get_queue())

    async def fail() -> None:
        await before_process(context(job))
        await job.retry("a traceback")
        assert job.meta == {REQUEST_ID_KEY: current_request_id()}
        assert UUID4.fullmatch(current_request_id())

    run(fail())
    assert len(kept) == 1
    assert len(logs.wait("error.log", " [job-2 -] Retrying demo job-2")) == 1


@pytest.mark.parametrize(
    "meta",
    [{REQUEST_ID_KEY: "bad one"}, {REQUEST_ID_KEY: ID, "X-Request-Id": "bad\none"}, {"X-REQUEST-ID": 7}, [ID], None],
)
def test_a_doubtful_id_is_replaced_once(meta: Any, kept: list[Job]) -> None:  # noqa: ANN401
    """It is what the job has from then on: when it is taken, and in all of its attempts."""
    job = Job("demo", key="job-2", queue=get_queue(), meta=meta)

    async def fail() -> str:
        await job.update(status=Status.ACTIVE)
        await before_process(ctx := context(Job("demo", key="job-2", queue=job.queue, meta=kept[-1].meta)))
        await ctx["job"].retry("a traceback")
        return current_request_id()

    seen = run(fail())
    assert UUID4.fullmatch(seen)
    assert [one.meta for one in kept] == [{REQUEST_ID_KEY: seen}] * 2
    assert record_of(kept[-1]).request_id == seen


def test_a_key_tells_neither_host_nor_time(kept: list[Job]) -> None:
    run(get_queue().enqueue("demo"))
    run(get_queue().enqueue("demo", key="mine"))
    assert UUID4.fullmatch(kept[0].key)
    assert kept[1].key == "mine"


def process(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    """Let a worker do a job."""

    async def work() -> None:
        worker: Worker[Any] = Worker(**settings())
        job.queue = worker.queue
        monkeypatch.setattr(worker.queue, "dequeue", give)
        assert await worker.process()

    async def give(**_: object) -> Job:
        return job

    run(work())


@pytest.mark.usefixtures("kept")
def test_no_job_floods_the_log(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function, which nobody has, and its key are written at no length, in no traceback, and with its IDs."""
    job = Job("f" * 200_000, key="k" * 50_000, meta={REQUEST_ID_KEY: ID})
    process(monkeypatch, job)
    assert job.status is Status.FAILED
    logging.getLogger("saq").warning("Aborting %s", f"saq:job:{job.key}")
    lines = logs.wait("error.log", "Aborting")
    assert "LookupError: This worker has no such function." in "".join(logs.error)
    assert len(lines) == 1
    assert max(map(len, logs.error)) < 2000
    assert all(f" [{ID}] [{'k' * 128} -] " in line for line in logs.error if "ffff" in line)


@pytest.mark.usefixtures("kept")
def test_a_job_that_cannot_even_begin_has_its_ids(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails before its IDs are bound."""

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("not written")

    monkeypatch.setattr(RedisQueue, "update", fail)
    process(monkeypatch, Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"}))
    (line,) = logs.wait("error.log", "Error processing job")
    assert f" ERROR [{ID}] [job-2 job-1] Error processing job demo job-2" in line


def test_a_broker_that_goes_while_a_job_is_taken_is_waited_for(
    kept: list[Job], monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    answers: list[Exception | None] = [ConnectionError("gone"), None]

    async def update(*_: object, **__: object) -> None:
        if error := answers.pop(0):
            raise error

    async def count(*_: object) -> int:
        return 0

    monkeypatch.setattr(RedisQueue, "update", update)
    monkeypatch.setattr(RedisQueue, "count", count)
    process(monkeypatch, Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID}))
    assert [job.status for job in kept] == [Status.COMPLETE]
    assert len(logs.wait("error.log", f" WARNING [{ID}] [job-2 -] The broker is away: gone")) == 1
    assert "Traceback" not in "".join(logs.error)


@pytest.mark.parametrize("words", ["Sweeping job %s", "Sweeping %s"])
def test_a_line_about_a_job_has_its_ids(words: str, logs: Logs) -> None:
    settings()
    job = Job("demo", key="job-2", meta={REQUEST_ID_KEY: ID, PARENT_ID_KEY: "job-1"})
    logging.getLogger("saq").info(words, job.info(full=False))
    with TaskRecord("another-request", "job-3"):
        logging.getLogger("saq").info("In %s", job)
    logging.getLogger("saq").info("%d of %s", 1, ["a"])
    assert f"INFO [{ID}] [job-2 job-1] {words % 'demo job-2'}" in logs.wait("error.log", "Sweeping")[0]
    assert "INFO [another-request] [job-3 -] In demo job-2" in logs.wait("error.log", "In demo")[0]
    assert "INFO [-] 1 of ['a']" in logs.wait("error.log", "1 of")[0]


def test_each_loop_has_a_queue_of_its_own(kept: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed with its loop, however it was come by; a worker's is that of its jobs."""
    closed: list[RedisQueue] = []

    async def disconnect(queue: RedisQueue) -> None:
        closed.append(queue)
        raise ConnectionError("SAQ says good-bye to a broker that is gone")

    async def twice() -> RedisQueue:
        await get_queue().enqueue("demo")
        found = get_queue()
        assert isinstance(found, RedisQueue)
        assert found is get_queue()
        return found

    async def work() -> None:
        worker = make_queue(waits=True)
        await worker.connect()
        assert get_queue() is worker
        await worker.disconnect()

    monkeypatch.setattr(RedisQueue, "disconnect", disconnect)
    run(get_queue().enqueue("demo"))
    assert run(twice()) is closed[1]
    run(work())
    assert len({id(one) for one in closed}) == len(closed) == 3
    assert len(kept) == 2
    assert queue._queues == {}


def test_a_loop_that_was_left_open_keeps_nothing() -> None:
    loop = asyncio.new_event_loop()

    async def get() -> None:
        get_queue()

    loop.run_until_complete(get())
    loop.close()
    run(get())
    assert loop not in queue._queues


def test_the_queue_has_the_name_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another service on the same broker would take its jobs else."""
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
def test_each_attempt_has_a_closing_line(status: Status, state: str, level: str, logs: Logs) -> None:
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
def test_arguments_and_results_are_in_no_line(level: str, kept: list[Job], logs: Logs, configure: Configure) -> None:
    configure(LOG_LEVEL=level)
    job = Job("demo", key="job-2", kwargs={"password": SECRET}, result=SECRET, error=SECRET)

    async def work() -> None:
        await get_queue().enqueue(job)
        await job.finish(Status.COMPLETE, result=SECRET)

    run(work())
    assert len(kept) == 2
    logging.getLogger("saq").error("Error processing job %s", job)
    assert SECRET not in repr(job)
    assert len(logs.wait("error.log", "Error processing job demo job-2")) == 1
    assert not any(SECRET in line for line in logs.error)


@pytest.mark.parametrize("url", [NOBODY, "postgresql://user@127.0.0.1:1/jobs"])
def test_the_service_starts_without_its_broker_and_says_so(url: str, configure: Configure, logs: Logs) -> None:
    with connect(configure(SAQ_URL=url)) as client:
        response = client.post("/api/saq/demo", headers={HEADER: ID})
        assert (response.status_code, response.headers[HEADER]) == (503, ID)
        assert response.json() == {
            "code": 503,
            "message": "failed",
            "cause": SILENT,
            "request_id": ID,
            "result": None,
        }
        assert client.post("/api/saq/demo").status_code == 503
        response = client.get("/readyz")
        assert (response.status_code, response.json()["cause"]) == (503, f"saq: {SILENT}")
        assert client.get("/livez").status_code == 200
    assert len(logs.wait("error.log", "The broker is away: ")) == 1


def test_the_demo_is_accepted(kept: list[Job], alone: Application) -> None:
    response = connect(alone).post("/api/saq/demo", headers={HEADER: ID})
    assert (response.status_code, response.json()["request_id"]) == (202, ID)
    assert [(job.function, job.key, job.meta) for job in kept] == [
        ("demo", response.json()["result"], {REQUEST_ID_KEY: ID})
    ]
    assert kept[0].retries > 1, "a worker that dies would be the end of it"


def test_not_ready_without_a_broker() -> None:
    with pytest.raises(NotReady, match=SILENT):
        run(ready())


GONE = ConnectionError("gone")


@pytest.mark.parametrize(
    ("answers", "tries"),
    [([GONE, TimeoutError(), GONE, None, None], 3), ([GONE, None, ConnectionError("old"), None], 2)],
    ids=["outage", "connection lost in the outage"],
)
def test_a_worker_waits_for_its_broker(
    answers: list[Exception | None], tries: int, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """It says once that it is away, does not ask all the time, and says once that it is back."""
    answers = answers.copy()
    pauses: list[float] = []

    async def answer(*_: object) -> None:
        if error := answers.pop(0):
            raise error

    async def count(*_: object) -> int:
        await answer()
        return 0

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(RedisQueue, "dequeue", answer)
    monkeypatch.setattr(RedisQueue, "count", count)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    run(make_queue(waits=True).dequeue(5))
    assert (pauses, answers) == ([1] * tries, [])
    said = [line.partition(" WARNING ")[2] for line in logs.wait("error.log", "The broker is", 2)]
    assert said == ["[-] The broker is away: gone", "[-] The broker is back"]


def test_call_within_a_transaction_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost in the midst of a transaction would be lost for ever: who began it begins anew."""

    async def finish(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(RedisQueue, "finish", finish)
    patient = make_queue(waits=True)
    with pytest.raises(ConnectionError):
        run(patient.finish(Job("demo", queue=patient), Status.ABORTED, connection=object()))


def test_a_fault_of_ours_is_no_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_address_that_is_none_is_refused_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAQ_URL", url)
    with pytest.raises(SystemExit) as refused:
        read_settings(SETTINGS)
    assert str(refused.value).startswith("The environment variable SAQ_URL is invalid: ")
    assert "SAQ_URL: Redis or PostgreSQL" in str(refused.value)
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
def test_an_address_is_taken_and_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAQ_URL", url)
    assert read_settings(SETTINGS).url == url
    assert SECRET not in repr(read_settings(SETTINGS))
    assert SECRET not in repr(get_queue())


@pytest.mark.parametrize(("debug", "status"), [("true", 200), ("false", 404)])
def test_the_pages_of_saq_are_for_development(debug: str, status: int, configure: Configure) -> None:
    client = TestClient(configure(DEBUG=debug))
    assert client.get("/saq/").status_code == status


def test_the_worker_is_the_services_own(monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    """It takes what `settings` gives; its lines go where the service's go, once, although SAQ has set up logging."""
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


def test_a_worker_without_a_folder_for_its_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_PATH", "/dev/null/log")
    current.clear()
    with pytest.raises(SystemExit, match="no file can be written there"):
        settings()
