"""FastStream: IDs in message headers, log records and an unavailable broker, for every kind of broker.

The in-memory test brokers call the subscriber in the context of the publisher, so context variables would propagate
without headers. Therefore the tests check the headers.
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
UNAVAILABLE = "The broker at 127.0.0.1:1 is unavailable."
NOT_SERIALIZABLE = object()
FAULTS = {"fail": RuntimeError("on purpose"), "other": NotReady("Another service is unavailable.")}

Load = Callable[..., Any]
Seen = list[tuple[str, Any, TaskRecord]]


def unload_package() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    logging.getLogger("app.faststream").filters.clear()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return a function that imports the package again with these variables and returns its module `broker`."""

    def create(**variables: str) -> Any:  # noqa: ANN401
        for name, value in variables.items():
            monkeypatch.setenv(f"FASTSTREAM_{name}", value)
        unload_package()
        return importlib.import_module(f"{PACKAGE}.broker")

    yield create
    unload_package()


def add_handlers() -> tuple[Any, Seen]:
    """Add two handlers, the first publishes to the second; return the first publisher, and what both received."""
    seen: Seen = []
    channel = sys.modules[PACKAGE].channel
    on_first, first = channel("first")
    on_second, second = channel("second")

    async def receive(name: str, message: Any) -> None:  # noqa: ANN401
        record = current_record.get()
        assert isinstance(record, TaskRecord)
        assert current_request_id() == record.request_id
        seen.append((name, message, record))

    async def work(text: str, message: Any = Context("message")) -> Any:  # noqa: ANN401, B008
        await receive("first", message)
        if text in FAULTS:
            raise FAULTS[text]
        return NOT_SERIALIZABLE if text == "object" else text

    async def conclude(_text: str, message: Any = Context("message")) -> None:  # noqa: ANN401, B008
        await receive("second", message)

    on_first(second(work))
    on_second(conclude)
    return first, seen


def run(module: Any, act: Callable[[], Awaitable[None]]) -> None:  # noqa: ANN401
    """Run `act` with an in-memory broker."""
    test_broker = getattr(module.lib, f"Test{module.KIND.title()}Broker")

    async def main() -> None:
        async with test_broker(module.broker):
            await act()

    anyio.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_carry_the_ids_over_two_messages(
    load: Load, logs: Logs, configure: Callable[..., Application], kind: str
) -> None:
    module = load(URL=KINDS[kind])
    configure()
    first, seen = add_handlers()

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
def test_request_id_header_of_a_foreign_producer_wins_over_its_correlation_id(load: Load, kind: str) -> None:
    """A foreign X-Request-ID takes precedence over the correlation ID; an invalid one is replaced."""
    module = load(URL=KINDS[kind])
    first, seen = add_handlers()
    cases = [
        ({"X-Request-ID": "foreign-1234"}, "correlation-1", "foreign-1234"),
        ({}, "correlation-2", "correlation-2"),
        ({"X-Request-ID": "a\nb forged"}, "x", None),
    ]

    async def act() -> None:
        for headers, correlation_id, _ in cases:
            await send(first, headers, correlation_id)

    async def send(publisher: Any, headers: dict[str, str], correlation_id: str) -> None:  # noqa: ANN401
        original = module.CorrelationMiddleware.publish_scope

        async def without_headers(_: object, call_next: Callable[[Any], Any], cmd: Any) -> Any:  # noqa: ANN401
            return await call_next(cmd)

        module.CorrelationMiddleware.publish_scope = without_headers  # a foreign producer
        try:
            await publisher.publish("fail", headers=headers, correlation_id=correlation_id)
        except RuntimeError:
            pass
        finally:
            module.CorrelationMiddleware.publish_scope = original

    run(module, act)
    assert len(seen) == len(cases)
    for (_, _, record), (_, _, expected) in zip(seen, cases, strict=True):
        assert record.request_id == expected or (expected is None and UUID4.fullmatch(record.request_id))
        assert UUID4.fullmatch(record.task_id)
        assert record.parent_id == "-"


