"""Log files: external rotation loses no line, and a write error never fails a request."""

import io
import logging
import shutil
from pathlib import Path

import pytest

from app.common.logs.handlers import (
    FILE_HANDLERS,
    LogFileHandler,
    LogStreamHandler,
    SizedLogFileHandler,
    TimedLogFileHandler,
)


def write(handler: logging.Handler, *messages: str) -> None:
    for message in messages:
        handler.handle(logging.makeLogRecord({"msg": message}))


def test_line_after_a_rename_is_written_to_a_new_file(tmp_path: Path) -> None:
    handler = LogFileHandler(tmp_path / "a.log")
    write(handler, "first")
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    write(handler, "second", "third")
    handler.close()
    assert (tmp_path / "a.log.1").read_text() == "first\n"
    assert (tmp_path / "a.log").read_text() == "second\nthird\n"


def test_missing_folder_is_created_and_any_unicode_text_is_written(tmp_path: Path) -> None:
    handler = LogFileHandler(tmp_path / "a" / "b" / "c.log")
    write(handler, "世界 \ud800")
    handler.close()
    assert (tmp_path / "a" / "b" / "c.log").read_text("utf-8") == "世界 \\ud800\n"


def test_removed_folder_raises_nothing_and_is_reported_once_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log" / "a.log"
    handler = LogFileHandler(file)
    shutil.rmtree(file.parent)
    for now, reports in ((1000, 1), (1059, 0), (1061, 1)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        write(handler, *["lost"] * 5)
        reported = capsys.readouterr().err
        assert reported.count(f"Log lines are being lost: {file} ") == reported.count("\n") == reports
    file.parent.mkdir()
    write(handler, "kept")
    handler.close()
    assert file.read_text() == "kept\n"


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_write_error_of_standard_error_itself_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = LogStreamHandler(FullDisk())
    monkeypatch.setattr("sys.stderr", FullDisk())
    write(handler, "lost")


def test_characters_that_a_stream_cannot_encode_are_escaped() -> None:
    raw = io.BytesIO()
    handler = LogStreamHandler(io.TextIOWrapper(raw, encoding="ascii"))
    write(handler, "Grüße")
    assert raw.getvalue() == b"Gr\\xfc\\xdfe\n"


def test_rotation_by_size_keeps_one_old_file(tmp_path: Path) -> None:
    handler = SizedLogFileHandler(str(tmp_path / "a.log"), maxBytes=20)
    write(handler, *[f"line number {number}" for number in range(4)])
    handler.close()
    assert (tmp_path / "a.log").read_text() == "line number 3\n"
    assert (tmp_path / "a.log.1").read_text() == "line number 2\n"
    assert not (tmp_path / "a.log.2").exists()


def test_rotation_by_time_starts_a_new_file(tmp_path: Path) -> None:
    handler = TimedLogFileHandler(str(tmp_path / "a.log"))
    assert (handler.when, handler.backupCount) == ("MIDNIGHT", 10)
    write(handler, "yesterday")
    handler.rolloverAt = 0
    write(handler, "today")
    handler.close()
    assert (tmp_path / "a.log").read_text() == "today\n"
    (old,) = tmp_path.glob("a.log.[0-9]*")
    assert old.read_text() == "yesterday\n"


def test_each_value_of_log_rotation_has_its_handler() -> None:
    assert {"off": LogFileHandler, "time": TimedLogFileHandler, "size": SizedLogFileHandler} == FILE_HANDLERS
