"""FastStream with real brokers: IDs from a request through its messages, and killed workers and brokers."""

from __future__ import annotations

import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.support.brokers import BROKERS
from tests.support.client import new_id
from tests.support.faults import run_python
from tests.support.lines import AppLine, parse_app
from tests.support.load import SentRequest, send_all
from tests.support.process import environment_of
from tests.support.service import Service
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.workers import Worker, print_lines, wait_for_app_lines

from .probes import with_probes

pytestmark = pytest.mark.full
RUN = ["faststream", "run", "app.integrations.faststream.worker:worker"]
CONNECTED, UNAVAILABLE = "Connected to the broker at", "is unavailable ("
DEMO = "/api/faststream/demo"
BROKER_AND_FORMAT = [("nats", "text"), ("rabbitmq", "json"), ("redis", "json")]
on_nats, on_nats_and_rabbitmq = (
    pytest.mark.parametrize("started", values, indirect=True, ids="-".join, scope="module")
    for values in (BROKER_AND_FORMAT[:1], BROKER_AND_FORMAT[:2])
)

PRODUCER = """
import asyncio, os
from app.common.task_record import TaskRecord
from app.integrations.faststream import broker, demo

async def publish(number):
    with TaskRecord(os.environ["ID"], f"job-{number}"):
        async with broker:
            await demo.publish("demo")
            await demo.publish("demo")

for number in range(2):
    asyncio.run(publish(number))
"""

FOREIGN = {
    "nats": """
import asyncio, nats, os
async def main():
    client = await nats.connect(os.environ["URL"])
    await client.jetstream().publish(os.environ["SUBJECT"], b"demo", headers={"X-Request-ID": os.environ["ID"]})
    await client.close()
asyncio.run(main())
""",
    "amqp": """
import aio_pika, asyncio, os
async def main():
    async with await aio_pika.connect(os.environ["URL"]) as connection:
        message = aio_pika.Message(b"demo", headers={"X-Request-ID": os.environ["ID"]}, correlation_id="its-own-id")
        await (await connection.channel()).default_exchange.publish(message, os.environ["SUBJECT"])
asyncio.run(main())
""",
}


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with the handlers and endpoints of the probe."""
    return with_probes(connected, tmp_path_factory.mktemp("streams") / "project", "faststream")


@pytest.fixture(scope="module", params=BROKER_AND_FORMAT, ids="-".join)
def started(request: pytest.FixtureRequest, probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Service and worker with one of the brokers; only the worker handles messages."""
    kind, log_format = request.param
    work = tmp_path_factory.mktemp(kind)
    with BROKERS[kind]() as broker:
        env = {"FASTSTREAM_URL": broker.url, "FASTSTREAM_REDELIVER_AFTER": "2", "LOG_FORMAT": log_format}
        env |= {"GRACEFUL_TIMEOUT": "4"}
        service = Service(probed, work / "api", app="app.main:app", env={**env, "FASTSTREAM_CONSUME": "false"})
        with System(broker, service, Worker(probed, work, RUN, env, ready=CONNECTED, name="worker")) as system:
            yield system