def test_headers_dict_of_the_caller_is_not_modified(load: Load) -> None:
    module = load()
    _, seen = add_handlers()
    headers = {"own": "1"}

    async def act() -> None:
        for text in ("a", "b"):
            await module.broker.publish(text, f"{module.NAME}.first", headers=headers, stream=module.NAME)

    run(module, act)
    assert headers == {"own": "1"}
    ids = {message.headers["x-request-id"] for name, message, _ in seen if name == "first"}
    assert len(ids) == 2, "outside of a request or task, each message has a new request ID"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("fail", "RuntimeError: on purpose"),
        ("other", "NotReady: Another service is unavailable."),
        ("object", "PydanticSerializationError: Unable to serialize"),
    ],
)
def test_failed_message_has_one_traceback_and_one_closing_line_and_is_acknowledged(
    load: Load, logs: Logs, configure: Callable[..., Application], text: str, error: str
) -> None:
    module = load()
    configure()
    first, seen = add_handlers()

    async def act() -> None:
        with pytest.raises(Exception) as raised, TaskRecord(ID, "the-sender"):  # noqa: PT011
            await first.publish(text)  # the in-memory broker calls the handler inside `publish`
        assert type(raised.value).__name__ == error.partition(":")[0]
        assert current_request_id() == "-"

    run(module, act)
    output = "\n".join(logs.error)
    assert output.count(error) == output.count("Traceback") == 1
    assert len([line for line in logs.error if f"[{ID}]" in line]) == 2
    assert re.search(r"Work failed \d\.\d{3}s$", output, re.MULTILINE)
    assert seen[0][1].committed.name == "REJECTED"


def test_invalid_message_is_logged_with_place_and_type_but_not_its_value(
    load: Load, logs: Logs, configure: Callable[..., Application]
) -> None:
    module = load()
    configure()
    first, seen = add_handlers()

    async def act() -> None:
        with pytest.raises(ValueError), TaskRecord(ID, "the-sender"):  # noqa: PT011 - an error of FastDepends
            await first.publish({"password": "hunter2-secret"})

    run(module, act)
    output = "\n".join(logs.error)
    assert seen == []
    assert "The message or the handler's return value is invalid: text: string_type" in output
    assert "Work failed" in output
    assert "hunter2" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("kind", KINDS)
def test_message_whose_reply_cannot_be_published_is_requeued_after_a_delay(
    load: Load, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = load(URL=KINDS[kind])
    first, seen = add_handlers()
    states: list[str] = []
    began = time.monotonic()

    async def act() -> None:
        async def fail_after_first() -> None:
            if seen:
                raise module.BrokerUnavailable(UNAVAILABLE)

        monkeypatch.setattr(module, "ready", fail_after_first)
        monkeypatch.setattr(module.TaskRecord, "finish", lambda _self, _name, state, _level, **_: states.append(state))
        await first.publish("text")

    run(module, act)
    assert {name for name, _, _ in seen} == {"first"}
    assert set(states) == {"returned"}
    assert seen[0][1].committed.name == "NACKED"
    assert (time.monotonic() - began > 1) == (kind in {"kafka", "rabbit"}), "the others delay redelivery themselves"


def test_reply_to_a_request_has_no_task_record(load: Load, logs: Logs, configure: Callable[..., Application]) -> None:
    module = load()
    configure()
    add_handlers()
    replies: list[Any] = []

    async def act() -> None:
        replies.append(await module.broker.request("text", f"{module.NAME}.first", stream=module.NAME))
        assert current_request_id() == "-"

    run(module, act)
    assert replies[0].body == b"text"
    assert len([line for line in logs.error if "processed" in line]) == 2


def test_library_records_that_repeat_ours_are_dropped(
    load: Load, logs: Logs, configure: Callable[..., Application]
) -> None:
    """Other records are kept, and a failed acknowledgement is logged with the IDs."""
    configure()
    module = load()
    record = TaskRecord(ID, "message-1", "the-sender")

    def log(level: int, message: str, error: Exception | None = None) -> None:
        module.library_log.log(level, message, exc_info=error)

    with module.broker.context.scopes((("message", object()), ("record", record))):
        log(logging.ERROR, "RuntimeError: logged by us", RuntimeError("logged by us"))
        log(logging.CRITICAL, "ConnectionResetError()", ConnectionResetError())
        log(logging.ERROR, "something else")
    log(logging.ERROR, "Message fetch error", RuntimeError())
    log(logging.ERROR, "Task-16 raised an exception, retrying...", ConnectionResetError())
    log(logging.ERROR, "Task-17 raised an exception, retrying...", ValueError())
    for client in ("aio_pika", "aiokafka", "aiormq", "nats"):
        logging.getLogger(f"{client}.client").error("fetch error of a client")
    output = "\n".join(logs.error)
    assert f"[{ID}] [message-1 the-sender] Acknowledging the message failed (ConnectionResetError)" in output
    assert [text in output for text in ("logged by us", "something else", "fetch error", "Task-16", "Task-17")] == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_stopped_broker_is_unavailable_and_its_task_has_ended(load: Load) -> None:
    broker = load(URL=KINDS["nats"]).broker

    async def main() -> None:
        await broker.start()
        task = broker.connection_task
        broker.available = True
        await broker.stop()
        assert task.done()
        assert not broker.available

    anyio.run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_service_starts_without_its_broker_and_rejects_publishing_with_503(
    load: Load, logs: Logs, configure: Callable[..., Application], kind: str
) -> None:
    """The API starts without waiting, logs one warning, and names the broker without its password."""
    load(URL=KINDS[kind])
    app = configure()
    check = app.state.readiness_checks["faststream"]
    app.state.readiness_checks = {"faststream": check}  # other integrations may not be ready
    with connect(app) as client:
        response = client.post("/api/faststream/demo", headers={HEADER: ID})
        assert response.status_code == 503
        body = response.json()
        assert (body["cause"], body["request_id"], body["message"]) == (UNAVAILABLE, ID, "failed")
        assert response.headers[HEADER] == ID
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["cause"]) == (503, f"faststream: {UNAVAILABLE}")
        assert client.get("/livez").status_code == 200
        assert len(logs.wait("error.log", "The broker at 127.0.0.1:1 is unavailable (ConnectionRefused")) == 1
    assert "hunter2" not in "".join(logs.error)


