"""Suppressed records are counted exactly, a request is sampled as a whole, and each error is in one alert."""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.common.constants import ACCESS_LOGGER
from app.common.context.observers import log_filters
from app.common.context.request_record import RequestRecord, bind, unbind
from app.common.log_handler import LogHandler, RequestLogHandler
from app.common.outbound import logger as outbound_logger
from app.environment import PROJECT_ROOT, read_settings
from app.integrations import log_control
from app.integrations.log_control import (
    SETTINGS,
    alerts,
    error_origin,
    flush,
    group_key,
    id_of,
    is_not_from_alert_thread,
    percentile,
    rate_limiter,
)
from app.integrations.log_control.alerts import Alert, hooks
from app.main import Application
from app.settings import get_settings
from tests.support import HEADER, Logs, connect

Configure = Callable[..., Application]
SUPPRESSED = re.compile(r" suppressed=(\d+) ")
log = logging.getLogger("orders")


@contextmanager
def in_request(request_id: str) -> Iterator[RequestRecord]:
    """Run the block as a request with this ID."""
    bound = bind(record := RequestRecord(request_id, {"type": "http"}))
    yield record
    unbind(bound)


@pytest.fixture
def start(configure: Callable[..., Application]) -> Iterator[Configure]:
    """Return a function that makes an application with these settings; remove its filters and hooks afterwards."""

    def make(**variables: str) -> Application:
        return configure(**{f"LOG_CONTROL_{name}": value for name, value in variables.items()})

    yield make
    hooks.clear()
    flush()
    access = logging.getLogger(ACCESS_LOGGER)
    for control in log_control.active_controls:
        access.removeFilter(control.is_sampled)
    outbound_logger.removeFilter(is_not_from_alert_thread)
    log_control.active_controls.clear()
    assert not access.filters


@pytest.fixture
def received() -> list[Alert]:
    """Return the alerts that a hook receives."""
    received_alerts: list[Alert] = []
    hooks["mine"] = received_alerts.append
    return received_alerts


def suppressed_count(lines: list[str]) -> int:
    return sum(int(found[1]) for line in lines if (found := SUPPRESSED.search(line)))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_suppressed_records_are_reported_after_the_window(start: Configure, logs: Logs) -> None:
    start(WINDOW="0.3", ALERT_LEVEL="OFF")
    for number in range(1000):
        log.error("order %d failed", number)
    assert len(logs.error) == 10
    wait_for(lambda: len(logs.error) == 11)
    assert logs.error[-1].endswith(" ERROR [-] suppressed=990 Repeated: order %d failed")
    log.error("order %d failed", 7)
    assert logs.error[-1].endswith(" ERROR [-] order 7 failed")


