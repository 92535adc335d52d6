"""FastStream with real brokers: a request, the messages that it sets off, and what happens when one of all dies."""

from __future__ import annotations

import shutil
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from tests.support.brokers import BROKERS, Broker
from tests.support.client import new_id
from tests.support.faults import run_python
from tests.support.lines import AppLine, parse_app
from tests.support.logs import Logs
from tests.support.process import environment_of
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker, show, wait_for_trail

RUN = ["faststream", "run", "app.integrations.faststream.worker:worker"]
ANSWERS, AWAY = "answers", "does not answer ("
DEMO = "/api/faststream/demo"
KINDS = ["nats", "redis", "rabbitmq"]

# Handlers that wait and that fail, and a way to reach them.
PROBE = """

import asyncio
import os
from pathlib import Path

on_slow, slow = channel("slow")
on_bad, bad = channel("bad")
on_odd, odd = channel("odd")
_, result = channel("result")


async def wait(text: str) -> None:
    log.info("wait begins")
    while Path(text).exists():
        await asyncio.sleep(0.02)
    log.info("wait ends")


async def fail(_text: str) -> None:
    raise RuntimeError("on purpose")


async def give(_text: str) -> Any:
    return object()


if settings.consume or IS_WORKER:
    on_slow(wait)
    on_bad(fail)
    on_odd(result(give))

demo_only = install


def install(app: "FastAPI", service: "Settings") -> None:
    demo_only(app, service)

    @app.post("/probe/slow")
    async def publish_slow() -> Response[str]:
        await slow.publish(os.environ["MARK"])
        return Response()

    @app.post("/probe/bad")
    async def publish_bad() -> Response[str]:
        await bad.publish("")
        return Response()

    @app.post("/probe/odd")
    async def publish_odd(what: str) -> Response[str]:
        if what == "object":
            await result.publish(object())
        elif what == "nowhere":
            await broker.publish("", "nowhere")
        else:
            await odd.publish("")
        return Response()
"""

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
    "rabbitmq": """
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
    """Copy the service, with this integration only, and give it the probe."""
    copy = tmp_path_factory.mktemp("streams") / "project"
    shutil.copytree(connected, copy, symlinks=True)
    for folder in (copy / "app" / "integrations").iterdir():
        if folder.is_dir() and folder.name != "faststream":
            shutil.rmtree(folder)
    package = copy / "app" / "integrations" / "faststream" / "__init__.py"
    package.write_text(package.read_text("utf-8") + PROBE, "utf-8")
    return copy


class System:
    """A service, a worker and the broker between them; what they are not asked to be, they are not."""

    def __init__(self, project: Path, work: Path, broker: Broker, **env: str) -> None:
        self.mark = work / "mark"
        variables = {"FASTSTREAM_URL": broker.url, "FASTSTREAM_REDELIVER_AFTER": "2", "MARK": str(self.mark), **env}
        self.broker = broker
        self.service = Service(
            project, work / "api", app="app.main:app", env={"FASTSTREAM_CONSUME": "false", **variables}
        )
        self.worker = Worker(project, work, RUN, variables, ready=ANSWERS, name="worker")

    @property
    def places(self) -> list[Logs]:
        """Where lines are."""
        return [self.service, self.worker]

    def ask(self, target: str = DEMO, status: int = 202, request_id: str = "") -> str:
        """Publish by a request, and return its ID."""
        request_id = request_id or new_id("message")
        answer = self.service.request("POST", target, request_id=request_id)
        body = answer.json()
        assert (answer.status, answer.one(), body["request_id"]) == (status, request_id, request_id), answer
        return request_id


@contextmanager
def running(
    project: Path, work: Path, kind: str, *, worker: bool = True, up: bool = True, **env: str
) -> Iterator[System]:
    """Start a broker unless told otherwise, the service and a worker."""
    with ExitStack() as stack:
        broker = BROKERS[kind]()
        if up:
            stack.enter_context(broker)
        else:
            stack.callback(broker.__exit__, None, None, None)
        system = System(project, work, broker, **env)
        stack.enter_context(system.service)
        if worker:
            system.worker.start(wait=up)
            stack.push(system.worker.__exit__)
        if up:
            system.service.wait_ready()
        yield system


def check_hops(lines: list[AppLine], request_id: str) -> None:
    """Two messages, each with two lines; the second is the child of the first."""
    told = Counter((line.message.rpartition(" ")[0] or line.message, line.current_id) for line in lines)
    by_message: dict[str, AppLine] = {}
    for line in lines:
        by_message.setdefault(line.message.partition(" ")[0], line)
    work, done = by_message["Work"], by_message["Conclude"]
    assert {line.request_id for line in lines} == {request_id}
    assert work.current_id != done.current_id
    assert (work.parent_id, done.parent_id) == ("-", work.current_id)
    assert told == {
        ("working", work.current_id): 1,
        ("Work processed", work.current_id): 1,
        ("done", done.current_id): 1,
        ("Conclude processed", done.current_id): 1,
    }


@pytest.mark.parametrize(
    ("kind", "log_format"), [("nats", "text"), ("nats", "json"), ("redis", "json"), ("rabbitmq", "text")]
)
def test_trail(streams: Path, tmp_path: Path, kind: str, log_format: str) -> None:
    """One ID through two processes and two messages; a foreign sender's as well; no line of any other form."""
    with running(streams, tmp_path, kind, LOG_FORMAT=log_format) as system:
        request_id = system.ask()
        lines = wait_for_trail(system.places, request_id, 4)
        check_hops(lines, request_id)
        assert {line.pid for line in lines} == {system.worker.process.pid}
        assert system.service.access_line(request_id).status == 202
        show({"api": system.service, "worker": system.worker}, request_id)
        if kind in FOREIGN:
            foreign = new_id("foreign")
            subject = f"{tomllib.loads((streams / 'pyproject.toml').read_text('utf-8'))['project']['name']}.demo"
            done = run_python(streams, FOREIGN[kind], URL=system.broker.url, ID=foreign, SUBJECT=subject)
            assert done.returncode == 0, done.stderr
            check_hops(wait_for_trail(system.places, foreign, 4), foreign)
        assert system.worker.stop() == 0
        assert system.service.stop() == 0
        strays = [line for line in system.worker.output().split("\n") if line and line[0] not in "2{ "]
        assert strays == []