def test_demo_returns_the_id_of_its_message(load: Load, configure: Callable[..., Application]) -> None:
    module = load()
    app = configure()
    package = sys.modules[PACKAGE]
    responses: list[Any] = []

    async def act() -> None:
        responses.append(await anyio.to_thread.run_sync(lambda: TestClient(app).post("/api/faststream/demo")))

    sent: list[Any] = []
    original = package.demo.publish

    async def publish(_text: str, **options: Any) -> None:  # noqa: ANN401
        sent.append(options["headers"])

    package.demo.publish = publish
    run(module, act)
    package.demo.publish = original
    assert responses[0].status_code == 202
    assert responses[0].json()["result"] == sent[0][module.MESSAGE_KEY]


@pytest.mark.parametrize("debug", ["true", "false"])
def test_asyncapi_page_is_served_in_debug_mode_only(
    load: Load, configure: Callable[..., Application], debug: str
) -> None:
    module = load()
    response = connect(configure(DEBUG=debug)).get("/api/faststream/asyncapi")
    assert response.status_code == (200 if debug == "true" else 404)
    assert (f"{module.NAME}.demo" in response.text) == (debug == "true")


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
def test_invalid_url_is_rejected_without_showing_its_password(load: Load, url: str) -> None:
    with pytest.raises(SystemExit) as raised:
        load(URL=url)
    schemes = "nats://, redis://, rediss://, amqp://, amqps:// or kafka:// (without user and password)"
    assert f"FASTSTREAM_URL: URL of the broker: {schemes}." in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "address", "servers"),
    [
        ("nats://a:1,nats://b:2", "a:1,b:2", ["nats://a:1", "nats://b:2"]),
        ("nats://u:p@a:1,b:2/x", "a:1,b:2", ["nats://u:p@a:1", "nats://u:p@b:2"]),
        ("redis://u:p@a:1?password=hunter2", "a:1", "redis://u:p@a:1?password=hunter2"),
        ("kafka://a:1,b:2", "a:1,b:2", "a:1,b:2"),
    ],
)
def test_url_is_shown_without_its_login_and_may_have_several_hosts(
    load: Load, url: str, address: str, servers: object
) -> None:
    module = load(URL=url)
    assert address == module.ADDRESS
    assert servers == module.SERVERS


@pytest.mark.parametrize("program", ["/bin/faststream", "/lib/faststream/__main__.py"])
def test_faststream_run_on_the_api_names_the_right_command(
    load: Load, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "run", "app.main:app"])
    load()
    with pytest.raises(SystemExit, match=r"Run `faststream run app\.integrations\.faststream\.worker:worker`"):
        create_app()
