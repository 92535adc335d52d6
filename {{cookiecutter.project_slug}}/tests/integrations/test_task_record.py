"""Task records: the three IDs in every log line, their propagation, and the replacement of invalid IDs."""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from starlette_context import context

from app.common.context.observers import injectors, task_observers
from app.common.context.request_record import current_record
from app.common.log_handler import configure_logging
from app.common.logs.formatters import JsonFormatter, TextFormatter
from app.common.request_id import RequestIdPlugin, RequestIdPolicy, current_request_id, id_policy
from app.common.request_time import current_request_time
from app.common.task_record import TaskRecord, extract, inject
from app.main import Application, create_app
from app.settings import get_settings
from tests.support import HEADER, ID, UUID4, Logs, connect

log = logging.getLogger("work")


def injected(task_id: str = "", **carrier: str) -> dict[str, str]:
    """Return the headers of a message that is sent now."""
    inject(carrier, task_id)
    return carrier


def test_record_sets_the_request_id_and_the_start_time() -> None:
    with TaskRecord(ID, "task-1", "task-0"):
        assert current_request_id() == context["X-Request-ID"] == ID
        assert current_request_time() is not None
        assert context["X-Request-Start-Time"] > 0
    assert current_request_id() == "-"
    assert not context.exists()


def test_record_is_removed_after_an_error() -> None:
    with pytest.raises(RuntimeError), TaskRecord(ID, "task-1"):
        raise RuntimeError
    assert current_request_id() == "-"


def test_outer_record_is_restored_after_an_inner_one() -> None:
    with TaskRecord(ID, "outer"):
        with TaskRecord("another-id", "inner"):
            assert current_request_id() == "another-id"
        assert current_request_id() == ID