def test_many(streams: Path, tmp_path: Path) -> None:
    """A thousand requests over many connections, worked on by three processes: each ID has its own lines only."""
    with running(streams, tmp_path, "nats", FASTSTREAM_CONSUME="true") as system:
        ids = [new_id("many") for _ in range(1000)]

        def send(part: list[str]) -> None:
            with system.service.connect() as connection:
                for request_id in part:
                    answer = connection.request("POST", DEMO, request_id=request_id)
                    assert (answer.status, answer.one()) == (202, request_id)

        began = time.monotonic()
        with ThreadPoolExecutor(40) as pool:
            list(pool.map(send, [ids[start::40] for start in range(40)]))
        text = "Conclude processed"
        wait_for(lambda: sum(place.output().count(text) for place in system.places) >= 1000, "the last line")
        took = time.monotonic() - began
        time.sleep(0.2)
        by_id: dict[str, list[AppLine]] = {}
        for place in system.places:
            for line in all_records(place):
                by_id.setdefault(line.request_id, []).append(line)
        assert set(ids) <= set(by_id)
        for request_id in ids:
            check_hops(by_id[request_id], request_id)
        pids = {line.pid for request_id in ids for line in by_id[request_id]}
        assert pids == {system.worker.process.pid, *system.service.workers()}
        print(f"{len(ids)} requests and {2 * len(ids)} messages in {took:.1f} s")  # noqa: T201


def all_records(place: Logs) -> list[AppLine]:
    """Return every record of a process."""
    return parse_app(place.app_text())[0]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_worker(streams: Path, tmp_path: Path, kind: str) -> None:
    """A message whose worker is killed is worked on by the next one, under the same IDs."""
    with running(streams, tmp_path, kind) as system:
        system.mark.touch()
        request_id = system.ask("/probe/slow", 200)
        begun = wait_for_trail(system.places, request_id, 1, "wait begins")
        system.worker.process.send_signal(SIGKILL)
        system.worker.process.wait(10)
        system.mark.unlink()
        system.worker.start()
        ended = wait_for_trail(system.places, request_id, 1, "Wait processed", timeout=30)
        assert ended[0].pid != begun[0].pid
        assert (ended[0].current_id, ended[0].parent_id) == (begun[0].current_id, begun[0].parent_id)
        assert len(wait_for_trail(system.places, request_id, 2, "wait begins")) == 2
        system.ask()


