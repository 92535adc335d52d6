"""Suppressed lines are counted to the last one, a request is sampled as a whole, and each error is in one alert."""

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
    end,
    id_of,
    is_not_ours,
    kind_of,
    percentile,
    place_of,
    thinning,
)
from app.integrations.log_control.alerts import Alert, hooks
from app.main import Application
from app.settings import get_settings
from tests.support import HEADER, Logs, connect

Begin = Callable[..., Application]
FIGURE = re.compile(r" suppressed=(\d+) ")
log = logging.getLogger("orders")


@contextmanager
def serving(request_id: str) -> Iterator[RequestRecord]:
    """Work under the ID of a request."""
    bound = bind(record := RequestRecord(request_id, {"type": "http"}))
    yield record
    unbind(bound)


@pytest.fixture
def begin(configure: Callable[..., Application]) -> Iterator[Begin]:
    """Return a function that makes an application; nothing of it is left afterwards."""

    def make(**variables: str) -> Application:
        return configure(**{f"LOG_CONTROL_{name}": value for name, value in variables.items()})

    yield make
    hooks.clear()
    end()
    access = logging.getLogger(ACCESS_LOGGER)
    for control in log_control.in_force:
        access.removeFilter(control.keeps)
    outbound_logger.removeFilter(is_not_ours)
    log_control.in_force.clear()
    assert not access.filters


@pytest.fixture
def told() -> list[Alert]:
    """Return the alerts that a hook gets."""
    alerts_taken: list[Alert] = []
    hooks["mine"] = alerts_taken.append
    return alerts_taken


def figures(lines: list[str]) -> int:
    return sum(int(found[1]) for line in lines if (found := FIGURE.search(line)))


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_flood_that_ends_is_counted(begin: Begin, logs: Logs) -> None:
    begin(WINDOW="0.3", ALERT_LEVEL="OFF")
    for number in range(1000):
        log.error("order %d failed", number)
    assert len(logs.error) == 10
    wait_for(lambda: len(logs.error) == 11)
    assert logs.error[-1].endswith(" ERROR [-] suppressed=990 Repeated: order %d failed")
    log.error("order %d failed", 7)
    assert logs.error[-1].endswith(" ERROR [-] order 7 failed")


