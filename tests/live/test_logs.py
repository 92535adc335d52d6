"""The contents of the log files in both formats, and the effect of the log settings."""

from __future__ import annotations

import re
from datetime import datetime
from signal import SIGHUP
from typing import TYPE_CHECKING

import pytest

from tests.support.client import new_id
from tests.support.faults import serve, wait_for_new_workers, wait_for_workers, wait_until_serving
from tests.support.lines import STAMP, parse_access, parse_app
from tests.support.load import Load

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full

FORMATS = {
    "text": (STAMP, "%Y-%m-%d %H:%M:%S,%f%z"),
    "json": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", "%Y-%m-%dT%H:%M:%S.%f%z"),
}


@pytest.mark.parametrize(("log_format", "zone", "offset"), [("text", "Kolkata", "+0530"), ("json", "Kabul", "+0430")])
def test_each_file_has_its_own_lines(project: Path, tmp_path: Path, log_format: str, zone: str, offset: str) -> None:
    """The lines have the configured format and a time with its zone; nothing about a request is on the streams."""
    folder = tmp_path / "deep" / "log"
    ok, failing = new_id("ok"), new_id("failing")
    with serve(project, tmp_path, log_path=folder, LOG_FORMAT=log_format, TZ=f"Asia/{zone}") as service:
        assert service.request("GET", "/api/demo", request_id=ok).status == 200
        assert service.request("GET", "/api/demo/fail", request_id=failing).status == 500
        assert {service.access_line(one).status for one in (ok, failing)} == {200, 500}
        texts = {name: (folder / f"{name}.log").read_text("utf-8") for name in ("access", "error", "demo")}
    for line in "".join(texts.values()).splitlines():
        assert line.startswith("    ") or line.startswith("{") is (log_format == "json"), line
    (errors, strays), (demos, _) = parse_app(texts["error"]), parse_app(texts["demo"])
    assert strays == [], "every line of a traceback is indented"
    check_stamps([line.timestamp for line in map(parse_access, texts["access"].splitlines())], log_format, offset)
    check_stamps([record.timestamp for record in (*errors, *demos)], log_format, offset)
    assert [record.request_id for record in demos] == [ok]
    assert ok not in texts["error"]
    (failed,) = (record for record in errors if record.exception)
    assert (failed.request_id, failed.level) == (failing, "ERROR")
    assert failed.exception.startswith("Traceback (most recent call last):\n")
    assert failed.exception.endswith("RuntimeError: this is a defect, shown on purpose")
    names = {path.stem for path in folder.iterdir()}
    assert names <= {"access", "error", "demo", "probe", "faults"}
    assert ok not in service.stdout.read_text("utf-8")


def check_stamps(stamps: list[str], log_format: str, offset: str) -> None:
    """Check that each time has the configured format, the zone, and is the current time."""
    pattern, time_format = FORMATS[log_format]
    for stamp in stamps:
        assert re.fullmatch(pattern, stamp), stamp
        assert stamp.endswith(offset)
        time = datetime.strptime(stamp, time_format)
        assert abs((datetime.now(time.tzinfo) - time).total_seconds()) < 600


def test_reload_applies_valid_settings_and_ignores_invalid_ones(project: Path, tmp_path: Path) -> None:
    """With an invalid value in `.env`, the current settings stay in effect, and the log format does not change."""
    environment = project / ".env"
    values = ("LOG_LEVELS=other=INFO,demo=error", "LOG_LEVELS=demo=LOUD\nKEEPALIVE=abc", "LOG_LEVELS=demo=DEBUG")
    messages = []
    with serve(project, tmp_path, LOG_FORMAT="json") as service:
        wait_until_serving(service, service.workers())
        with Load(service.port, clients=2) as load:
            try:
                for value in values:
                    environment.write_text(f"{value}\n", "utf-8")
                    old = wait_for_workers(service, 2)
                    service.signal(SIGHUP)
                    wait_until_serving(service, wait_for_new_workers(service, old, 2))
                    request_id = new_id("level")
                    assert service.request("GET", "/api/demo", request_id=request_id).status == 200
                    assert service.access_line(request_id).status == 200
                    messages.append([record.message for record in service.app_records(request_id)])
            finally:
                environment.unlink()
        assert load.failed == []
        assert service.stop() == 0
    assert messages == [[], [], ["demo"]]
    records, strays = parse_app(service.app_text())
    assert strays == []
    text = "\n".join(record.message for record in records)
    for message in (
        "The current settings stay in effect.",
        "'demo=LOUD' is not a logger level such as",
        "KEEPALIVE is 'abc'",
    ):
        assert text.count(message) == 1, message
    for message in ("Booting worker", "Application startup complete.", "Application shutdown complete."):
        assert text.count(message) == 2 * (1 + len(values)), message
    assert "Shutting down: Master" in text