@pytest.mark.parametrize("kind", KINDS)
def test_broker_away(streams: Path, tmp_path: Path, kind: str) -> None:
    """No broker at the start, and none in the middle: refused with the ID, told once, healed; what it has is done."""
    with running(streams, tmp_path, kind, up=False) as system:
        check_refused(system)
        wait_for(lambda: system.worker.output().count(AWAY) == 1, "the worker's word that there is no broker")
        system.broker.prepare()
        system.broker.start()
        system.service.wait_ready()
        wait_for(lambda: system.worker.output().count(ANSWERS) == 1, "a worker that has found it")
        first = system.ask()
        check_hops(wait_for_trail(system.places, first, 4), first)

        assert system.worker.stop() == 0
        kept = system.ask()  # nobody works on it yet
        system.broker.stop(SIGKILL)
        system.worker.start(wait=False)
        wait_for(lambda: AWAY in system.worker.output().rpartition("shut down")[2], "the worker's word")
        time.sleep(3)
        check_refused(system)
        system.broker.start()
        system.service.wait_ready()
        check_hops(wait_for_trail(system.places, kept, 4, timeout=30), kept)
        last = system.ask()
        check_hops(wait_for_trail(system.places, last, 4), last)
        assert system.worker.output().count(AWAY) == 2
        assert system.service.app_text().count(AWAY) == 4, "once for each process and each time"
        assert "Traceback" not in system.service.app_text() + system.worker.app_text()
        assert system.service.stop() == 0


def check_refused(system: System) -> None:
    """It is told in a sentence, with the ID, by the endpoint and by /readyz, and in time."""
    began = time.monotonic()
    request_id = new_id("refused")
    answer = system.service.request("POST", DEMO, request_id=request_id)
    assert time.monotonic() - began < 3
    place = system.broker.url.partition("://")[2].partition("/")[0]
    sentence = f"The broker at {place} does not answer."
    body = answer.json()
    assert (answer.status, answer.one(), body["request_id"]) == (503, request_id, request_id)
    assert (body["cause"], body["result"]) == (sentence, None)
    ready = system.service.request("GET", "/readyz")
    assert (ready.status, ready.json()["cause"]) == (503, f"faststream: {sentence}")
    assert system.service.request("GET", "/livez").status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_broker_away_for_a_moment(streams: Path, tmp_path: Path, kind: str) -> None:
    """While all of them run, the broker dies and comes back: nothing is accepted and then lost."""
    with running(streams, tmp_path, kind) as system:
        accepted = [system.ask() for _ in range(5)]
        system.broker.stop(SIGKILL)
        assert {system.service.request("POST", DEMO).status for _ in range(4)} == {503}, "noticed or not"
        time.sleep(1.5)
        check_refused(system)
        system.broker.start()
        system.service.wait_ready()
        accepted += [system.ask() for _ in range(5)]
        for request_id in accepted:
            assert wait_for_trail(system.places, request_id, 1, "Conclude processed", timeout=30)


def test_failing_handler(streams: Path, tmp_path: Path) -> None:
    """One traceback, under the IDs, and one closing line; it is not tried again."""
    with running(streams, tmp_path, "nats") as system:
        request_id = system.ask("/probe/bad", 200)
        lines = wait_for_trail(system.places, request_id, 2)
        time.sleep(2.5)  # longer than FASTSTREAM_REDELIVER_AFTER
        assert len(wait_for_trail(system.places, request_id, 2)) == 2
        unhandled, closing = lines
        assert unhandled.exception.endswith("RuntimeError: on purpose")
        assert closing.message.startswith("Fail failed ")
        assert unhandled.current_id == closing.current_id != "-"
        assert system.worker.output().count("RuntimeError: on purpose") == 1
        show({"api": system.service, "worker": system.worker}, request_id)


@pytest.mark.parametrize("kind", ["nats", "rabbitmq"])
def test_what_cannot_be_sent(streams: Path, tmp_path: Path, kind: str) -> None:
    """A result that is no message is a fault of the handler, and one of the endpoint: told as such, and once."""
    with running(streams, tmp_path, kind) as system:
        request_id = system.ask("/probe/odd?what=reply", 200)
        lines = wait_for_trail(system.places, request_id, 2)
        time.sleep(1)
        unhandled, closing = wait_for_trail(system.places, request_id, 2)
        assert len(lines) == 2
        assert "PydanticSerializationError: " in unhandled.exception
        assert closing.message.startswith("Give failed ")
        for what in ["object"] + ["nowhere"] * (kind == "rabbitmq"):  # to NATS anyone may say anything
            answer = system.service.request("POST", f"/probe/odd?what={what}")
            assert answer.status == 500, answer
            assert "has not taken" not in str(answer.json())