def test_next_admitted_record_carries_the_number_of_suppressed_ones(
    start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for number in range(5):
        log.error(f"order {number} failed")
    log.error("another")
    assert suppressed_count(logs.error) == 0
    monkeypatch.setattr(rate_limiter, "monotonic", lambda: time.monotonic() + 3601)
    log.error("order 6 failed")
    assert logs.error[-1].endswith(" [-] suppressed=4 order 6 failed")
    assert len(logs.error) == 3


def test_json_line_has_the_key_suppressed(start: Configure, logs: Logs) -> None:
    os.environ["LOG_FORMAT"] = "json"
    try:
        start(WINDOW="0.2", BURST="2", ALERT_LEVEL="OFF")
    finally:
        del os.environ["LOG_FORMAT"]
    for _ in range(5):
        log.error("again")
    wait_for(lambda: len(logs.error) == 3)
    lines = [json.loads(line) for line in logs.error]
    assert [line.get("suppressed") for line in lines] == [None, None, 3]
    assert not {"passes_filters", "ids_suffix"} & {name for line in lines for name in line}


def test_counts_are_exact_with_concurrent_threads(
    start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows end during the test, and threads switch at each access of the count."""
    start(WINDOW="0.05", BURST="3", ALERT_LEVEL="OFF")

    def read_slowly(group: rate_limiter.Group) -> int:
        time.sleep(0)
        count: int = vars(group)["suppressed"]
        time.sleep(0)
        return count

    def write(number: int) -> None:
        for attempt in range(400):
            log.warning("of all")
            logging.getLogger(f"orders.{number}").error("of one thread %d", attempt)
            time.sleep(0.0002)

    slow = property(read_slowly, lambda group, value: vars(group).update(suppressed=value))
    monkeypatch.setattr(rate_limiter.Group, "suppressed", slow, raising=False)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    flush()
    for text, total in (("of all", 3200), ("of one thread", 3200)):
        lines = [line for line in logs.error if text in line]
        written = [line for line in lines if " Repeated: " not in line]
        assert 0 < len(written) < total
        assert len(written) + suppressed_count(lines) == total


def test_number_of_groups_is_limited(start: Configure, logs: Logs) -> None:
    """Records of new groups are written; the group that is evicted for them reports its count."""
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for _ in range(3):
        log.error("repeated")
    for number in range(rate_limiter.MAX_GROUPS + 50):
        log.error("group " + "x" * (number % 90) + "y" * (number // 90))
    (control,) = log_control.active_controls
    assert len(control.limiter.groups) == rate_limiter.MAX_GROUPS
    assert len(logs.error) == 1 + rate_limiter.MAX_GROUPS + 50 + 1
    assert suppressed_count(logs.error) == 2


def test_record_is_counted_once_for_all_handlers(start: Configure, logs: Logs) -> None:
    """A record with two handlers, for its own file and for the stream, is counted once."""
    start(WINDOW="3600", BURST="2", ALERT_LEVEL="OFF")
    own, plain = RequestLogHandler("own"), LogHandler("plain")
    for _ in range(6):
        own.error("again")
        plain.error("again")
    flush()
    assert len(logs.lines("own.log")) == 3
    assert suppressed_count(logs.lines("own.log")) == 4
    assert logs.lines("plain.log")[-1].endswith(" ERROR Repeated: again")


def test_repeated_line_bypasses_the_logger(start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools that patch `callHandlers` to count or send records see only the records that were logged."""
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    seen: list[str] = []
    original = logging.Logger.callHandlers

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        original(logger, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", call_handlers)
    for _ in range(3):
        log.error("again")
    flush()
    assert seen == ["again"] * 3
    assert suppressed_count(logs.error) == 2


def test_repeated_line_has_the_request_id_only_if_all_records_share_it(start: Configure, logs: Logs) -> None:
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for text, ids in (
        ("of one", ["first-request"] * 3),
        ("of two", ["first-request", "second-request", "third-request"] * 2),
    ):
        for request_id in ids:
            with in_request(request_id):
                log.error(text)
    (control,) = log_control.active_controls
    assert max(len(group.request_ids) for group in control.limiter.groups.values()) == 2  # though there were three
    flush()
    assert " ERROR [first-request] suppressed=2 Repeated: of one" in "\n".join(logs.error)
    assert " ERROR [-] suppressed=5 Repeated: of two" in "\n".join(logs.error)


def test_repeated_line_goes_to_the_handlers_of_its_logger(start: Configure, logs: Logs) -> None:
    """It goes up to the first logger that does not propagate, and to no handler with a higher level."""
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    alone, seen = RequestLogHandler("alone", stream=False), list[str]()
    critical, root = logging.Handler(logging.CRITICAL), logging.Handler()
    for handler in (critical, root):
        handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    alone.logger.addHandler(critical)
    logging.getLogger().addHandler(root)
    try:
        for _ in range(3):
            alone.error("again")
        flush()
    finally:
        logging.getLogger().removeHandler(root)
    assert suppressed_count(logs.lines("alone.log")) == 2
    assert (logs.error, seen) == ([], [])


def test_repeated_lines_and_alerts_name_the_server_or_task(start: Configure, logs: Logs) -> None:
    """Records that differ in `server` or `task` are separate groups, in log lines and in alerts."""
    start(WINDOW="3600", BURST="1", ALERT_INTERVAL="3600")
    for name, field in (("db-1", "server"), ("db-2", "server"), ("sweep", "task")):
        for number in range(3):
            log.error("%s failed after %.3fs", name, number, extra={field: name})
    flush()
    written = "\n".join(logs.error)
    for name in ("db-1", "db-2", "sweep"):
        assert f" suppressed=2 Repeated: %s failed after %.3fs ({name})" in written
        assert f" 2 ERROR records of orders, first in -: %s failed after %.3fs ({name})" in written


def test_suppressed_records_are_reported_after_the_lifespan(start: Configure, logs: Logs) -> None:
    start(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")

    async def app(_scope: object, _receive: object, _send: object) -> None:
        for _ in range(3):
            log.error("again")

    serve: Any = log_control.wrap(app, get_settings())
    asyncio.run(serve({"type": "http"}, None, None))
    assert suppressed_count(logs.error) == 0
    asyncio.run(serve({"type": "lifespan"}, None, None))
    assert suppressed_count(logs.error) == 5


def test_error_logged_again_by_the_server_is_not_counted(start: Configure, logs: Logs, received: list[Alert]) -> None:
    """The service has logged the error itself and drops the server's record."""
    start(WINDOW="3600", BURST="1")
    error = RuntimeError("known")
    with in_request("the-request") as record:
        record.failed, record.error_id = True, id(error)
        for _ in range(3):
            logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    flush()
    assert (received, logs.error) == ([], [])


class Hostile:
    """Its methods raise."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_logging_hostile_objects_does_not_raise(start: Configure, received: list[Alert]) -> None:
    """An alert has the group's text where the message cannot be formatted; a long message is truncated."""
    start(BURST="1", ALERT_INTERVAL="3600")
    for _ in range(2):
        log.error("of %s", Hostile(), extra={"request_id": Hostile()})
    log.error("x" * 5000)
    log.error("only %s, and %s", "one")  # noqa: PLE1206
    flush()
    assert [alert.message for alert in received] == ["of %s", "x" * 1000, "only %s, and %s", "of %s"]


def test_logging_while_holding_the_locks_does_not_deadlock(start: Configure, logs: Logs) -> None:
    """A destructor can run at any point and may log, so the locks are reentrant."""
    start(WINDOW="3600", BURST="1")
    (control,) = log_control.active_controls

    def write() -> None:
        with control.limiter.lock, control.alerts.limiter.lock, control.alerts.lock:
            for _ in range(2):
                log.error("from a destructor")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(10)
    if thread.is_alive():
        log_control.reset()  # the teardown must not wait for the locks
        pytest.fail("The thread waits for its own lock.")
    flush()
    assert suppressed_count(logs.error) == 1


def test_group_is_logger_level_text_and_origin_of_the_error() -> None:
    def key(message: object, *args: object, level: int = 30, name: str = "a", **extra: object) -> object:
        record = logging.LogRecord(name, level, "x.py", 1, message, args, None)
        vars(record).update(extra)
        return group_key(record)

    assert key("order 12") == key("order 345")
    assert key("HTTP 404 for %s", "a") != key("HTTP 500 for %s", "a")
    assert key("%s took %.3fs", "a", 1.0)[2] == "%s took %.3fs"  # type: ignore[index]
    assert key("%s failed", "a", task="a") != key("%s failed", "b", task="b")
    assert key("x" * 300) == key("x" * 400)
    assert key("x", server="y" * 99) == key("x", server="y" * 98)
    assert key("order %s", "a") == key("order %s", "b")
    assert key(Hostile()) == key(Hostile()) == key("%s", Hostile())
    assert key("%s", "first 1") == key("%s", "first 2") != key("%s", "second")
    assert key("order") != key("order", level=40)
    assert key("order") != key("order", name="b")
    assert key("order", server="a") != key("order", server="b")
    assert key(ValueError("1")) == key(ValueError("2")) != key(KeyError("1"))
    errors = []
    faults: list[Callable[[], object]] = [partial(int, "x"), partial(float, "x"), partial(iter, 5)]
    for make in faults:
        try:
            make()
        except Exception as error:
            errors.append(key("failed", exc_info=(type(error), error, error.__traceback__)))
    assert len(set(errors)) == 2  # `int` and `float` raise the same error in the same line
    assert key("failed", server=["no text"], exc_info=(None, None, None)) == key("failed")


@pytest.mark.parametrize("variables", [{"BURST": "0"}, {}])
def test_info_records_and_burst_zero_are_not_limited(start: Configure, logs: Logs, variables: dict[str, str]) -> None:
    start(ALERT_LEVEL="OFF", **variables)
    write = log.error if variables else log.info
    for _ in range(50):
        write("again")
    assert len([line for line in logs.error if "again" in line]) == 50


def test_access_lines_are_not_limited(start: Configure, logs: Logs) -> None:
    client = connect(start(BURST="1"))
    for _ in range(20):
        client.get("/nowhere")
    assert len(logs.access) == 20


def test_request_is_sampled_as_a_whole(start: Configure, logs: Logs) -> None:
    app = start(SAMPLE="30", BURST="0")

    @app.get("/lines/{number}")
    async def write(number: int) -> None:
        log.info("async")
        log.error("error")
        await asyncio.to_thread(log.info, "in a thread")
        if number % 10 == 0:
            raise RuntimeError

    client, ids = connect(app), [f"request-{number}" for number in range(80)]
    for number, request_id in enumerate(ids):
        client.get(f"/lines/{number}", headers={HEADER: request_id})
    sampled = {request_id for request_id in ids if percentile(request_id) < 30}
    assert 15 < len(sampled) < 35
    for number, request_id in enumerate(ids):
        lines = [line for line in logs.error if f"[{request_id}]" in line]
        access = [line for line in logs.access if f" {request_id} " in line]
        assert len([line for line in lines if " INFO " in line]) == (2 if request_id in sampled else 0)
        assert len([line for line in lines if line.endswith("] error")]) == 1
        assert len(access) == (request_id in sampled or number % 10 == 0)


def test_failed_or_flagged_request_keeps_its_access_line(start: Configure) -> None:
    start(SAMPLE="0")
    (control,) = log_control.active_controls
    request = RequestRecord("one-request", {"type": "http"})
    record = logging.makeLogRecord({"request": request, "request_id": "one-request"})
    request.status = 200
    assert not control.is_sampled(record)
    request.status = 404
    assert control.is_sampled(record)
    request.status = 200
    request.flags.append("client_disconnect")
    assert control.is_sampled(record)
    request.flags.clear()
    request.failed = True
    assert control.is_sampled(record)


def test_task_is_sampled_with_its_request(start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The untruncated ID decides, also with LOG_ID_LENGTH; records outside of a request are always written."""
    monkeypatch.setenv("LOG_ID_LENGTH", "8")
    start(SAMPLE="50")
    ids = [f"request-{number}" for number in range(100)]
    for request_id in ids:
        with in_request(request_id):
            log.info("of %s.", request_id)
    log.info("outside")
    written = "\n".join(logs.error)
    assert {one for one in ids if f"of {one}." in written} == {one for one in ids if percentile(one) < 50}
    assert "outside" in written


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_share_of_sampled_requests_is_the_setting(percent: int) -> None:
    """It holds for short and similar IDs, within five standard deviations of a random sample."""
    for form in ("{:08d}", "order-{}", "{:x}-4711-4711"):
        sampled = sum(percentile(form.format(number)) < percent for number in range(20_000))
        expected, deviation = 200 * percent, (2 * percent * (100 - percent)) ** 0.5
        assert abs(sampled - expected) < 5 * deviation


def test_sampling_all_or_no_requests(start: Configure, logs: Logs) -> None:
    client = connect(start(SAMPLE="0"))
    client.get("/api/demo")
    assert not logs.access
    client = connect(start(SAMPLE="100"))
    assert not logging.getLogger(ACCESS_LOGGER).filters
    client.get("/api/demo")
    assert len(logs.access) == 1


def test_each_error_is_in_one_alert(start: Configure, logs: Logs, received: list[Alert]) -> None:
    """Suppressed records count too, each once, regardless of the number of handlers."""
    start(ALERT_INTERVAL="3600", BURST="2", WINDOW="3600")
    own = RequestLogHandler("own")
    with in_request("the-request"):
        for number in range(50):
            own.error("order %d failed, password=%s", number, "hunter2")
        own.warning("no alert")
    flush()
    assert [alert.times for alert in received] == [1, 49]
    assert {alert.request_id for alert in received} == {"the-request"}
    first = received[0]._asdict()
    assert first["message"] == "order 0 failed, password=***"
    assert (first["logger"], first["level"], bool(first["service"])) == ("own", "ERROR", True)
    assert len([line for line in logs.error if "49 ERROR records of own, first in the-request: order" in line]) == 1


def test_alerts_work_without_hooks_and_without_rate_limit(start: Configure, logs: Logs) -> None:
    start(ALERT_INTERVAL="0.2", BURST="0")
    for _ in range(5):
        log.error("an error")
    wait_for(lambda: any("4 ERROR records of orders" in line for line in logs.error))


def test_single_error_writes_one_line_and_starts_no_thread(start: Configure, logs: Logs) -> None:
    threads = threading.active_count()
    start()
    log.error("once")
    assert len([line for line in logs.error if "once" in line]) == 1
    assert threading.active_count() <= threads
    flush()
    assert len([line for line in logs.error if "once" in line]) == 1


def test_failing_hook_does_not_affect_other_hooks(start: Configure, logs: Logs) -> None:
    """Its failures are logged at intervals, and its own log records raise no alert."""
    start(ALERT_INTERVAL="3600")
    received: list[str] = []

    def fail(alert: Alert) -> None:
        log.error("an error of the hook")
        raise ValueError(alert.message)

    hooks.update({"fails": fail, "works": lambda alert: received.append(alert.message)})
    for name in ("a", "b", "c"):
        logging.getLogger(name).error("an error")
    wait_for(lambda: len(received) == 3)
    flush()
    assert received == ["an error"] * 3
    lost = [line for line in logs.error if "alerts were lost" in line]
    assert sum(int(line.partition(" alerts were lost")[0].split()[-1]) for line in lost) == 3
    assert len(lost) == 2  # the first immediately, the others at the end
    assert all("fails: ValueError('an error')" in line for line in lost)


def test_alerts_beyond_the_limit_are_lost_and_counted(start: Configure, logs: Logs) -> None:
    """No logging call waits for a hook that hangs; shutdown waits for it once, for a limited time."""
    start(BURST="0")
    resume, received = threading.Event(), list[Alert]()
    hooks.update(receives=received.append, hangs=lambda _: resume.wait(30))
    began = time.monotonic()
    for number in range(300):
        logging.getLogger(f"logger.{number}").error("an error")
    assert time.monotonic() - began < 20
    (control,) = log_control.active_controls
    assert 198 <= control.alerts.lost <= 200
    began, thread = time.monotonic(), control.alerts.thread
    flush()
    assert 1.9 < time.monotonic() - began < 15
    (line,) = [line for line in logs.error if "alerts were lost: the process exits" in line]
    lost = int(line.partition(" alerts were lost")[0].split()[-1])
    began = time.monotonic()
    flush()
    assert time.monotonic() - began < 1.9
    resume.set()
    thread.join(10)
    assert (len(received), lost) == (1, 299)  # an alert that is reported as lost is never delivered


def test_record_of_lost_alerts_raises_no_alert(start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a record is never suppressed and never raises an alert, in whichever thread it is written."""
    monkeypatch.setattr(alerts, "LOST_LOG_INTERVAL", 0.2)
    start(ALERT_INTERVAL="0.5", ALERT_LEVEL="WARNING", WINDOW="3600", BURST="1")
    received: list[str] = []
    hooks.update(mine=lambda alert: received.append(alert.logger), fails=partial(int, "x"))
    for name in ("a", "b", "c"):
        logging.getLogger(name).error("an error")
    wait_for(lambda: sum("alerts were lost" in line for line in logs.error) == 2)
    (control,) = log_control.active_controls
    control.alerts.lost = 1
    flush()
    flush()
    assert sum("alerts were lost" in line for line in logs.error) == 3
    assert received == ["a", "b", "c"]


def test_alerts_are_reported_as_lost_if_no_thread_can_start(
    start: Configure, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python starts no thread during interpreter shutdown."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    start(ALERT_INTERVAL="3600")
    hooks["mine"] = lambda _: None
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        log.error("an error")
    flush()
    flush()
    (line,) = [line for line in logs.error if "alerts were lost" in line]
    assert line.endswith(" 2 alerts were lost: the process exits")


def test_lost_alerts_are_counted_exactly(start: Configure, logs: Logs) -> None:
    """Alerts that are lost while the record about earlier ones is written are reported later."""
    start()
    (control,) = log_control.active_controls
    control.alerts._count_lost(1, "first")

    def lose_another(_: logging.LogRecord) -> bool:
        control.alerts._count_lost(1, "late")
        return True

    alerts.log.addFilter(lose_another)
    try:
        flush()
    finally:
        alerts.log.removeFilter(lose_another)
    flush()
    assert [line.partition("[-] ")[2] for line in logs.error] == [
        f"1 alerts were lost: {reason}" for reason in ("first", "late")
    ]


class FalsyError(ValueError):
    """An error whose truth value is false and whose text raises."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_hostile_errors_and_ids_do_not_raise() -> None:
    try:
        raise FalsyError  # noqa: TRY301
    except FalsyError as error:
        record = logging.LogRecord("a", 40, "x.py", 1, "failed", (), (type(error), error, error.__traceback__))
        vars(record)["request_id"] = error
    assert error_origin(record).startswith("FalsyError ")
    assert id_of(record) == "-"


class Receiver:
    """An HTTP server that collects posted alerts and responds with `status`."""

    def __init__(self, status: int) -> None:
        self.received: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret-path"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("status", [204, 500])
def test_alert_url_receives_json_and_its_path_is_not_logged(start: Configure, logs: Logs, status: int) -> None:
    with Receiver(status) as receiver:
        start(ALERT_URL=receiver.url)
        with in_request("the-request"):
            log.error("order %d failed", 7)
        wait_for(lambda: receiver.received)
        flush()
    (alert,) = receiver.received
    assert alert.keys() == {*Alert._fields}
    assert (alert["message"], alert["request_id"], alert["times"]) == ("order 7 failed", "the-request", 1)
    written = "\n".join(logs.error)
    assert "secret-path" not in written
    assert ("1 alerts were lost: url: OSError('response status 500')" in written) is (status == 500)


def test_alerts_to_a_closed_port_are_lost_and_counted(start: Configure, logs: Logs) -> None:
    with Receiver(204) as closed:
        pass
    start(ALERT_URL=closed.url)
    log.error("order failed")
    flush()
    (lost,) = [line for line in logs.error if "alerts were lost" in line]
    assert " 1 alerts were lost: url: ConnectError(" in lost
    assert not [line for line in logs.error if "secret-path" in line or "127.0.0.1" in line]


def test_level_off_raises_no_alert(start: Configure, received: list[Alert]) -> None:
    start(ALERT_LEVEL="OFF")
    log.critical("an error")
    flush()
    assert received == []


def test_short_intervals_do_not_busy_loop(start: Configure) -> None:
    start(ALERT_INTERVAL="0.000001", WINDOW="0.000001")
    (control,) = log_control.active_controls
    assert control.alerts.poll_seconds >= 0.05


INVALID = {
    "INTERVAL": ["0", "inf", "nan", "86401"],
    "URL": ["nonsense", "ftp://host/x", "http://", "https://host:port/hunter2"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_invalid_setting_is_reported_without_secrets(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LOG_CONTROL_ALERT_{name}", value)
    reason = "is invalid" if name == "URL" else f"is '{value}': Input should be"
    with pytest.raises(SystemExit, match=f"LOG_CONTROL_ALERT_{name} {reason}") as rejected:
        read_settings(SETTINGS)
    assert "hunter2" not in str(rejected.value)
    monkeypatch.delenv(f"LOG_CONTROL_ALERT_{name}")
    assert "hunter2" not in repr(SETTINGS(alert_url="https://host/hunter2"))


# Forks run in a process of their own, since this one has threads. It makes no application, to start quickly.
SETUP = """
import logging, multiprocessing, os, threading
from app.common.log_handler import configure_logging
from app.integrations.log_control import active_controls, observe
from app.settings import get_settings

configure_logging(get_settings())
observe()
"""


def run_script(script: str) -> str:
    """Run a script that writes one record per group and reports the others at exit; return its log."""
    env = {**os.environ, "LOG_PATH": "", "LOG_CONTROL_WINDOW": "3600", "LOG_CONTROL_BURST": "1", "PYTHONWARNINGS": ""}
    command = [sys.executable, "-c", SETUP + script]
    result = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    return result.stderr


FORKS = """
log, control = logging.getLogger("orders"), active_controls[0]
control.alerts.lost = 7
for _ in range(3):
    log.error("again")
forked, locked = threading.Event(), threading.Event()

def hold_locks():
    with control.limiter.lock, control.alerts.lock:
        locked.set()
        forked.wait()

threading.Thread(target=hold_locks).start()
locked.wait()
if not os.fork():
    for _ in range(5):
        log.error("again")
    control.alerts.stop(2)
    os._exit(0)
forked.set()
os.wait()
"""


def test_forked_child_counts_for_itself() -> None:
    """The parent reports its own suppressed records; locks that are held during the fork block neither process."""
    written = run_script(FORKS)
    assert [int(found) for found in SUPPRESSED.findall(written)] == [4, 2]
    assert written.count("7 alerts were lost") == 1


PROCESSES = """
def fail():
    for _ in range(5):
        logging.getLogger("orders").error("again")

if __name__ == "__main__":
    workers = [multiprocessing.get_context("fork").Process(target=fail) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
"""


def test_multiprocessing_child_reports_its_counts() -> None:
    assert [int(found) for found in SUPPRESSED.findall(run_script(PROCESSES))] == [4, 4, 4]


def test_second_application_replaces_the_filters_of_the_first(start: Configure) -> None:
    start(SAMPLE="5", ALERT_URL="http://127.0.0.1:1/")
    os.environ.pop("LOG_CONTROL_ALERT_URL")
    start(SAMPLE="7")
    assert not hooks
    assert len(logging.getLogger(ACCESS_LOGGER).filters) == 1
    assert len(log_filters) == 1
