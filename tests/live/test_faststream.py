"""FastStream with real brokers: a request, the messages that it sets off, and what happens when one of all dies."""

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
ANSWERS, AWAY = "answers", "does not answer ("
DEMO = "/api/faststream/demo"
WAYS = [("nats", "text"), ("rabbitmq", "json"), ("redis", "json")]
on_nats, on_nats_and_rabbitmq = (
    pytest.mark.parametrize("started", ways, indirect=True, ids="-".join, scope="module")
    for ways in (WAYS[:1], WAYS[:2])
)

ELSEWHERE = """
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
def streams(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with messages to probe it by."""
    return with_probes(connected, tmp_path_factory.mktemp("streams") / "project", "faststream")


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def started(
    request: pytest.FixtureRequest, streams: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Service and worker with one of the brokers; the service's own processes do not work on messages."""
    kind, log_format = request.param
    work = tmp_path_factory.mktemp(kind)
    with BROKERS[kind]() as broker:
        env = {"FASTSTREAM_URL": broker.url, "FASTSTREAM_REDELIVER_AFTER": "2", "LOG_FORMAT": log_format}
        env |= {"GRACEFUL_TIMEOUT": "4"}
        service = Service(streams, work / "api", app="app.main:app", env={**env, "FASTSTREAM_CONSUME": "false"})
        with System(broker, service, Worker(streams, work, RUN, env, ready=ANSWERS, name="worker")) as system:
            yield system


@pytest.fixture
def system(started: System) -> System:
    """The same, with all of its parts running."""
    return started.restart_stopped()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file; the handlers of /probe/slow and /probe/slower go on while it is there."""
    (tmp_path / "mark").touch()
    return tmp_path / "mark"


def check_hops(lines: list[AppLine], request_id: str) -> None:
    """Two messages, each with two lines; the second is the child of the first."""
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
    """All of the messages of each request are worked on."""
    for request_id in request_ids:
        check_hops(system.lines(request_id, 4), request_id)


def test_lines_of_a_request_have_its_id_through_two_processes_and_two_messages(system: System) -> None:
    request_id = system.send(DEMO)
    lines = system.lines(request_id, 4)
    check_hops(lines, request_id)
    assert {line.pid for line in lines} == {system.worker.process.pid}
    assert system.service.access_line(request_id).status == 202
    print_lines({"api": system.service, "worker": system.worker}, request_id)
    strays = [line for line in system.worker.output().split("\n") if line and line[0] not in "2{ "]
    assert strays == []


@on_nats_and_rabbitmq
def test_message_of_a_foreign_sender_keeps_its_id(system: System) -> None:
    project, request_id = system.service.project, new_id("foreign")
    subject = f"{tomllib.loads((project / 'pyproject.toml').read_text('utf-8'))['project']['name']}.demo"
    done = run_python(project, FOREIGN[system.broker.scheme], URL=system.broker.url, ID=request_id, SUBJECT=subject)
    assert done.returncode == 0, done.stderr
    check_demo(system, request_id)


@on_nats
def test_process_outside_of_service_and_worker_publishes_as_often_as_it_likes(system: System) -> None:
    request_id = new_id("elsewhere")
    done = run_python(system.service.project, ELSEWHERE, FASTSTREAM_URL=system.broker.url, ID=request_id)
    assert (done.returncode, done.stderr) == (0, "")
    works = [line.parent_id for line in system.lines(request_id, 16) if line.message == "working"]
    assert sorted(map(str, works)) == ["job-0", "job-0", "job-1", "job-1"]


@on_nats_and_rabbitmq
def test_message_that_cannot_be_sent_is_an_error_of_the_endpoint(system: System) -> None:
    for what in ["object"] + ["nowhere"] * (system.broker.scheme == "amqp"):  # to NATS anyone may say anything
        answer = system.service.request("POST", f"/probe/odd?what={what}")
        assert answer.status == 500, answer
        assert "has not taken" not in str(answer.json())


def test_message_of_a_killed_worker_is_redelivered_and_a_failed_one_is_not(system: System, mark: Path) -> None:
    """The next worker has the same IDs; a handler that fails, or whose reply is no message, is logged once."""
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
    for failed_id, (name, words) in failed.items():
        unhandled, closing = system.lines(failed_id, 2)
        assert words in unhandled.exception
        assert closing.message.startswith(f"{name} failed ")
        assert unhandled.current_id == closing.current_id != "-"
    check_demo(system, system.send(DEMO))


def test_worker_that_is_told_to_end_waits_for_its_handlers_for_a_while(system: System, mark: Path) -> None:
    """The message of one that takes longer comes again, as does one that nobody was there for while a broker died."""
    late_mark = mark.with_name("late")
    late_mark.touch()
    before = len(system.worker.app_text())
    soon, late = system.send(f"/probe/slow?mark={mark}"), system.send(f"/probe/slower?mark={late_mark}")
    for request_id in (soon, late):
        system.lines(request_id, 1, "wait begins")
    system.worker.signal(SIGTERM)
    wait_for(lambda: "shutting down" in system.worker.app_text()[before:], "a worker that ends")
    mark.unlink()
    assert system.worker.process.wait(30) == 0
    assert [line.message.rpartition(" ")[0] for line in system.lines(soon, 3)][1:] == ["wait", "Wait processed"]
    assert len(system.lines(late, 1, "Wait returned")) == 1
    late_mark.unlink()

    kept = system.send(DEMO)
    system.broker.stop(SIGKILL)
    system.worker.start(wait=False)
    wait_for(lambda: AWAY in system.worker.app_text()[before:], "a worker without a broker")
    system.broker.start()
    system.service.wait_ready()
    check_demo(system, kept)
    assert len(system.lines(late, 1, "Wait processed")) == 1
    assert len(system.lines(soon, 3)) == 3
    text = system.worker.app_text()[before:]
    assert text.count(AWAY) == 1
    assert "Traceback" not in text
    assert " ERROR " not in text


def test_nothing_that_was_accepted_is_lost_when_the_broker_dies(system: System, mark: Path) -> None:
    """While it is away, publishing is refused, noticed or not; each process says so once, and all of them reconnect."""
    before = {place: len(place.app_text()) for place in system.processes}
    accepted = [system.send(DEMO) for _ in range(5)]
    running = system.send(f"/probe/slow?mark={mark}")
    (begun,) = system.lines(running, 1, "wait begins")
    system.broker.stop(SIGKILL)
    mark.unlink()
    assert {system.service.request("POST", DEMO).status for _ in range(4)} == {503}, "noticed or not"

    def said(word: str) -> list[int]:
        return [place.app_text()[before[place] :].count(word) for place in system.processes]

    # One that a busy machine held up may have missed an answer before; then it has said that there is one again, too.
    wait_for(lambda: sum(said(AWAY)) - sum(said(ANSWERS)) == 3, "the word of each process that there is no broker")
    place = system.broker.url.partition("://")[2].partition("/")[0]
    system.check_refused(DEMO, f"The broker at {place} does not answer.", "faststream")
    system.broker.start()
    system.service.wait_ready()
    accepted += [system.send(DEMO) for _ in range(5)]
    for request_id in accepted:
        system.lines(request_id, 1, "Conclude processed")
    system.lines(running, 1, "Wait processed")
    if system.broker.scheme == "redis":  # the clients of the others keep the acknowledgement, or give no error
        (unheard,) = system.lines(running, 1, "The broker was not told how it ended (")
        assert unheard.current_id == begun.current_id
        assert len(system.lines(running, 2, "Wait processed")) == 2
    wait_for(
        lambda: said(AWAY) == said(ANSWERS),
        "one word of each process that there is a broker, for each that there is none",
    )
    assert [text for place, start in before.items() if "Traceback" in (text := place.app_text()[start:])] == []


@on_nats
def test_lines_of_many_requests_at_once_do_not_mix(system: System, tmp_path: Path) -> None:
    """A thousand requests, worked on by two workers of one command and by both processes of an API that consumes."""
    project, url = system.service.project, system.broker.url
    env = {"FASTSTREAM_URL": url, "FASTSTREAM_STREAM": "many"}
    service = Service(project, tmp_path / "api", app="app.main:app", env=env)
    worker = Worker(project, tmp_path, [*RUN, "--workers", "2"], env, ready=ANSWERS, name="worker")
    with System(system.broker, service, worker):
        wait_for(lambda: worker.output().count(ANSWERS) == 2, "two workers")
        sent = [SentRequest("POST", DEMO, new_id("many")) for _ in range(1000)]
        send_all(service.port, sent, connections=40)
        assert {one.status for one in sent} == {202}
        by_id: dict[str, list[AppLine]] = {}

        def all_ended() -> bool:
            by_id.clear()
            for line in (line for place in (service, worker) for line in parse_app(place.app_text())[0]):
                by_id.setdefault(line.request_id, []).append(line)
            return all(any("Conclude" in line.message for line in by_id.get(one.request_id, ())) for one in sent)

        wait_for(all_ended, "the last line of each request", seconds=120, interval=0.5)
        for one in sent:
            check_hops(by_id[one.request_id], one.request_id)
        pids = {line.pid for one in sent for line in by_id[one.request_id]}
        assert len(pids) == 4
        assert pids <= {*worker.workers(), *service.workers()}
        assert worker.stop() == 0
        assert [line for line in worker.output().split("\n") if line and line[0] not in "2 "] == []
        # Without a worker the API does the work alone, and leaves in peace.
        request_id = new_id("alone")
        assert service.request("POST", DEMO, request_id=request_id).status == 202
        check_hops(wait_for_app_lines([service], request_id, 4), request_id)
        assert service.stop() == 0
        assert "Traceback" not in service.app_text()


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_faststream_run_on_the_api_ends_with_a_sentence_that_says_what_to_run(
    streams: Path, options: list[str]
) -> None:
    done = subprocess.run(
        [streams / ".venv/bin/faststream", "run", "app.main:app", *options],
        cwd=streams, env=environment_of(streams), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count(f"`{' '.join(RUN)}`") == 1
    assert "Traceback" not in done.stderr