def test_from_elsewhere(streams: Path, tmp_path: Path) -> None:
    """A process in which nobody keeps a connection publishes as well, and as often as it likes."""
    with running(streams, tmp_path, "nats") as system:
        request_id = new_id("elsewhere")
        done = run_python(streams, ELSEWHERE, FASTSTREAM_URL=system.broker.url, ID=request_id)
        assert (done.returncode, done.stderr) == (0, "")
        lines = wait_for_trail(system.places, request_id, 16)
        works = [line.parent_id for line in lines if line.message == "working"]
        assert sorted(map(str, works)) == ["job-0", "job-0", "job-1", "job-1"]


@pytest.mark.parametrize("kind", KINDS)
def test_worker_that_is_told_to_end(streams: Path, tmp_path: Path, kind: str) -> None:
    """It lets a handler come to its end for a while; one that does not is cut off, and its message comes again."""
    with running(streams, tmp_path, kind, GRACEFUL_TIMEOUT="4") as system:
        system.mark.touch()
        soon = system.ask("/probe/slow", 200)
        wait_for_trail(system.places, soon, 1, "wait begins")
        system.worker.process.send_signal(SIGTERM)
        time.sleep(0.3)
        system.mark.unlink()
        assert system.worker.process.wait(10) == 0
        assert wait_for_trail(system.places, soon, 1, "Wait processed")
        system.mark.touch()
        system.worker.start()
        late = system.ask("/probe/slow", 200)
        wait_for_trail(system.places, late, 1, "wait begins")
        assert system.worker.stop() == 0
        assert wait_for_trail(system.places, late, 1, "Wait returned")
        system.mark.unlink()
        system.worker.start()
        assert wait_for_trail(system.places, late, 1, "Wait processed", timeout=30)
        assert len(wait_for_trail(system.places, soon, 3)) == 3
        assert "Traceback" not in system.worker.app_text()
        assert " ERROR " not in system.worker.app_text()


def test_broker_that_does_not_hear_of_the_end(streams: Path, tmp_path: Path) -> None:
    """It is told once, with the IDs, that the message may come again; and it does."""
    with running(streams, tmp_path, "redis") as system:
        system.mark.touch()
        request_id = system.ask("/probe/slow", 200)
        begun = wait_for_trail(system.places, request_id, 1, "wait begins")
        system.broker.stop(SIGKILL)
        system.mark.unlink()
        words = "The broker was not told how it ended ("
        told = wait_for_trail(system.places, request_id, 1, words)
        assert [line.current_id for line in told] == [begun[0].current_id]
        system.broker.start()
        assert len(wait_for_trail(system.places, request_id, 2, "Wait processed", timeout=30)) == 2
        assert "Traceback" not in system.worker.app_text()


def test_inside_of_the_api(streams: Path, tmp_path: Path) -> None:
    """Without a worker, the API's own processes do the work, and leave in peace."""
    with running(streams, tmp_path, "nats", worker=False, FASTSTREAM_CONSUME="true") as system:
        request_id = system.ask()
        check_hops(wait_for_trail([system.service], request_id, 4), request_id)
        assert system.service.stop() == 0
        assert "Traceback" not in system.service.app_text()


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_wrong_command(streams: Path, options: list[str]) -> None:
    """`faststream run` on the API is refused in a sentence that says what to run."""
    done = subprocess.run(
        [streams / ".venv/bin/faststream", "run", "app.main:app", *options],
        cwd=streams, env=environment_of(streams), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count(f"`{' '.join(RUN)}`") == 1
    assert "Traceback" not in done.stderr


def test_several_workers(streams: Path, tmp_path: Path) -> None:
    """`--workers 2` works as well, and its parent's lines have the form of all others."""
    with running(streams, tmp_path, "nats", worker=False) as system:
        system.worker.command += ["--workers", "2"]
        with system.worker:
            wait_for(lambda: system.worker.output().count(ANSWERS) == 2, "two workers")
            request_id = system.ask()
            check_hops(wait_for_trail(system.places, request_id, 4), request_id)
            assert system.worker.stop() == 0
            assert [line for line in system.worker.output().split("\n") if line and line[0] not in "2 "] == []
