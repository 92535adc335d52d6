"""What is in the log files, in both forms, and what the settings of logging do."""

from __future__ import annotations

import json
import re
from datetime import datetime
from signal import SIGHUP
from typing import TYPE_CHECKING

import pytest

from tests.support.client import build_request, new_id
from tests.support.faults import new_workers, run_python, serve, wait_serving
from tests.support.lines import STAMP, parse_access, parse_app
from tests.support.load import Load
from tests.support.servers import uvicorn
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}")
SHOW_LOGGING = """
import json, logging
import app.main
names = ["", "app.access", "gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx2"]
def describe(name):
    one = logging.getLogger(name)
    return [one.level, one.propagate, [
        [type(h).__name__, type(h.formatter).__name__, [type(f).__name__ for f in h.filters]] for h in one.handlers
    ]]
first = {name: describe(name) for name in names}
logging.config.dictConfig(json.load(open("log_config.json")))
second = {name: describe(name) for name in names}
assert first == second, (first, second)
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_files(project: Path, tmp_path: Path, log_format: str) -> None:
    """Each file has its own lines in the form of the setting, with the zone; nothing of a request is on the streams."""
    folder = tmp_path / "deep" / "log"
    good, bad = new_id("good"), new_id("bad")
    with serve(project, tmp_path, log_path=folder, LOG_FORMAT=log_format, TZ="Asia/Kolkata") as service:
        assert service.request("GET", "/api/demo", request_id=good).status == 200
        assert service.request("GET", "/api/demo/fail", request_id=bad).status == 500
        assert {service.access_line(one).status for one in (good, bad)} == {200, 500}
        texts = {name: (folder / f"{name}.log").read_text("utf-8") for name in ("access", "error", "demo")}
    for text in texts.values():
        for line in filter(None, text.split("\n")):
            if not line.startswith("    "):
                assert (line.startswith("{")) is (log_format == "json"), line
    stamps = [parse_access(line).timestamp for line in texts["access"].splitlines()]
    errors, strays = parse_app(texts["error"])
    assert strays == []
    stamps += [record.timestamp for record in (*errors, *parse_app(texts["demo"])[0])]
    for stamp in stamps:
        assert (ISO if log_format == "json" else re.compile(STAMP)).fullmatch(stamp), stamp
        assert stamp.endswith("+0530")
    assert [record.request_id for record in parse_app(texts["demo"])[0]] == [good]
    assert good not in texts["error"]
    failed = [record for record in errors if record.exception]
    assert [(record.request_id, record.level) for record in failed] == [(bad, "ERROR")]
    assert failed[0].exception.startswith("Traceback (most recent call last):\n")
    assert failed[0].exception.endswith("RuntimeError: this is a defect, shown on purpose")
    assert not {path.name for path in folder.iterdir()} - {
        "access.log",
        "error.log",
        "demo.log",
        "probe.log",
        "faults.log",
    }
    assert good not in service.stdout.read_text("utf-8")


def test_traceback_is_indented(project: Path, tmp_path: Path) -> None:
    """In the text form no line of a traceback begins where a record begins."""
    request_id = new_id("trace")
    with serve(project, tmp_path) as service:
        service.request("GET", "/api/demo/fail", request_id=request_id)
        wait_for(lambda: "shown on purpose" in service.app_text(), "TODO-WHAT")
        lines = service.app_text().splitlines()
    start = next(number for number, line in enumerate(lines) if request_id in line)
    assert lines[start + 1] == "    Traceback (most recent call last):"
    end = next(number for number, line in enumerate(lines) if "RuntimeError: this is a defect" in line)
    assert all(line.startswith("    ") for line in lines[start + 1 : end + 1])


def test_same_handler_twice(project: Path, tmp_path: Path) -> None:
    """Two RequestLogHandlers of one name write each line once."""
    code = (
        "from app.common.log_handler import RequestLogHandler, configure_logging\n"
        "from app.settings import get_settings\n"
        "configure_logging(get_settings())\n"
        "one, two = RequestLogHandler('twice'), RequestLogHandler('twice')\n"
        "one.info('from one'); two.info('from two')\n"
    )
    result = run_python(project, code, LOG_PATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    messages = [record.message for record in parse_app((tmp_path / "twice.log").read_text("utf-8"))[0]]
    assert messages == ["from one", "from two"]
    assert [record.message for record in parse_app(result.stderr)[0]] == messages


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("WARNING", False)])
def test_level(project: Path, tmp_path: Path, level: str, *, shown: bool) -> None:
    """LOG_LEVEL counts for the application's lines; errors and access lines are always there."""
    good, bad = new_id("good"), new_id("bad")
    with serve(project, tmp_path, LOG_LEVEL=level, workers=1) as service:
        service.request("GET", "/api/demo", request_id=good)
        service.request("GET", "/api/demo/fail", request_id=bad)
        assert service.access_line(good).status == 200
        assert [record.level for record in service.app_lines(bad)] == ["ERROR"]
        assert bool(service.app_records(good)) is shown


