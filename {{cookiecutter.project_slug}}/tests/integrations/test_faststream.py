"""Messages by FastStream: what travels with each of them on every kind of broker, and a broker that is not there.

A test broker calls the subscriber within the publisher's context, so that a context variable seems to arrive by itself:
what counts here is what stands in the headers.
"""

import importlib
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from faststream import Context
from starlette.testclient import TestClient

from app.common.context.request_record import current_record
from app.common.exceptions import NotReady
from app.common.request_id import current_request_id
from app.common.task_record import TaskRecord
from app.main import Application, create_app
from tests.support import HEADER, ID, UUID4, Logs, connect

KINDS = {
    "nats": "nats://u:hunter2@127.0.0.1:1",
    "redis": "redis://u:hunter2@127.0.0.1:1/0",
    "rabbit": "amqp://u:hunter2@127.0.0.1:1/",
    "kafka": "kafka://127.0.0.1:1",
}
PACKAGE = "app.integrations.faststream"
NO_ANSWER = "The broker at 127.0.0.1:1 does not answer."
OBJECT = object()
FAULTS = {"fail": RuntimeError("on purpose"), "other": NotReady("Another service does not answer.")}

Load = Callable[..., Any]
Seen = list[tuple[str, Any, TaskRecord]]


def forget() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    logging.getLogger("app.faststream").filters.clear()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return a function that imports the package anew, with these variables, and gives its module `broker`."""

    def create(**variables: str) -> Any:  # noqa: ANN401
        for name, value in variables.items():
            monkeypatch.setenv(f"FASTSTREAM_{name}", value)
        forget()
        return importlib.import_module(f"{PACKAGE}.broker")

    yield create
    forget()


def probe() -> tuple[Any, Seen]:
    """Add two subscribers, the first of which answers to the second; return its publisher, and what both saw."""
    seen: Seen = []
    channel = sys.modules[PACKAGE].channel
    on_first, first = channel("first")
    on_second, second = channel("second")

    async def see(name: str, message: Any) -> None:  # noqa: ANN401
        record = current_record.get()
        assert isinstance(record, TaskRecord)
        assert current_request_id() == record.request_id
        seen.append((name, message, record))

    async def work(text: str, message: Any = Context("message")) -> Any:  # noqa: ANN401, B008
        await see("first", message)
        if text in FAULTS:
            raise FAULTS[text]
        return OBJECT if text == "object" else text

    async def conclude(_text: str, message: Any = Context("message")) -> None:  # noqa: ANN401, B008
        await see("second", message)

    on_first(second(work))
    on_second(conclude)
    return first, seen


def run(module: Any, act: Callable[[], Awaitable[None]]) -> None:  # noqa: ANN401
    """Do something while the broker is one in memory."""
    test_broker = getattr(module.kit, f"Test{module.KIND.title()}Broker")

    async def main() -> None:
        async with test_broker(module.broker):
            await act()

    anyio.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_travel_in_the_headers_over_two_hops(
    load: Load, logs: Logs, configure: Callable[..., Application], kind: str
) -> None:
    module = load(URL=KINDS[kind])
    configure()
    first, seen = probe()

    async def act() -> None:
        with TaskRecord(ID, "the-sender"):
            await first.publish("text", headers={module.MESSAGE_KEY: "message-1"})

    run(module, act)
    (_, one, record), (_, two, next_record) = seen
    assert one.headers["x-request-id"] == two.headers["x-request-id"] == ID
    assert one.correlation_id == two.correlation_id == ID
    assert (one.headers["x-message-id"], one.headers["x-parent-id"]) == ("message-1", "the-sender")
    assert (record.request_id, record.task_id, record.parent_id) == (ID, "message-1", "the-sender")
    assert UUID4.fullmatch(two.headers["x-message-id"])
    assert two.headers["x-parent-id"] == next_record.parent_id == "message-1"
    assert next_record.task_id == two.headers["x-message-id"]
    closing = [line for line in logs.error if "processed" in line]
    assert len(closing) == 2
    assert re.search(
        rf"\[{ID}\] \[message-1 the-sender\].* Work processed \d\.\d{{3}}s$", "\n".join(closing), re.MULTILINE
    )
    assert "text" not in "".join(closing)


@pytest.mark.parametrize("kind", KINDS)
def test_request_id_header_of_a_foreign_sender_wins_over_its_correlation_id(load: Load, kind: str) -> None:
    """A foreign X-Request-ID goes before the correlation ID; a doubtful one is replaced; each is taken on its own."""
    module = load(URL=KINDS[kind])
    first, seen = probe()
    cases = [
        ({"X-Request-ID": "foreign-1234"}, "correlation-1", "foreign-1234"),
        ({}, "correlation-2", "correlation-2"),
        ({"X-Request-ID": "a\nb forged"}, "x", None),
    ]

    async def act() -> None:
        for headers, correlation_id, _ in cases:
            await send(first, headers, correlation_id)

    async def send(publisher: Any, headers: dict[str, str], correlation_id: str) -> None:  # noqa: ANN401
        middleware = module.Correlation.publish_scope

        async def untouched(_: object, call_next: Callable[[Any], Any], cmd: Any) -> Any:  # noqa: ANN401
            return await call_next(cmd)

        module.Correlation.publish_scope = untouched  # a sender that knows nothing of ours
        try:
            await publisher.publish("fail", headers=headers, correlation_id=correlation_id)
        except RuntimeError:
            pass
        finally:
            module.Correlation.publish_scope = middleware

    run(module, act)
    assert len(seen) == len(cases)
    for (_, _, record), (_, _, expected) in zip(seen, cases, strict=True):
        assert record.request_id == expected or (expected is None and UUID4.fullmatch(record.request_id))
        assert UUID4.fullmatch(record.task_id)
        assert record.parent_id == "-"


def test_headers_dict_of_the_caller_is_not_changed(load: Load) -> None:
    module = load()
    _, seen = probe()
    mine = {"mine": "1"}

    async def act() -> None:
        for text in ("a", "b"):
            await module.broker.publish(text, f"{module.NAME}.first", headers=mine, stream=module.NAME)

    run(module, act)
    assert mine == {"mine": "1"}
    ids = {message.headers["x-request-id"] for name, message, _ in seen if name == "first"}
    assert len(ids) == 2, "outside of any work, each message has an origin of its own"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fail", "RuntimeError: on purpose"),
        ("other", "NotReady: Another service does not answer."),
        ("object", "PydanticSerializationError: Unable to serialize"),
    ],
)
def test_failed_message_has_one_traceback_and_one_closing_line_and_is_acknowledged(
    load: Load, logs: Logs, configure: Callable[..., Application], text: str, words: str
) -> None:
    module = load()
    configure()
    first, seen = probe()

    async def act() -> None:
        with pytest.raises(Exception) as raised, TaskRecord(ID, "the-sender"):  # noqa: PT011
            await first.publish(text)  # in memory, the handler is part of the publishing
        assert type(raised.value).__name__ == words.partition(":")[0]
        assert current_request_id() == "-"

    run(module, act)
    told = "\n".join(logs.error)
    assert told.count(words) == told.count("Traceback") == 1
    assert len([line for line in logs.error if f"[{ID}]" in line]) == 2
    assert re.search(r"Work failed \d\.\d{3}s$", told, re.MULTILINE)
    assert seen[0][1].committed.name == "REJECTED"


def test_invalid_message_is_logged_by_place_and_type_without_its_values(
    load: Load, logs: Logs, configure: Callable[..., Application]
) -> None:
    module = load()
    configure()
    first, seen = probe()

    async def act() -> None:
        with pytest.raises(ValueError), TaskRecord(ID, "the-sender"):  # noqa: PT011 - FastDepends' own
            await first.publish({"password": "hunter2-secret"})

    run(module, act)
    told = "\n".join(logs.error)
    assert seen == []
    assert "What the handler takes or returns does not fit: text: string_type" in told
    assert "Work failed" in told
    assert "hunter2" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize("kind", KINDS)
def test_message_whose_reply_is_not_published_is_requeued_after_a_pause(
    load: Load, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = load(URL=KINDS[kind])
    first, seen = probe()
    taken: list[str] = []
    began = time.monotonic()

    async def act() -> None:
        async def refuse() -> None:
            if seen:
                raise module.NotTaken(NO_ANSWER)

        monkeypatch.setattr(module, "ready", refuse)
        monkeypatch.setattr(module.TaskRecord, "finish", lambda _self, _name, state, _level, **_: taken.append(state))
        await first.publish("text")

    run(module, act)
    assert {name for name, _, _ in seen} == {"first"}
    assert set(taken) == {"returned"}
    assert seen[0][1].committed.name == "NACKED"
    assert (time.monotonic() - began > 1) == (kind in {"kafka", "rabbit"}), "the others make the pause themselves"


def test_reply_to_a_request_binds_and_logs_nothing(
    load: Load, logs: Logs, configure: Callable[..., Application]
) -> None:
    module = load()
    configure()
    probe()
    answers: list[Any] = []

    async def act() -> None:
        answers.append(await module.broker.request("text", f"{module.NAME}.first", stream=module.NAME))
        assert current_request_id() == "-"

    run(module, act)
    assert answers[0].body == b"text"
    assert len([line for line in logs.error if "processed" in line]) == 2


def test_records_of_the_library_that_repeat_ours_are_dropped(
    load: Load, logs: Logs, configure: Callable[..., Application]
) -> None:
    """Our own lines report how a message ends; not that the broker did not hear of it, nor anything else."""
    configure()
    module = load()
    record = TaskRecord(ID, "message-1", "the-sender")

    def say(level: int, words: str, error: Exception | None = None) -> None:
        module.lines.log(level, words, exc_info=error)

    with module.broker.context.scopes((("message", object()), ("record", record))):
        say(logging.ERROR, "RuntimeError: told by us", RuntimeError("told by us"))
        say(logging.CRITICAL, "ConnectionResetError()", ConnectionResetError())
        say(logging.ERROR, "something else")
    say(logging.ERROR, "Message fetch error", RuntimeError())
    say(logging.ERROR, "Task-16 raised an exception, retrying...", ConnectionResetError())
    say(logging.ERROR, "Task-17 raised an exception, retrying...", ValueError())
    for client in ("aio_pika", "aiokafka", "aiormq", "nats"):
        logging.getLogger(f"{client}.client").error("fetch error of a client")
    told = "\n".join(logs.error)
    assert f"[{ID}] [message-1 the-sender] The broker was not told how it ended (ConnectionResetError)" in told
    assert [words in told for words in ("told by us", "something else", "fetch error", "Task-16", "Task-17")] == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_stopped_broker_answers_no_more_and_leaves_no_task(load: Load) -> None:
    broker = load(URL=KINDS["nats"]).broker

    async def main() -> None:
        await broker.start()
        keeper = broker.keeper
        broker.answers = True
        await broker.stop()
        assert keeper.done()
        assert not broker.answers

    anyio.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_service_starts_without_its_broker_and_refuses_to_publish(
    load: Load, logs: Logs, configure: Callable[..., Application], kind: str
) -> None:
    """The API starts at once, says so once, and refuses to publish in a sentence without secrets."""
    load(URL=KINDS[kind])
    app = configure()
    own = app.state.readiness_checks["faststream"]
    app.state.readiness_checks = {"faststream": own}  # whatever other integrations lack
    with connect(app) as client:
        answer = client.post("/api/faststream/demo", headers={HEADER: ID})
        assert answer.status_code == 503
        body = answer.json()
        assert (body["cause"], body["request_id"], body["message"]) == (NO_ANSWER, ID, "failed")
        assert answer.headers[HEADER] == ID
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["cause"]) == (503, f"faststream: {NO_ANSWER}")
        assert client.get("/livez").status_code == 200
        assert len(logs.wait("error.log", "The broker at 127.0.0.1:1 does not answer (ConnectionRefused")) == 1
    assert "hunter2" not in "".join(logs.error)


def test_demo_returns_the_id_of_its_message(load: Load, configure: Callable[..., Application]) -> None:
    module = load()
    app = configure()
    package = sys.modules[PACKAGE]
    answers: list[Any] = []

    async def act() -> None:
        answers.append(await anyio.to_thread.run_sync(lambda: TestClient(app).post("/api/faststream/demo")))

    sent: list[Any] = []
    original = package.demo.publish

    async def publish(_text: str, **options: Any) -> None:  # noqa: ANN401
        sent.append(options["headers"])

    package.demo.publish = publish
    run(module, act)
    package.demo.publish = original
    assert answers[0].status_code == 202
    assert answers[0].json()["result"] == sent[0][module.MESSAGE_KEY]


@pytest.mark.parametrize("debug", ["true", "false"])
def test_asyncapi_page_is_served_in_debug_mode_only(
    load: Load, configure: Callable[..., Application], debug: str
) -> None:
    module = load()
    answer = connect(configure(DEBUG=debug)).get("/api/faststream/asyncapi")
    assert answer.status_code == (200 if debug == "true" else 404)
    assert (f"{module.NAME}.demo" in answer.text) == (debug == "true")


@pytest.mark.parametrize("consume", ["true", "false"])
def test_consume_false_registers_no_handler_in_the_service(
    load: Load, configure: Callable[..., Application], consume: str
) -> None:
    module = load(CONSUME=consume)
    configure()
    assert {bool(subscriber.calls) for subscriber in module.broker.subscribers} == {consume == "true"}


@pytest.mark.parametrize(
    "url",
    ["ftp://u:hunter2@host", "hunter2", "mqtt://u:hunter2@host", "nats://u:hunter2/3@host", "kafka://u:hunter2@host"],
)
def test_url_of_an_unknown_scheme_is_refused_without_its_secret(load: Load, url: str) -> None:
    with pytest.raises(SystemExit) as raised:
        load(URL=url)
    assert "FASTSTREAM_URL: broker: nats, redis, amqp; kafka, with neither user nor password." in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "place", "servers"),
    [
        ("nats://a:1,nats://b:2", "a:1,b:2", ["nats://a:1", "nats://b:2"]),
        ("nats://u:p@a:1,b:2/x", "a:1,b:2", ["nats://u:p@a:1", "nats://u:p@b:2"]),
        ("redis://u:p@a:1?password=hunter2", "a:1", "redis://u:p@a:1?password=hunter2"),
        ("kafka://a:1,b:2", "a:1,b:2", "a:1,b:2"),
    ],
)
def test_url_with_several_hosts_is_accepted_and_shown_without_its_login(
    load: Load, url: str, place: str, servers: object
) -> None:
    module = load(URL=url)
    assert place == module.PLACE
    assert servers == module.SERVERS


@pytest.mark.parametrize("program", ["/bin/faststream", "/lib/faststream/__main__.py"])
def test_faststream_run_on_the_service_names_the_right_command(
    load: Load, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "run", "app.main:app"])
    load()
    with pytest.raises(SystemExit, match=r"Run `faststream run app\.integrations\.faststream\.worker:worker`"):
        create_app()