def test_next_line_of_a_kind_has_the_number_of_suppressed_ones(
    begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for number in range(5):
        log.error(f"order {number} failed")
    log.error("another")
    assert figures(logs.error) == 0
    monkeypatch.setattr(thinning, "monotonic", lambda: time.monotonic() + 3601)
    log.error("order 6 failed")
    assert logs.error[-1].endswith(" [-] suppressed=4 order 6 failed")
    assert len(logs.error) == 3


def test_json_has_the_number_as_a_key(begin: Begin, logs: Logs) -> None:
    os.environ["LOG_FORMAT"] = "json"
    try:
        begin(WINDOW="0.2", BURST="2", ALERT_LEVEL="OFF")
    finally:
        del os.environ["LOG_FORMAT"]
    for _ in range(5):
        log.error("again")
    wait_for(lambda: len(logs.error) == 3)
    lines = [json.loads(line) for line in logs.error]
    assert [line.get("suppressed") for line in lines] == [None, None, 3]
    assert not {"passes_filters", "ids_suffix"} & {name for line in lines for name in line}


def test_numbers_are_exact_under_threads(begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows end meanwhile, and threads switch during each step."""
    begin(WINDOW="0.05", BURST="3", ALERT_LEVEL="OFF")

    def slow(kind: thinning.Kind) -> int:
        time.sleep(0)
        held: int = vars(kind)["held"]
        time.sleep(0)
        return held

    def write(number: int) -> None:
        for one in range(400):
            log.warning("of all")
            logging.getLogger(f"orders.{number}").error("of one thread %d", one)
            time.sleep(0.0002)

    held = property(slow, lambda kind, value: vars(kind).update(held=value))
    monkeypatch.setattr(thinning.Kind, "held", held, raising=False)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    end()
    for text, total in (("of all", 3200), ("of one thread", 3200)):
        lines = [line for line in logs.error if text in line]
        written = [line for line in lines if " Repeated: " not in line]
        assert 0 < len(written) < total
        assert len(written) + figures(lines) == total


def test_number_of_kinds_is_limited(begin: Begin, logs: Logs) -> None:
    """They pass, since they are not repeated; a kind that is evicted for them reports its count."""
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for _ in range(3):
        log.error("repeated")
    for number in range(thinning.MOST_KINDS + 50):
        log.error("kind " + "x" * (number % 90) + "y" * (number // 90))
    (control,) = log_control.in_force
    assert len(control.lines.kinds) == thinning.MOST_KINDS
    assert len(logs.error) == 1 + thinning.MOST_KINDS + 50 + 1
    assert figures(logs.error) == 2


def test_record_is_counted_once_for_all_handlers(begin: Begin, logs: Logs) -> None:
    """A record that goes to its own file, and to the stream, is counted once."""
    begin(WINDOW="3600", BURST="2", ALERT_LEVEL="OFF")
    own, plain = RequestLogHandler("own"), LogHandler("plain")
    for _ in range(6):
        own.error("again")
        plain.error("again")
    end()
    assert len(logs.lines("own.log")) == 3
    assert figures(logs.lines("own.log")) == 4
    assert logs.lines("plain.log")[-1].endswith(" ERROR Repeated: again")


def test_closing_line_is_no_record_of_its_own(begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other handlers, which count records or send them elsewhere, see what was logged, and no more."""
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    seen: list[str] = []
    before = logging.Logger.callHandlers

    def watch(logger: logging.Logger, line: logging.LogRecord) -> None:
        seen.append(line.getMessage())
        before(logger, line)

    monkeypatch.setattr(logging.Logger, "callHandlers", watch)
    for _ in range(3):
        log.error("again")
    end()
    assert seen == ["again"] * 3
    assert figures(logs.error) == 2


def test_closing_line_has_the_id_of_a_single_request(begin: Begin, logs: Logs) -> None:
    """And none where several have logged what was held back."""
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    for text, ids in (
        ("of one", ["first-request"] * 3),
        ("of two", ["first-request", "second-request", "third-request"] * 2),
    ):
        for one in ids:
            with serving(one):
                log.error(text)
    (control,) = log_control.in_force
    assert max(len(kind.ids) for kind in control.lines.kinds.values()) == 2  # no more, however many there are
    end()
    assert " ERROR [first-request] suppressed=2 Repeated: of one" in "\n".join(logs.error)
    assert " ERROR [-] suppressed=5 Repeated: of two" in "\n".join(logs.error)


def test_closing_line_goes_to_the_handlers_of_its_logger(begin: Begin, logs: Logs) -> None:
    """Up to a logger that does not propagate, and to no handler of a higher level."""
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")
    alone, seen = RequestLogHandler("alone", stream=False), list[str]()
    higher, above = logging.Handler(logging.CRITICAL), logging.Handler()
    for handler in (higher, above):
        handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    alone.logger.addHandler(higher)
    logging.getLogger().addHandler(above)
    try:
        for _ in range(3):
            alone.error("again")
        end()
    finally:
        logging.getLogger().removeHandler(above)
    assert figures(logs.lines("alone.log")) == 2
    assert (logs.error, seen) == ([], [])


def test_closing_lines_and_alerts_name_their_server_or_task(begin: Begin, logs: Logs) -> None:
    """Servers, and tasks, hide each other neither in the lines nor in the alerts."""
    begin(WINDOW="3600", BURST="1", ALERT_INTERVAL="3600")
    for name, about in (("db-1", "server"), ("db-2", "server"), ("sweep", "task")):
        for number in range(3):
            log.error("%s failed after %.3fs", name, number, extra={about: name})
    end()
    written = "\n".join(logs.error)
    for name in ("db-1", "db-2", "sweep"):
        assert f" suppressed=2 Repeated: %s failed after %.3fs ({name})" in written
        assert f" 2 times ERROR of orders, first in -: %s failed after %.3fs ({name})" in written


def test_suppressed_lines_are_reported_when_the_application_ends(begin: Begin, logs: Logs) -> None:
    begin(WINDOW="3600", BURST="1", ALERT_LEVEL="OFF")

    async def app(_scope: object, _receive: object, _send: object) -> None:
        for _ in range(3):
            log.error("again")

    serve: Any = log_control.wrap(app, get_settings())
    asyncio.run(serve({"type": "http"}, None, None))
    assert figures(logs.error) == 0
    asyncio.run(serve({"type": "lifespan"}, None, None))
    assert figures(logs.error) == 5


def test_error_that_a_server_repeats_is_not_counted(begin: Begin, logs: Logs, told: list[Alert]) -> None:
    """The service has logged that error, and keeps the server's line out."""
    begin(WINDOW="3600", BURST="1")
    error = RuntimeError("known")
    with serving("the-request") as record:
        record.failed, record.error_id = True, id(error)
        for _ in range(3):
            logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    end()
    assert (told, logs.error) == ([], [])


class Hostile:
    """Raises whatever is asked of it."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nothing equals it")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_logging_call_does_not_raise(begin: Begin, told: list[Alert]) -> None:
    """Whatever is logged; where there is no message the alert has the kind's text, and a long one is cut."""
    begin(BURST="1", ALERT_INTERVAL="3600")
    for _ in range(2):
        log.error("of %s", Hostile(), extra={"request_id": Hostile()})
    log.error("x" * 5000)
    log.error("only %s, and %s", "one")  # noqa: PLE1206
    end()
    assert [alert.message for alert in told] == ["of %s", "x" * 1000, "only %s, and %s", "of %s"]


def test_record_written_while_counting_does_not_deadlock(begin: Begin, logs: Logs) -> None:
    """A destructor, which runs anywhere, may log: a thread that holds the locks does not wait for itself."""
    begin(WINDOW="3600", BURST="1")
    (control,) = log_control.in_force

    def write() -> None:
        with control.lines.lock, control.alerts.kinds.lock, control.alerts.lock:
            for _ in range(2):
                log.error("from a destructor")

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(10)
    if thread.is_alive():
        log_control.forget()  # the end of this test must not wait as well
        pytest.fail("It waits for itself.")
    end()
    assert figures(logs.error) == 1


def test_kind_is_logger_level_text_and_place_of_the_error() -> None:
    def kind(message: object, *args: object, level: int = 30, name: str = "a", **more: object) -> object:
        line = logging.LogRecord(name, level, "x.py", 1, message, args, None)
        vars(line).update(more)
        return kind_of(line)

    assert kind("order 12") == kind("order 345")
    assert kind("HTTP 404 for %s", "a") != kind("HTTP 500 for %s", "a")
    assert kind("%s took %.3fs", "a", 1.0)[2] == "%s took %.3fs"  # type: ignore[index]
    assert kind("%s failed", "a", task="a") != kind("%s failed", "b", task="b")
    assert kind("x" * 300) == kind("x" * 400)
    assert kind("x", server="y" * 99) == kind("x", server="y" * 98)
    assert kind("order %s", "a") == kind("order %s", "b")
    assert kind(Hostile()) == kind(Hostile()) == kind("%s", Hostile())
    assert kind("%s", "first 1") == kind("%s", "first 2") != kind("%s", "second")
    assert kind("order") != kind("order", level=40)
    assert kind("order") != kind("order", name="b")
    assert kind("order", server="a") != kind("order", server="b")
    assert kind(ValueError("1")) == kind(ValueError("2")) != kind(KeyError("1"))
    errors = []
    faults: list[Callable[[], object]] = [partial(int, "x"), partial(float, "x"), partial(iter, 5)]
    for make in faults:
        try:
            make()
        except Exception as error:
            errors.append(kind("failed", exc_info=(type(error), error, error.__traceback__)))
    assert len(set(errors)) == 2  # of two errors in one line of code, one kind
    assert kind("failed", server=["no text"], exc_info=(None, None, None)) == kind("failed")


@pytest.mark.parametrize("variables", [{"BURST": "0"}, {}])
def test_info_and_a_burst_of_zero_are_not_thinned(begin: Begin, logs: Logs, variables: dict[str, str]) -> None:
    begin(ALERT_LEVEL="OFF", **variables)
    write = log.error if variables else log.info
    for _ in range(50):
        write("again")
    assert len([line for line in logs.error if "again" in line]) == 50


def test_access_lines_are_not_thinned(begin: Begin, logs: Logs) -> None:
    client = connect(begin(BURST="1"))
    for _ in range(20):
        client.get("/nowhere")
    assert len(logs.access) == 20


def test_request_is_sampled_as_a_whole(begin: Begin, logs: Logs) -> None:
    app = begin(SAMPLE="30", BURST="0")

    @app.get("/lines/{number}")
    async def write(number: int) -> None:
        log.info("async")
        log.error("error")
        await asyncio.to_thread(log.info, "in a thread")
        if number % 10 == 0:
            raise RuntimeError

    client, ids = connect(app), [f"request-{number}" for number in range(80)]
    for number, one in enumerate(ids):
        client.get(f"/lines/{number}", headers={HEADER: one})
    kept = {one for one in ids if percentile(one) < 30}
    assert 15 < len(kept) < 35
    for number, one in enumerate(ids):
        lines = [line for line in logs.error if f"[{one}]" in line]
        access = [line for line in logs.access if f" {one} " in line]
        assert len([line for line in lines if " INFO " in line]) == (2 if one in kept else 0)
        assert len([line for line in lines if line.endswith("] error")]) == 1
        assert len(access) == (one in kept or number % 10 == 0)


def test_failed_or_flagged_request_keeps_its_access_line(begin: Begin) -> None:
    begin(SAMPLE="0")
    (control,) = log_control.in_force
    record = RequestRecord("one-request", {"type": "http"})
    line = logging.makeLogRecord({"request": record, "request_id": "one-request"})
    record.status = 200
    assert not control.keeps(line)
    record.status = 404
    assert control.keeps(line)
    record.status = 200
    record.flags.append("client_disconnect")
    assert control.keeps(line)
    record.flags.clear()
    record.failed = True
    assert control.keeps(line)


def test_task_is_sampled_with_its_request(begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the whole ID, also where lines show a part of it; outside of requests everything is kept."""
    monkeypatch.setenv("LOG_ID_LENGTH", "8")
    begin(SAMPLE="50")
    ids = [f"request-{number}" for number in range(100)]
    for one in ids:
        with serving(one):
            log.info("of %s.", one)
    log.info("outside")
    written = "\n".join(logs.error)
    assert {one for one in ids if f"of {one}." in written} == {one for one in ids if percentile(one) < 50}
    assert "outside" in written


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_samples_have_the_share_that_is_set(percent: int) -> None:
    """Also of short IDs that are alike; within five standard deviations of what chance gives."""
    for form in ("{:08d}", "order-{}", "{:x}-4711-4711"):
        kept = sum(percentile(form.format(number)) < percent for number in range(20_000))
        expected, deviation = 200 * percent, (2 * percent * (100 - percent)) ** 0.5
        assert abs(kept - expected) < 5 * deviation


def test_sample_of_all_and_of_none(begin: Begin, logs: Logs) -> None:
    client = connect(begin(SAMPLE="0"))
    client.get("/api/demo")
    assert not logs.access
    client = connect(begin(SAMPLE="100"))
    assert not logging.getLogger(ACCESS_LOGGER).filters
    client.get("/api/demo")
    assert len(logs.access) == 1


def test_each_error_is_in_one_alert(begin: Begin, logs: Logs, told: list[Alert]) -> None:
    """For those too that are not written, once each, whatever number of handlers they meet."""
    begin(ALERT_INTERVAL="3600", BURST="2", WINDOW="3600")
    own = RequestLogHandler("own")
    with serving("the-request"):
        for number in range(50):
            own.error("order %d failed, password=%s", number, "hunter2")
        own.warning("no alert")
    end()
    assert [alert.times for alert in told] == [1, 49]
    assert {alert.request_id for alert in told} == {"the-request"}
    first = told[0]._asdict()
    assert first["message"] == "order 0 failed, password=***"
    assert (first["logger"], first["level"], bool(first["service"])) == ("own", "ERROR", True)
    assert len([line for line in logs.error if "49 times ERROR of own, first in the-request: order" in line]) == 1


def test_alerts_need_neither_a_hook_nor_a_suppressed_line(begin: Begin, logs: Logs) -> None:
    begin(ALERT_INTERVAL="0.2", BURST="0")
    for _ in range(5):
        log.error("an error")
    wait_for(lambda: any("4 times ERROR of orders" in line for line in logs.error))


def test_single_error_is_one_line_and_starts_no_thread(begin: Begin, logs: Logs) -> None:
    threads = threading.active_count()
    begin()
    log.error("once")
    assert len([line for line in logs.error if "once" in line]) == 1
    assert threading.active_count() <= threads
    end()
    assert len([line for line in logs.error if "once" in line]) == 1


def test_failing_hook_harms_no_other(begin: Begin, logs: Logs) -> None:
    """Its failure is reported at intervals, and what it logs raises no alert."""
    begin(ALERT_INTERVAL="3600")
    told: list[str] = []

    def fail(alert: Alert) -> None:
        log.error("an error of the hook")
        raise ValueError(alert.message)

    hooks.update({"fails": fail, "works": lambda alert: told.append(alert.message)})
    for name in ("a", "b", "c"):
        logging.getLogger(name).error("an error")
    wait_for(lambda: len(told) == 3)
    end()
    assert told == ["an error"] * 3
    lost = [line for line in logs.error if "alerts are lost" in line]
    assert sum(int(line.partition(" alerts are lost")[0].split()[-1]) for line in lost) == 3
    assert len(lost) == 2  # the first at once, the others at the end
    assert all("fails: ValueError('an error')" in line for line in lost)


def test_alerts_beyond_the_limit_are_lost_and_counted(begin: Begin, logs: Logs) -> None:
    """Callers never wait for a hook that hangs; the end of the process waits once, for a limited time."""
    begin(BURST="0")
    going_on, taken = threading.Event(), list[Alert]()
    hooks.update(takes=taken.append, hangs=lambda _: going_on.wait(30))
    began = time.monotonic()
    for number in range(300):
        logging.getLogger(f"logger.{number}").error("an error")
    assert time.monotonic() - began < 20
    (control,) = log_control.in_force
    assert 198 <= control.alerts.lost <= 200
    began, thread = time.monotonic(), control.alerts.thread
    end()
    assert 1.9 < time.monotonic() - began < 15
    (told,) = [line for line in logs.error if "alerts are lost; the process ends" in line]
    lost = int(told.partition(" alerts are lost")[0].split()[-1])
    began = time.monotonic()
    end()
    assert time.monotonic() - began < 1.9
    going_on.set()
    thread.join(10)
    assert (len(taken), lost) == (1, 299)  # an alert that is reported as lost is never delivered


def test_record_of_lost_alerts_raises_no_alert(begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time, and such a line is neither held back nor an alert itself, in whichever thread it is written."""
    monkeypatch.setattr(alerts, "SILENCE", 0.2)
    begin(ALERT_INTERVAL="0.5", ALERT_LEVEL="WARNING", WINDOW="3600", BURST="1")
    told: list[str] = []
    hooks.update(mine=lambda alert: told.append(alert.logger), fails=partial(int, "x"))
    for name in ("a", "b", "c"):
        logging.getLogger(name).error("an error")
    wait_for(lambda: sum("alerts are lost" in line for line in logs.error) == 2)
    (control,) = log_control.in_force
    control.alerts.lost = 1
    end()
    end()
    assert sum("alerts are lost" in line for line in logs.error) == 3
    assert told == ["a", "b", "c"]


def test_alerts_are_lost_where_no_thread_can_start(begin: Begin, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As late in the end of a process, where none can start."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    begin(ALERT_INTERVAL="3600")
    hooks["mine"] = lambda _: None
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        log.error("an error")
    end()
    end()
    (told,) = [line for line in logs.error if "alerts are lost" in line]
    assert told.endswith(" 2 alerts are lost; the process ends")


def test_lost_alerts_are_counted_exactly(begin: Begin, logs: Logs) -> None:
    """Those too that are lost while a line about others is being written."""
    begin()
    (control,) = log_control.in_force
    control.alerts._lose(1, "first")

    def late(_: logging.LogRecord) -> bool:
        control.alerts._lose(1, "late")
        return True

    alerts.log.addFilter(late)
    try:
        end()
    finally:
        alerts.log.removeFilter(late)
    end()
    assert [line.partition("[-] ")[2] for line in logs.error] == [
        f"1 alerts are lost; {why}" for why in ("first", "late")
    ]


class NoError(ValueError):
    """An error that is false, and has no text."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_odd_errors_and_ids_do_not_raise() -> None:
    try:
        raise NoError  # noqa: TRY301
    except NoError as error:
        line = logging.LogRecord("a", 40, "x.py", 1, "failed", (), (type(error), error, error.__traceback__))
        vars(line)["request_id"] = error
    assert place_of(line).startswith("NoError ")
    assert id_of(line) == "-"


class Receiver:
    """Takes what is posted, or refuses it."""

    def __init__(self, status: int) -> None:
        self.taken: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret-path"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("status", [204, 500])
def test_address_gets_json_and_its_path_is_not_logged(begin: Begin, logs: Logs, status: int) -> None:
    with Receiver(status) as receiver:
        begin(ALERT_URL=receiver.url)
        with serving("the-request"):
            log.error("order %d failed", 7)
        wait_for(lambda: receiver.taken)
        end()
    (alert,) = receiver.taken
    assert alert.keys() == {*Alert._fields}
    assert (alert["message"], alert["request_id"], alert["times"]) == ("order 7 failed", "the-request", 1)
    written = "\n".join(logs.error)
    assert "secret-path" not in written
    assert ("1 alerts are lost; url: OSError('answer 500')" in written) is (status == 500)


def test_alerts_to_a_closed_port_are_lost_and_counted(begin: Begin, logs: Logs) -> None:
    with Receiver(204) as gone:
        pass
    begin(ALERT_URL=gone.url)
    log.error("order failed")
    end()
    (lost,) = [line for line in logs.error if "alerts are lost" in line]
    assert " 1 alerts are lost; url: ConnectError(" in lost
    assert not [line for line in logs.error if "secret-path" in line or "127.0.0.1" in line]


def test_level_off_raises_no_alert(begin: Begin, told: list[Alert]) -> None:
    begin(ALERT_LEVEL="OFF")
    log.critical("an error")
    end()
    assert told == []


def test_short_intervals_do_not_spin(begin: Begin) -> None:
    begin(ALERT_INTERVAL="0.000001", WINDOW="0.000001")
    (control,) = log_control.in_force
    assert control.alerts.pause >= 0.05


INVALID = {
    "INTERVAL": ["0", "inf", "nan", "86401"],
    "URL": ["nonsense", "ftp://host/x", "http://", "https://host:port/hunter2"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in INVALID.items() for value in values])
def test_invalid_setting_is_reported_without_secrets(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LOG_CONTROL_ALERT_{name}", value)
    why = "is not what it should be" if name == "URL" else f"is '{value}': Input should be"
    with pytest.raises(SystemExit, match=f"LOG_CONTROL_ALERT_{name} {why}") as refused:
        read_settings(SETTINGS)
    assert "hunter2" not in str(refused.value)
    monkeypatch.delenv(f"LOG_CONTROL_ALERT_{name}")
    assert "hunter2" not in repr(SETTINGS(alert_url="https://host/hunter2"))


# What forks is a process of its own, since this one has threads; without the application it starts at once.
BEGIN = """
import logging, multiprocessing, os, threading
from app.common.log_handler import configure_logging
from app.integrations.log_control import in_force, observe
from app.settings import get_settings

configure_logging(get_settings())
observe()
"""


def run_script(script: str) -> str:
    """Run a script in which the first of a kind is written and the others are reported at the end; return its log."""
    env = {**os.environ, "LOG_PATH": "", "LOG_CONTROL_WINDOW": "3600", "LOG_CONTROL_BURST": "1", "PYTHONWARNINGS": ""}
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stderr


FORKS = """
log, control = logging.getLogger("orders"), in_force[0]
control.alerts.lost = 7
for _ in range(3):
    log.error("again")
forked, held = threading.Event(), threading.Event()

def hold():
    with control.lines.lock, control.alerts.lock:
        held.set()
        forked.wait()

threading.Thread(target=hold).start()
held.wait()
if not os.fork():
    for _ in range(5):
        log.error("again")
    control.alerts.stop(2)
    os._exit(0)
forked.set()
os.wait()
"""


def test_forked_child_counts_for_itself() -> None:
    """The parent reports what it holds back, at its end; locks that were held at the fork block no process."""
    written = run_script(FORKS)
    assert [int(found) for found in FIGURE.findall(written)] == [4, 2]
    assert written.count("7 alerts are lost") == 1


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


def test_process_of_multiprocessing_reports_its_numbers() -> None:
    assert [int(found) for found in FIGURE.findall(run_script(PROCESSES))] == [4, 4, 4]


def test_second_application_replaces_the_first(begin: Begin) -> None:
    begin(SAMPLE="5", ALERT_URL="http://127.0.0.1:1/")
    os.environ.pop("LOG_CONTROL_ALERT_URL")
    begin(SAMPLE="7")
    assert not hooks
    assert len(logging.getLogger(ACCESS_LOGGER).filters) == 1
    assert len(log_filters) == 1