@pytest.fixture
def system(started: System) -> System:
    """`started`, with all of its processes running."""
    return started.restart_stopped()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file; the handlers of /probe/slow and /probe/slower run until it is deleted."""
    (tmp_path / "mark").touch()
    return tmp_path / "mark"


def check_hops(lines: list[AppLine], request_id: str) -> None:
    """Check the log records of two messages, two of each; the second message is the child of the first."""
    seen = Counter((line.message.rpartition(" ")[0] or line.message, line.current_id) for line in lines)
    by_message: dict[str, AppLine] = {}
    for line in lines:
        by_message.setdefault(line.message.partition(" ")[0], line)
    work, done = by_message["Work"], by_message["Conclude"]
    assert {line.request_id for line in lines} == {request_id}
    assert work.current_id != done.current_id
    assert (work.parent_id, done.parent_id) == ("-", work.current_id)
    assert seen == {
        ("working", work.current_id): 1,
        ("Work processed", work.current_id): 1,
        ("done", done.current_id): 1,
        ("Conclude processed", done.current_id): 1,
    }


def check_demo(system: System, *request_ids: str) -> None:
    """Check that both messages of each request are handled."""
    for request_id in request_ids:
        check_hops(system.lines(request_id, 4), request_id)


def test_log_records_have_the_request_id_through_two_processes_and_two_messages(system: System) -> None:
    request_id = system.send(DEMO)
    lines = system.lines(request_id, 4)
    check_hops(lines, request_id)
    assert {line.pid for line in lines} == {system.worker.process.pid}
    assert system.service.access_line(request_id).status == 202
    print_lines({"api": system.service, "worker": system.worker}, request_id)
    unformatted = [line for line in system.worker.output().split("\n") if line and line[0] not in "2{ "]
    assert unformatted == []


@on_nats_and_rabbitmq
def test_message_of_a_foreign_producer_keeps_its_request_id(system: System) -> None:
    project, request_id = system.service.project, new_id("foreign")
    subject = f"{tomllib.loads((project / 'pyproject.toml').read_text('utf-8'))['project']['name']}.demo"
    done = run_python(project, FOREIGN[system.broker.scheme], URL=system.broker.url, ID=request_id, SUBJECT=subject)
    assert done.returncode == 0, done.stderr
    check_demo(system, request_id)


@on_nats
def test_script_publishes_repeatedly_in_several_event_loops(system: System) -> None:
    request_id = new_id("script")
    done = run_python(system.service.project, PRODUCER, FASTSTREAM_URL=system.broker.url, ID=request_id)
    assert (done.returncode, done.stderr) == (0, "")
    parents = [line.parent_id for line in system.lines(request_id, 16) if line.message == "working"]
    assert sorted(map(str, parents)) == ["job-0", "job-0", "job-1", "job-1"]


@on_nats_and_rabbitmq
def test_endpoint_returns_500_for_a_message_that_cannot_be_published(system: System) -> None:
    for what in ["object"] + ["nowhere"] * (system.broker.scheme == "amqp"):  # NATS accepts any subject
        response = system.service.request("POST", f"/probe/odd?what={what}")
        assert response.status == 500, response
        assert "did not acknowledge" not in str(response.json())


def test_message_of_a_killed_worker_is_redelivered_and_a_failed_one_is_not(system: System, mark: Path) -> None:
    """The next worker logs the same IDs. A handler that fails, or whose reply cannot be serialized, is logged once."""
    failed = {
        system.send("/probe/bad"): ("Fail", "RuntimeError: on purpose"),
        system.send("/probe/odd?what=reply"): ("Give", "PydanticSerializationError: "),
    }
    for request_id in failed:
        system.lines(request_id, 2)
    request_id = system.send(f"/probe/slow?mark={mark}")
    (first,) = system.lines(request_id, 1, "wait begins")
    system.worker.process.send_signal(SIGKILL)
    system.worker.process.wait(10)
    mark.unlink()
    system.worker.start()
    (ended,) = system.lines(request_id, 1, "Wait processed")
    assert ended.pid != first.pid
    assert (ended.current_id, ended.parent_id) == (first.current_id, first.parent_id)
    assert len(system.lines(request_id, 2, "wait begins")) == 2
    for failed_id, (name, error) in failed.items():
        unhandled, closing = system.lines(failed_id, 2)
        assert error in unhandled.exception
        assert closing.message.startswith(f"{name} failed ")
        assert unhandled.current_id == closing.current_id != "-"
    check_demo(system, system.send(DEMO))


def test_sigterm_gives_running_handlers_a_limited_time(system: System, mark: Path) -> None:
    """The message of a slower handler is redelivered, as is a message without a worker while the broker is killed."""
    late_mark = mark.with_name("late")
    late_mark.touch()
    before = len(system.worker.app_text())
    soon, late = system.send(f"/probe/slow?mark={mark}"), system.send(f"/probe/slower?mark={late_mark}")
    for request_id in (soon, late):
        system.lines(request_id, 1, "wait begins")
    system.worker.signal(SIGTERM)
    wait_for(lambda: "shutting down" in system.worker.app_text()[before:], "the shutdown of the worker")
    mark.unlink()
    assert system.worker.process.wait(30) == 0
    assert [line.message.rpartition(" ")[0] for line in system.lines(soon, 3)][1:] == ["wait", "Wait processed"]
    assert len(system.lines(late, 1, "Wait returned")) == 1
    late_mark.unlink()

    pending = system.send(DEMO)
    system.broker.stop(SIGKILL)
    system.worker.start(wait=False)
    wait_for(lambda: UNAVAILABLE in system.worker.app_text()[before:], "the warning of the worker")
    system.broker.start()
    system.service.wait_ready()
    check_demo(system, pending)
    assert len(system.lines(late, 1, "Wait processed")) == 1
    assert len(system.lines(soon, 3)) == 3
    text = system.worker.app_text()[before:]
    assert text.count(UNAVAILABLE) == 1
    assert "Traceback" not in text
    assert " ERROR " not in text


def test_accepted_messages_survive_a_killed_broker(system: System, mark: Path) -> None:
    """During the outage, publishing fails with 503; each process logs one warning, and all of them reconnect."""
    before = {process: len(process.app_text()) for process in system.processes}
    accepted = [system.send(DEMO) for _ in range(5)]
    running = system.send(f"/probe/slow?mark={mark}")
    (begun,) = system.lines(running, 1, "wait begins")
    system.broker.stop(SIGKILL)
    mark.unlink()
    assert {system.service.request("POST", DEMO).status for _ in range(4)} == {503}, "whether detected or not"

    def counts(text: str) -> list[int]:
        return [process.app_text()[before[process] :].count(text) for process in system.processes]

    # On a busy machine a process may have missed a ping before the outage; then it has also logged that it reconnected.
    wait_for(lambda: sum(counts(UNAVAILABLE)) - sum(counts(CONNECTED)) == 3, "a warning of each process")
    address = system.broker.url.partition("://")[2].partition("/")[0]
    system.check_refused(DEMO, f"The broker at {address} is unavailable.", "faststream")
    system.broker.start()
    system.service.wait_ready()
    accepted += [system.send(DEMO) for _ in range(5)]
    for request_id in accepted:
        system.lines(request_id, 1, "Conclude processed")
    system.lines(running, 1, "Wait processed")
    if system.broker.scheme == "redis":  # other clients store the acknowledgement or raise no error
        (failure,) = system.lines(running, 1, "Acknowledging the message failed (")
        assert failure.current_id == begun.current_id
        assert len(system.lines(running, 2, "Wait processed")) == 2
    wait_for(
        lambda: counts(UNAVAILABLE) == counts(CONNECTED),
        "as many reconnections as warnings in each process",
    )
    assert [text for process, start in before.items() if "Traceback" in (text := process.app_text()[start:])] == []


@on_nats
def test_log_records_of_concurrent_requests_do_not_mix(system: System, tmp_path: Path) -> None:
    """A thousand requests: two workers of one command and both processes of the API handle their messages."""
    project, url = system.service.project, system.broker.url
    env = {"FASTSTREAM_URL": url, "FASTSTREAM_STREAM": "many"}
    service = Service(project, tmp_path / "api", app="app.main:app", env=env)
    worker = Worker(project, tmp_path, [*RUN, "--workers", "2"], env, ready=CONNECTED, name="worker")
    with System(system.broker, service, worker):
        wait_for(lambda: worker.output().count(CONNECTED) == 2, "two workers")
        sent = [SentRequest("POST", DEMO, new_id("many")) for _ in range(1000)]
        send_all(service.port, sent, connections=40)
        assert {one.status for one in sent} == {202}
        by_id: dict[str, list[AppLine]] = {}

        def all_finished() -> bool:
            by_id.clear()
            for line in (line for process in (service, worker) for line in parse_app(process.app_text())[0]):
                by_id.setdefault(line.request_id, []).append(line)
            return all(any("Conclude" in line.message for line in by_id.get(one.request_id, ())) for one in sent)

        wait_for(all_finished, "the last record of each request", seconds=120, interval=0.5)
        for one in sent:
            check_hops(by_id[one.request_id], one.request_id)
        pids = {line.pid for one in sent for line in by_id[one.request_id]}
        assert len(pids) == 4
        assert pids <= {*worker.workers(), *service.workers()}
        assert worker.stop() == 0
        assert [line for line in worker.output().split("\n") if line and line[0] not in "2 "] == []
        # Without a worker the API handles all messages and stops without errors.
        request_id = new_id("alone")
        assert service.request("POST", DEMO, request_id=request_id).status == 202
        check_hops(wait_for_app_lines([service], request_id, 4), request_id)
        assert service.stop() == 0
        assert "Traceback" not in service.app_text()


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_faststream_run_on_the_api_exits_with_3_and_names_the_right_command(probed: Path, options: list[str]) -> None:
    done = subprocess.run(
        [probed / ".venv/bin/faststream", "run", "app.main:app", *options],
        cwd=probed, env=environment_of(probed), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count(f"`{' '.join(RUN)}`") == 1
    assert "Traceback" not in done.stderr
