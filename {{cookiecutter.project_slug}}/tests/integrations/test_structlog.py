"""structlog events become log lines of the service; bound values are in the lines of their own request only."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import structlog
from fastapi import BackgroundTasks
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from app.common.task_record import TaskRecord
from app.main import Application
from tests.support import HEADER, ID, Logs, connect


@pytest.fixture(autouse=True)
def reset_structlog() -> Iterator[None]:
    clear_contextvars()
    yield
    clear_contextvars()
    structlog.reset_defaults()


@pytest.fixture(params=["text", "json"])
def log_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each LOG_FORMAT."""
    monkeypatch.setenv("LOG_FORMAT", chosen := str(request.param))
    return chosen


@pytest.fixture
def app(log_format: str, configure: Callable[..., Application]) -> Application:  # noqa: ARG001 - it sets the environment
    return configure()


def last_record(logs: Logs) -> dict[str, Any]:
    """Return the last line of JSON."""
    content: dict[str, Any] = json.loads(logs.error[-1])
    return content


def test_event_has_the_fields_of_a_standard_log_record(configure: Callable[..., Application], logs: Logs) -> None:
    configure(LOG_FORMAT="json")
    structlog.get_logger("orders").bind(order=7).info("paid", amount=1.5, customer={"id": 3})
    logging.getLogger("orders").info("paid", extra={"order": 7, "amount": 1.5, "customer": {"id": 3}})
    by_structlog, by_logging = map(json.loads, logs.error)
    assert by_structlog.keys() == by_logging.keys()
    for name in by_structlog.keys() - {"timestamp", "line"}:
        assert by_structlog[name] == by_logging[name], name
    assert by_structlog["line"] == by_logging["line"] - 1
    assert by_structlog["file"] == "test_structlog.py"


def test_values_are_appended_to_the_message_in_text_lines(configure: Callable[..., Application], logs: Logs) -> None:
    configure()
    log = structlog.get_logger("orders")
    log.warning("paid", order=7, by="card", note="two words", empty="", forged="a\n2026-10-01 b", none=None)
    expected = "order=7 by=card note='two words' empty='' forged='a\\n2026-10-01 b' none=None"
    assert logs.error[-1].endswith(f" WARNING [-] paid {expected}")
    log.info("%s of %d", "one", 2, order=7)
    assert logs.error[-1].endswith(" one of 2 order=7")
    log.info("100 %", order=7)
    assert logs.error[-1].endswith(" 100 % order=7")


def test_logger_has_the_name_of_its_module_by_default(configure: Callable[..., Application], logs: Logs) -> None:
    configure(LOG_FORMAT="json", LOG_LEVELS=f"{__name__}=ERROR")
    structlog.get_logger().warning("below the level")
    structlog.get_logger().error("at the level")
    assert [json.loads(line)["logger"] for line in logs.error] == [__name__]
    structlog.get_logger("orders").debug("below the level")
    assert len(logs.error) == 1


@pytest.mark.usefixtures("app")
def test_traceback_is_written_once_without_local_variables(logs: Logs) -> None:
    local_secret = "hunter" + "2"
    try:
        int(f"{len(local_secret)}x")
    except ValueError:
        structlog.get_logger("orders").exception("failed", order=7)
    text = "\n".join(logs.error)
    assert text.count("ValueError: invalid literal") == text.count("Traceback (most recent call last):") == 1
    assert "hunter2" not in text
    assert text.count("failed") == 1


@pytest.mark.usefixtures("app")
def test_reserved_names_get_a_suffix(logs: Logs, log_format: str) -> None:
    names = ("name", "msg", "args", "message", "levelname", "request_id", "timestamp", "level", "ids_suffix", "fields")
    for bind in (False, True):
        values = dict.fromkeys(names, "theirs")
        if bind:
            bind_contextvars(**values)
        structlog.get_logger("orders").warning("paid", **({} if bind else values))
        line = logs.error[-1]
        if log_format == "json":
            assert {last_record(logs)[f"{name}_"] for name in names} == {"theirs"}
            assert (last_record(logs)["message"], last_record(logs)["logger"], last_record(logs)["request_id"]) == (
                "paid",
                "orders",
                "-",
            )
        else:
            assert all(f" {name}_=theirs" in line for name in names)
            assert " WARNING [-]" in line