def lines_of_a_task(log_format: str, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Log a line before, three lines in, and a line after a task, and return them."""
    monkeypatch.setenv("LOG_FORMAT", log_format)
    configure_logging(get_settings())
    log.info("before")
    with TaskRecord(ID, "task-1", "task-0") as record:
        log.info("inside")
        logging.getLogger("library").warning("a library")
        record.finish("count", "done")
    log.info("after")
    return logs.error


def test_every_text_line_has_three_ids(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    before, inside, library, last, after = lines_of_a_task("text", logs, monkeypatch)
    assert before.endswith("INFO [-] before")
    assert inside.endswith(f"INFO [{ID}] [task-1 task-0] inside")
    assert library.endswith(f"WARNING [{ID}] [task-1 task-0] a library")
    assert f"INFO [{ID}] [task-1 task-0] count done 0." in last
    assert after.endswith("INFO [-] after")


def test_every_json_line_has_three_ids(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    before, *inside, _ = map(json.loads, lines_of_a_task("json", logs, monkeypatch))
    assert "current_id" not in before
    for content in inside:
        assert (content["request_id"], content["current_id"], content["parent_id"]) == (ID, "task-1", "task-0")
        assert "ids_suffix" not in content
    content = inside[-1]
    assert (content["task"], content["state"], content["logger"]) == ("count", "done", "app.task")
    assert 0 < content["duration"] < 30


def test_duration_does_not_change_after_the_end() -> None:
    with TaskRecord(ID, "task-1") as record:
        record.finish("count", "done")
        assert current_request_time(9) == current_request_time(9)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_id_is_truncated_to_the_setting(
    log_format: str, logs: Logs, configure: Callable[..., Application]
) -> None:
    app = configure(LOG_ID_LENGTH="8", LOG_FORMAT=log_format)

    @app.get("/work")
    def work() -> str:
        with TaskRecord(current_request_id(), "task-123456", "parent-123456"):
            log.info("truncated")
        log.info("after")
        return current_request_id()

    response = connect(app).get("/work", headers={HEADER: ID})
    assert (response.json(), response.headers[HEADER]) == (ID, ID)
    text = "\n".join([*logs.error, *logs.access])
    assert ID not in text
    assert text.count(ID[:8]) == 3
    expected = ["task-123", "parent-1"] if log_format == "json" else ["[task-123 parent-1] truncated"]
    assert all(word in text for word in expected)
    assert "task-1234" not in text
    assert "parent-12" not in text


def test_custom_format_can_contain_the_ids() -> None:
    text = TextFormatter("%(request_id)s|%(current_id)s|%(parent_id)s|%(message)s")
    record = logging.makeLogRecord({"msg": "x"})
    assert text.format(record) == "-|-|-|x"
    with TaskRecord(ID, "task-1"):
        assert text.format(logging.makeLogRecord({"msg": "x"})) == f"{ID}|task-1|-|x"
        assert json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "x"})))["current_id"] == "task-1"


def test_inject_without_a_record_generates_a_request_id() -> None:
    carrier = injected()
    assert UUID4.fullmatch(carrier.pop("x-request-id"))
    assert carrier == {}


def test_message_sent_by_a_request_has_no_parent_id(app: Application) -> None:
    app.add_api_route("/send", lambda: injected(""))
    carrier = connect(app).get("/send", headers={HEADER: ID}).json()
    assert carrier["x-request-id"] == ID
    assert "x-parent-id" not in carrier


def test_failing_observer_leaves_no_record() -> None:
    """Otherwise the next task in this context would have the IDs of this one."""

    def fails(_: TaskRecord) -> AbstractContextManager[None]:
        raise RuntimeError

    task_observers["fails"] = fails
    with pytest.raises(RuntimeError):
        TaskRecord(ID, "task").begin("work")
    assert current_record.get() is None


def test_task_is_the_parent_of_the_messages_it_sends_except_its_own_retry() -> None:
    with TaskRecord(ID, "task-1", "task-0"):
        assert injected() == {"x-request-id": ID, "x-parent-id": "task-1"}
        assert injected("task-1") == {"x-request-id": ID, "x-parent-id": "task-0"}
        assert injected(**{"x-parent-id": "by-hand"}) == {"x-request-id": ID, "x-parent-id": "by-hand"}
    with TaskRecord(ID, "task-1"):
        assert injected("task-1") == {"x-request-id": ID}


@pytest.mark.parametrize("key", ["x-request-id", "X-Request-ID"])
def test_inject_keeps_an_existing_id(key: str) -> None:
    assert injected(**{key: "by-hand-1"}) == {key: "by-hand-1"}


@pytest.mark.parametrize(
    ("carrier", "request_id", "parent_id"),
    [
        ({"x-request-id": ID}, ID, "-"),
        ({"X-Request-ID": ID, "X-Parent-Id": "p"}, ID, "p"),
        ({"x-request-id": ID.encode(), "x-parent-id": b"p"}, ID, "p"),
        ({b"x-request-id": ID, 7: 8}, None, "-"),
        ({"x-request-id": "short"}, None, "-"),
        ({"x-request-id": "x" * 129}, None, "-"),
        ({"x-request-id": f"{ID}\nforged"}, None, "-"),
        ({"x-request-id": "käse-käse"}, None, "-"),
        ({"x-request-id": 1234567890}, "1234567890", "-"),
        ({"x-request-id": None, "x-parent-id": None}, None, "-"),
        ({"x-request-id": ID, "x-parent-id": "a b\n[c]"}, ID, "a_b_[c]"),
        ({"x-request-id": ID, "x-parent-id": "p" * 1000}, ID, "p" * 128),
        ({}, None, "-"),
    ],
)
def test_extract_accepts_only_valid_ids(carrier: dict[Any, Any], request_id: str | None, parent_id: str) -> None:
    record = extract(carrier, "task-1")
    assert record.request_id == request_id or (request_id is None and UUID4.fullmatch(record.request_id))
    assert (record.task_id, record.parent_id) == ("task-1", parent_id)


def test_fallback_is_used_only_without_a_request_id() -> None:
    assert extract({}, "m", "foreign-correlation").request_id == "foreign-correlation"
    assert extract({"x-request-id": ID}, "m", "foreign-correlation").request_id == ID
    assert UUID4.fullmatch(extract({}, "m", "no\nid").request_id)


def test_task_called_directly_has_the_request_id_and_parent_of_its_caller() -> None:
    with TaskRecord(ID, "task-1"):
        assert (extract({}, "called").request_id, extract({}, "called").parent_id) == (ID, "task-1")
        assert extract({"x-request-id": "another-id"}, "sent").parent_id == "-"
    with TaskRecord(ID, "task-1", "task-0"):
        assert extract({}, "task-1").parent_id == "task-0"


def test_long_task_name_is_truncated(logs: Logs) -> None:
    configure_logging(get_settings())
    with TaskRecord(ID, "task-1") as record:
        record.finish("x" * 100_000, "done")
    assert len(logs.error[0]) < 500


def test_ids_of_concurrent_tasks_do_not_mix() -> None:
    async def work(number: int) -> None:
        with TaskRecord(f"request-{number}", f"task-{number}"):
            await asyncio.sleep(0)
            assert injected() == {"x-request-id": f"request-{number}", "x-parent-id": f"task-{number}"}
            assert await asyncio.to_thread(current_request_id) == f"request-{number}"

    async def run_all() -> None:
        await asyncio.gather(*map(work, range(100)))

    asyncio.run(run_all())


def test_observer_surrounds_a_task_and_sees_its_state() -> None:
    seen: list[object] = []
    number = ContextVar("number", default=0)

    @contextmanager
    def observe(record: TaskRecord) -> Iterator[None]:
        seen.append((record.name, record.request_id, record.headers))
        number.set(5)
        yield
        seen.append((record.name, record.state, record.failed))

    task_observers["test"] = observe
    injectors["test"] = lambda carrier: carrier.setdefault("x-number", str(number.get()))
    inject(carrier := dict[str, str]())
    with extract(carrier, "log-line-only"):
        pass
    record = extract(carrier, "task").begin("work")
    inject(sent := {"X-Number": "existing"} | carrier)
    inject(follower := dict[str, str]())
    record.finish("work", "aborted", failed=True)
    record.__exit__()
    assert seen == [("work", record.request_id, carrier), ("work", "aborted", True)]
    assert (carrier["x-number"], sent["x-number"], follower["x-number"]) == ("0", "0", "5")


@pytest.mark.parametrize("headers", [{}, {"X-Request-Id": "a b", "X-REQUEST-ID": "\n"}, {"x-request-id": b"short"}])
def test_message_without_a_valid_id_gets_one_id_for_all_its_reads(headers: dict[str, Any]) -> None:
    first, second = extract(headers, "task-1"), extract(headers, "task-2")
    assert first.request_id == second.request_id == headers["x-request-id"]
    assert UUID4.fullmatch(first.request_id)
    assert len(headers) == 1


def test_fallback_is_written_back_to_the_headers() -> None:
    carrier: dict[str, Any] = {}
    assert extract(carrier, "task", "their-correlation-id").request_id == "their-correlation-id"
    assert carrier == {"x-request-id": "their-correlation-id"}


def test_tasks_use_the_request_id_policy_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator and validator that app/main.py passes to the plugin also apply to tasks."""
    plugin = partial(RequestIdPlugin, generator=lambda: "generated", validator=lambda value: value == b"4711")
    monkeypatch.setattr("app.main.RequestIdPlugin", plugin)
    create_app()
    inject(carrier := dict[str, Any]())
    assert carrier == {"x-request-id": "generated"}
    found = [extract({"x-request-id": carried}, "task").request_id for carried in ("4711", ID)]
    assert found == ["4711", "generated"]


UUID_BYTES = re.compile(rb"[0-9a-f-]{36}")


def test_transformer_is_applied_once_to_a_propagated_id() -> None:
    id_policy.copy_from(
        RequestIdPolicy(
            validator=lambda value: UUID_BYTES.fullmatch(value) is not None, transformer=lambda chosen: f"eu-{chosen}"
        )
    )
    inject(carrier := dict[str, Any]())
    assert (sent := carrier["x-request-id"]).startswith("eu-")
    assert extract(carrier, "task").request_id == sent
    assert extract({}, "task", ID).request_id == f"eu-{ID}"


def test_carried_id_with_control_characters_is_replaced_without_a_validator() -> None:
    id_policy.copy_from(RequestIdPolicy(validator=None))
    assert extract({"x-request-id": "4711"}, "task").request_id == "4711"
    assert UUID4.fullmatch(extract({"x-request-id": "a\x1b[31m\nforged"}, "task").request_id)


def test_request_id_of_the_caller_is_not_written_to_the_headers_of_a_direct_call() -> None:
    """Several calls may share the dict of headers."""
    shared: dict[str, Any] = {"tenant": "a"}
    for request_id in (ID, ID[::-1]):
        with TaskRecord(request_id, "task"):
            assert extract(shared, "called").request_id == request_id
    assert shared == {"tenant": "a"}