def test_level_of_one_logger_while_it_runs(project: Path, tmp_path: Path) -> None:
    """LOG_LEVELS in `.env` and SIGHUP: one logger falls silent, then talks again, in every worker."""
    environment = project / ".env"
    heard = []
    with serve(project, tmp_path) as service, Load(service.port, clients=2) as load:
        try:
            for value in ("DEMO=error", "demo=ERROR", "other=ERROR,demo=DEBUG", "demo=LOUD", ""):
                environment.write_text(f"LOG_LEVELS={value}\n", "utf-8")
                old = service.workers()
                service.signal(SIGHUP)
                wait_serving(service, new_workers(service, old, 2))
                request_id = new_id("level")
                assert service.request("GET", "/api/demo", request_id=request_id).status == 200
                assert service.access_line(request_id).status == 200
                heard.append([record.message for record in service.app_records(request_id)])
        finally:
            environment.unlink()
    assert heard == [["demo"], [], ["demo"], ["demo"], ["demo"]]
    assert load.failed == []
    assert service.app_text().count("'demo=LOUD' is not a logger and its level such as app.outbound=DEBUG") == 1


def test_exclude_and_mask(project: Path, tmp_path: Path) -> None:
    """ACCESS_LOG_EXCLUDE leaves out what went well; MASKED_QUERY replaces the default names."""
    env = {"ACCESS_LOG_EXCLUDE": "/api/demo, /nothing", "MASKED_QUERY": "pin , x-code"}
    with serve(project, tmp_path, workers=1, settings=env) as service:
        good, bad, masked = new_id("good"), new_id("bad"), new_id("masked")
        service.request("GET", "/api/demo", request_id=good)
        service.request("GET", "/nothing", request_id=bad)
        service.request("GET", "/livez?PIN=1234&my-x-code=5678&token=plain&pin", request_id=masked)
        assert service.access_line(masked).target == "/livez?PIN=***&my-x-code=***&token=plain&pin"
        assert service.access_line(bad).status == 404
        assert service.access_records(good) == []
        assert service.app_records(good)


def test_config_file_is_what_is_used(project: Path) -> None:
    """What the application sets up by itself is what log_config.json sets up."""
    result = run_python(project, SHOW_LOGGING)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_reload_keeps_the_log(project: Path, tmp_path: Path, log_format: str) -> None:
    """After SIGHUP, and another one, the master and the workers still log, in the same form."""
    with serve(project, tmp_path, LOG_FORMAT=log_format) as service:
        wait_serving(service, service.workers())
        for _ in range(2):
            old = service.workers()
            service.signal(SIGHUP)
            wait_serving(service, new_workers(service, old, 2))
        assert service.stop() == 0
        records, strays = parse_app(service.app_text())
    assert strays == []
    messages = [record.message for record in records]
    assert sum(message.startswith("Booting worker") for message in messages) == 6
    assert messages.count("Application startup complete.") == 6
    assert messages.count("Application shutdown complete.") == 6
    assert "Shutting down: Master" in messages


@pytest.mark.parametrize("rotation", ["time", "size"])
def test_rotation_in_a_single_process(project: Path, tmp_path: Path, rotation: str) -> None:
    """Plain uvicorn may rotate by itself; a second process is refused with a sentence and leaves the first alone."""
    folder, request_id = tmp_path / "log", new_id("rotated")
    env = {"LOG_ROTATION": rotation}
    command = uvicorn("--log-config", "log_config.json")
    with Service(project, tmp_path, log_path=folder, env=env, command=command) as service:
        assert service.request("GET", "/api/demo", request_id=request_id).status == 200
        assert service.access_line(request_id).status == 200
        assert request_id in (folder / "demo.log").read_text("utf-8")
        with Service(project, tmp_path / "second", log_path=folder, env=env, command=command, wait=False) as second:
            assert second.process.wait(15) != 0
            assert "another process" in second.stderr.read_text("utf-8")
        assert service.request("GET", "/api/demo").status == 200


def test_rotation_is_refused_under_gunicorn(project: Path, tmp_path: Path) -> None:
    """Several processes would rotate the files under each other: gunicorn does not start."""
    with serve(project, tmp_path, log_path=tmp_path / "log", wait=False, LOG_ROTATION="time") as service:
        assert service.process.wait(15) == 1
        text = service.stderr.read_text("utf-8")
    assert "LOG_ROTATION" in text
    assert "logrotate" in text
    assert "Traceback" not in text


def test_client_that_leaves_leaves_one_line(project: Path, tmp_path: Path) -> None:
    """Twenty clients that leave before their answer, under load: one flagged line each, no traceback, in error.log."""
    ids = [new_id("left") for _ in range(20)]
    with serve(project, tmp_path, log_path=tmp_path / "log") as service:
        with Load(service.port, clients=2) as load:
            for number, request_id in enumerate(ids):
                connection = service.connect()
                connection.send(build_request("GET", "/probe/stream?seconds=0.4", request_id=request_id))
                if number % 2:
                    assert connection.socket.recv(10)
                connection.abort()
            lines = [service.access_line(request_id) for request_id in ids]
        assert load.failed == []
        assert {line.flags[0] for line in lines} == {"client_disconnect"}
        assert "Traceback" not in service.output()


def test_time_stamps_tell_the_time(project: Path, tmp_path: Path) -> None:
    """A stamp with its zone is the time of the machine, whatever the zone is."""
    request_id = new_id("time")
    with serve(project, tmp_path, workers=1, TZ="America/St_Johns", LOG_FORMAT="json") as service:
        service.request("GET", "/api/demo", request_id=request_id)
        stamp = datetime.strptime(service.access_line(request_id).timestamp, "%Y-%m-%dT%H:%M:%S.%f%z")
        assert abs((datetime.now(stamp.tzinfo) - stamp).total_seconds()) < 10
        assert json.loads(service.access_text().splitlines()[0])["timestamp"][-5:] in {"-0330", "-0230"}