@pytest.mark.usefixtures("app")
def test_value_without_a_string_form_does_not_break_the_record(logs: Logs) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    bind_contextvars(first=Broken())
    structlog.get_logger("orders").warning("paid", second=Broken(), third=object, fourth=b"\xff")
    (line,) = logs.error
    assert line.count("Broken") == 2
    assert "paid" in line


def test_secrets_are_masked_in_both_logs(app: Application, logs: Logs) -> None:
    @app.get("/secret")
    async def secret() -> None:
        bind_contextvars(token="hunter2 hunter2", note="token=hunter2", pin=7, api_key=12345)
        structlog.get_logger("orders").warning("paid", password="hunter2 hunter2")

    connect(app).get("/secret")
    for (line,), count in ((logs.error, 4), (logs.access, 3)):
        assert not [secret for secret in ("hunter2", "12345") if secret in line]
        assert line.count("***") == count
        assert "pin=7" in line or '"pin":7' in line


def test_bound_values_are_in_every_line_of_the_request(app: Application, logs: Logs, log_format: str) -> None:
    async def later() -> None:
        logging.getLogger("plain").info("later")

    @app.get("/bound/{number}")
    async def endpoint(number: int, background: BackgroundTasks) -> None:
        found = dict(get_contextvars())
        bind_contextvars(number=f"n{number}")
        logging.getLogger("plain").info("by logging %s", found)
        await structlog.get_logger("orders").ainfo("by structlog")  # it writes in a thread
        background.add_task(later)

    @app.get("/unbound")
    async def unbound() -> None:
        logging.getLogger("plain").info("unbound")
        raise RuntimeError

    client = connect(app)
    for number in (1, 2):
        client.get(f"/bound/{number}", headers={HEADER: f"{ID}-{number}"})
        mark = f'"number":"n{number}"' if log_format == "json" else f" number=n{number}"
        lines = [line for line in (*logs.error, *logs.access) if f"{ID}-{number}" in line]
        assert [mark in line for line in lines] == [True] * 4
        assert "by logging {}" in "\n".join(lines)
        assert log_format == "text" or {json.loads(line)["file"] for line in lines[:3]} == {"test_structlog.py"}
    client.get("/unbound", headers={HEADER: f"{ID}-3"})
    assert not [line for line in (*logs.error, *logs.access) if f"{ID}-3" in line and "number" in line]


def test_task_starts_without_bound_values_and_restores_them(configure: Callable[..., Application], logs: Logs) -> None:
    configure()
    bind_contextvars(outside=1)
    for number in (1, 2):
        record = TaskRecord(f"{ID}-{number}", f"task-{number}").begin("work")
        assert get_contextvars() == {}
        bind_contextvars(number=number)
        record.finish("work", "success")
        record.__exit__()
        assert logs.error[-1].count(f"number={number}") == logs.error[-1].count("number=") == 1
    assert get_contextvars() == {"outside": 1}


def test_in_process_request_restores_bound_values(configure: Callable[..., Application]) -> None:
    app = configure()

    @app.get("/outer")
    async def outer() -> dict[str, int]:
        bind_contextvars(customer=3)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://inner") as client:
            await client.get("/inner")
        return dict(get_contextvars())

    @app.get("/inner")
    async def inner() -> None:
        assert get_contextvars() == {}
        bind_contextvars(customer=4)

    assert connect(app).get("/outer").json() == {"customer": 3}


@pytest.mark.usefixtures("app")
def test_value_of_the_call_overrides_a_bound_value(logs: Logs, log_format: str) -> None:
    bind_contextvars(order=1, customer=3)
    structlog.get_logger("orders").info("paid", order=2)
    (line,) = logs.error
    own, bound = ('"order":2', '"order":1') if log_format == "json" else ("order=2", "order=1")
    assert own in line
    assert bound not in line
    assert "customer" in line


def test_class_of_other_loggers_is_unchanged(configure: Callable[..., Application]) -> None:
    configure()
    assert logging.getLoggerClass() is logging.Logger
