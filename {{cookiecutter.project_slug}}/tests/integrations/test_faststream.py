"""Messages by FastStream: what travels with each of them on every kind of broker, and a broker that is not there.

A test broker calls the subscriber within the publisher's context, so that a context variable seems to arrive by itself:
what counts here is what stands in the headers.
"""

import importlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from faststream import Context
from starlette.testclient import TestClient

from app.common.exceptions import NotReady
from app.common.request_id import current_request_id
from app.common.request_record import current_record
from app.common.task_record import TaskRecord
from app.main import Application
from app.settings import PROJECT_ROOT
from tests.support import HEADER, ID, UUID4, Logs, connect

KINDS = {
    "nats": "nats://u:hunter2@127.0.0.1:1",
    "redis": "redis://u:hunter2@127.0.0.1:1/0",
    "rabbit": "amqp://u:hunter2@127.0.0.1:1/",
    "kafka": "kafka://127.0.0.1:1",
}
PACKAGE = "app.integrations.faststream"
NO_ANSWER = "The broker at 127.0.0.1:1 does not answer."

Load = Callable[..., Any]
Seen = list[tuple[str, Any, TaskRecord]]


def forget() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


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


def probe(module: Any) -> tuple[Any, Seen]:  # noqa: ANN401
    """Add two subscribers, the first of which answers to the second; return its publisher, and what both saw."""
    seen: Seen = []
    on_first, first = module.channel("first")
    on_second, second = module.channel("second")

    async def see(name: str, message: Any) -> None:  # noqa: ANN401
        record = current_record.get()
        assert isinstance(record, TaskRecord)
        assert current_request_id() == record.request_id
        seen.append((name, message, record))

    async def work(text: str, message: Any = Context("message")) -> str:  # noqa: ANN401, B008
        await see("first", message)
        if text == "fail":
            raise RuntimeError("on purpose")
        return text

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
def test_two_hops(load: Load, logs: Logs, configure: Callable[..., Application], kind: str) -> None:
    """Origin, own ID and parent stand in the headers of each message, and the origin in the broker's own field."""
    module = load(URL=KINDS[kind])
    configure()
    first, seen = probe(module)

    async def act() -> None:
        with TaskRecord(ID, "the-sender"):
            await first.publish("text", headers={module.MESSAGE_ID_KEY: "message-1"})

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
    assert f"[{ID}] [message-1 the-sender] Work processed 0.0" in "".join(closing)
    assert "text" not in "".join(closing)


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_sender(load: Load, kind: str) -> None:
    """A foreign X-Request-ID goes before the correlation ID; a doubtful one is replaced; each is taken on its own."""
    module = load(URL=KINDS[kind])
    first, seen = probe(module)
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


def test_headers_of_the_caller_stay_his(load: Load) -> None:
    """One dict of headers may serve many messages: it is not written into."""
    module = load()
    _, seen = probe(module)
    mine = {"mine": "1"}

    async def act() -> None:
        await module.broker.publish("a", "service.first", headers=mine, stream="service")
        await module.broker.publish("b", "service.first", headers=mine, stream="service")

    run(module, act)
    assert mine == {"mine": "1"}
    ids = {message.headers["x-request-id"] for name, message, _ in seen if name == "first"}
    assert len(ids) == 2, "outside of any work, each message has an origin of its own"


def test_failing_handler(load: Load, logs: Logs, configure: Callable[..., Application]) -> None:
    """One traceback and one closing line, both with the IDs; what came after is not bound to them."""
    module = load()
    configure()
    first, _ = probe(module)

    async def act() -> None:
        with pytest.raises(NotReady), TaskRecord(ID, "the-sender"):  # in memory, the handler is part of the publishing
            await first.publish("fail")
        assert current_request_id() == "-"

    run(module, act)
    text = "\n".join(logs.error)
    assert text.count("RuntimeError: on purpose") == 1
    assert len([line for line in logs.error if f"[{ID}]" in line]) == 2
    assert "Work failed 0.0" in text


def test_reply_that_is_not_taken(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message whose reply did not get out goes back to the broker, instead of being put away."""
    module = load()
    first, seen = probe(module)
    taken: list[str] = []

    async def act() -> None:
        async def refuse() -> None:
            if seen:
                raise NotReady(NO_ANSWER)

        monkeypatch.setattr(module, "ready", refuse)
        monkeypatch.setattr(module.TaskRecord, "tell", lambda _self, _name, state, _level: taken.append(state))
        await first.publish("text")

    run(module, act)
    assert [name for name, _, _ in seen] == ["first"]
    assert taken == ["returned"]
    assert seen[0][1].committed.name == "NACKED"


@pytest.mark.parametrize("kind", KINDS)
def test_no_broker(load: Load, logs: Logs, configure: Callable[..., Application], kind: str) -> None:
    """The API starts at once, says so once, and refuses to publish in a sentence without secrets."""
    load(URL=KINDS[kind])
    with connect(configure()) as client:
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


def test_demo(load: Load, configure: Callable[..., Application]) -> None:
    """The demo answers with the ID of the message that it has published."""
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
    assert answers[0].json()["result"] == sent[0][module.MESSAGE_ID_KEY]


@pytest.mark.parametrize("debug", ["true", "false"])
def test_page(load: Load, configure: Callable[..., Application], debug: str) -> None:
    """The messages are described where the API is: in debug mode only."""
    load()
    answer = connect(configure(DEBUG=debug)).get("/api/faststream/asyncapi")
    assert answer.status_code == (200 if debug == "true" else 404)
    assert ("service.demo" in answer.text) == (debug == "true")


@pytest.mark.parametrize("consume", ["true", "false"])
def test_who_works(load: Load, configure: Callable[..., Application], consume: str) -> None:
    """With FASTSTREAM_CONSUME=false the API's processes have no handler."""
    module = load(CONSUME=consume)
    configure()
    assert {bool(subscriber.calls) for subscriber in module.broker.subscribers} == {consume == "true"}


@pytest.mark.parametrize("url", ["ftp://u:hunter2@host", "hunter2", "mqtt://u:hunter2@host"])
def test_bad_url(load: Load, url: str) -> None:
    """A scheme that nobody speaks is refused in a sentence, which does not show what may be a secret."""
    with pytest.raises(SystemExit) as raised:
        load(URL=url)
    assert "FASTSTREAM_URL is: broker: nats, redis, amqp, kafka." in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_wrong_command(options: list[str]) -> None:
    """`faststream run` on the API ends with a sentence that says what to run instead."""
    code = f"import sys; sys.argv = ['faststream', 'run', 'app.main:app', *{options}]; import app.main"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 3
    assert "`faststream run app.integrations.faststream.worker:worker`" in done.stderr
    assert "Traceback" not in done.stderr
