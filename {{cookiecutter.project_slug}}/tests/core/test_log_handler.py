"""Loggers of the service: one line per record, in the right file, with the request ID."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.common.constants import ACCESS_LOGGER
from app.common.log_handler import (
    LOG_CONFIG,
    LogHandler,
    RequestLogHandler,
    configure_logging,
    logging_config,
    prepare_log_files,
)
from app.main import Application, create_app
from app.settings import Settings, get_settings
from tests.support import ADDED, HEADER, ID, Logs, connect

pytestmark = pytest.mark.usefixtures("app")  # sets up logging


def messages(lines: list[str]) -> list[str]:
    return [line.split(") ", 1)[1] for line in lines if ") " in line]


def test_line_goes_to_its_own_file_with_the_id(app: Application, client: TestClient, logs: Logs) -> None:
    log = RequestLogHandler("orders")

    @app.get("/order")
    async def order() -> None:
        log.info("ordered %d", 3)

    client.get("/order", headers={HEADER: ID})
    log.info("outside")
    assert messages(logs.lines("orders.log")) == [f"INFO [{ID}] ordered 3", "INFO [-] outside"]
    assert logs.error == []


def test_lines_of_the_plain_handler_have_no_id(logs: Logs) -> None:
    LogHandler("plain").warning("text")
    assert messages(logs.lines("plain.log")) == ["WARNING text"]


def test_handlers_of_the_same_name_write_each_line_once(logs: Logs, caplog: pytest.LogCaptureFixture) -> None:
    first, second = RequestLogHandler("orders"), RequestLogHandler("orders")
    first.info("one")
    second.info("two")
    assert messages(logs.lines("orders.log")) == ["INFO [-] one", "INFO [-] two"]
    assert caplog.messages == ["one", "two"]


def test_reset_name_changes_the_file_of_one_handler_only(logs: Logs) -> None:
    first, second = RequestLogHandler("before"), RequestLogHandler("before")
    second.info("one")
    second.resetName("after")
    second.info("two")
    first.info("still here")
    assert second.name == "after"
    assert messages(logs.lines("before.log")) == ["INFO [-] one", "INFO [-] still here"]
    assert messages(logs.lines("after.log")) == ["INFO [-] two"]


@pytest.mark.parametrize("name", ["access", "error", "app.access", ".access"])
def test_reserved_name_is_rejected_and_the_handler_unchanged(name: str, logs: Logs) -> None:
    log = RequestLogHandler("steady")
    for set_name in (RequestLogHandler, log.resetName):
        with pytest.raises(ValueError, match="choose another name"):
            set_name(name)
    log.info("still here")
    assert log.name == "steady"
    assert messages(logs.lines("steady.log")) == ["INFO [-] still here"]


@pytest.mark.parametrize(("level", "logged"), [(None, ["info", "error"]), (logging.ERROR, ["error"]), ("DEBUG", None)])
def test_logger_drops_records_below_its_level(level: int | str | None, logged: list[str] | None, logs: Logs) -> None:
    log = RequestLogHandler("levels", level)
    for name in ("debug", "info", "error"):
        getattr(log, name)(name)
    assert [line.split()[-1] for line in logs.lines("levels.log")] == (logged or ["debug", "info", "error"])


def test_line_without_stream_is_only_in_the_file(
    logs: Logs, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    RequestLogHandler("quiet", stream=False).error("text")
    assert messages(logs.lines("quiet.log")) == ["ERROR [-] text"]
    assert caplog.messages == []
    assert capsys.readouterr().err == ""


def test_line_without_own_file_is_in_the_error_file(logs: Logs) -> None:
    RequestLogHandler("fileless", file=False).error("text")
    assert logs.lines("fileless.log") == []
    assert messages(logs.error) == ["ERROR [-] text"]


def test_records_reach_caplog(caplog: pytest.LogCaptureFixture) -> None:
    RequestLogHandler("orders").warning("text", extra={"user": "u-1"})
    (record,) = caplog.records
    assert (record.name, record.getMessage(), vars(record)["user"]) == ("orders", "text", "u-1")
    assert record.filename == Path(__file__).name


@pytest.mark.parametrize(
    ("name", "file"),
    [("orders", "orders.log"), ("app.orders", "app.orders.log"), ("../../up", "_.._up.log"), ("a/b c", "a_b_c.log")],
)
def test_file_name_is_safe(name: str, file: str, logs: Logs) -> None:
    RequestLogHandler(name).warning("text")
    assert (logs.folder / file).is_file()
    assert {path.parent for path in logs.folder.parent.rglob("*.log")} == {logs.folder}


def test_json_format_applies_to_every_file(configure: Callable[..., Application], logs: Logs) -> None:
    app = configure(LOG_FORMAT="json")
    log = RequestLogHandler("orders")

    @app.get("/order")
    async def order() -> None:
        log.info("ordered", extra={"item": "a\u2028b"})
        logging.getLogger("library").warning("careful")

    connect(app).get("/order", headers={HEADER: ID})
    (own,), (other,), (access,) = (
        map(json.loads, logs.lines(name)) for name in ("orders.log", "error.log", "access.log")
    )
    assert (own["message"], own["item"], own["request_id"]) == ("ordered", "a\u2028b", ID)
    assert (other["logger"], other["request_id"]) == ("library", ID)
    assert (access["status"], access["request_id"]) == (200, ID)


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 3), ("info", 2), ("ERROR", 1), ("CRITICAL", 0)])
def test_log_level_setting_is_applied(
    level: str, count: int, configure: Callable[..., Application], logs: Logs
) -> None:
    configure(LOG_LEVEL=level)
    log = logging.getLogger("library.module")
    log.debug("text")
    log.info("text")
    log.error("text")
    assert len(logs.error) == count


def test_access_log_lines_are_written_at_every_level(configure: Callable[..., Application], logs: Logs) -> None:
    connect(configure(LOG_LEVEL="CRITICAL")).get("/api/demo")
    assert len(logs.access) == 1


def test_lines_go_to_the_streams_without_log_path(
    configure: Callable[..., Application], logs: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    client = connect(configure(LOG_PATH=""))
    client.get("/api/demo", headers={HEADER: ID})
    out, err = capfd.readouterr()
    assert out.count(f" {ID} 200 ") == out.count("\n") == 1
    assert ADDED.sub("", err).count(f"[{ID}] demo") == 1
    assert logs.access == logs.error == []


def test_second_application_changes_no_handler() -> None:
    before = {name: logging.getLogger(name).handlers[:] for name in (None, "app.access")}
    create_app()
    assert {name: logging.getLogger(name).handlers for name in (None, "app.access")} == before


def test_logging_config_is_the_file_with_log_level_applied(configure: Callable[..., Application]) -> None:
    configure(LOG_LEVEL="WARNING")
    config = json.loads(LOG_CONFIG.read_text("utf-8"))
    assert config["disable_existing_loggers"] is False
    config["root"]["level"] = "WARNING"
    assert logging_config() == config


def test_log_folder_is_created(tmp_path: Path) -> None:
    prepare_log_files(Settings(log_path=tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    prepare_log_files(Settings(log_path=None))


def test_log_folder_that_cannot_be_created_prevents_startup(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"LOG_PATH is '.+', but no file can be written there"):
        prepare_log_files(Settings(log_path=tmp_path / "file" / "log"))


def test_settings_passed_to_create_app_apply_to_all_loggers(tmp_path: Path, logs: Logs) -> None:
    """This includes a logger that was created before, as at import."""
    log = RequestLogHandler("early")
    given = Settings(log_format="json", log_path=tmp_path / "given", log_level="WARNING")
    client = connect(create_app(given))
    log.warning("first")
    logging.getLogger("parcels").info("below the level")
    client.get("/api/demo", headers={HEADER: ID})
    lines = Logs(tmp_path / "given").lines
    assert [json.loads(line)["message"] for line in lines("early.log")] == ["first"]
    assert [json.loads(line)["request_id"] for line in lines("access.log")] == [ID]
    assert lines("error.log") == logs.access == logs.lines("early.log") == []


def test_equal_settings_change_no_handlers(tmp_path: Path) -> None:
    """Handlers of the user's own logging configuration are kept."""
    settings = get_settings()
    create_app(settings)
    access = logging.getLogger(ACCESS_LOGGER)
    access.addHandler(logging.FileHandler(tmp_path / "own.log"))
    before = list(access.handlers)
    create_app(settings.model_copy())
    assert access.handlers == before


def test_new_settings_keep_other_handlers(tmp_path: Path) -> None:
    own = logging.FileHandler(tmp_path / "own.log")
    logging.getLogger().addHandler(own)
    create_app(Settings(log_path=tmp_path / "given"))
    logging.getLogger("parcels").warning("seen")
    assert (tmp_path / "own.log").read_text() == "seen\n"
    assert messages(Logs(tmp_path / "given").error) == ["WARNING [-] seen"]


def test_new_settings_keep_another_logging_configuration(tmp_path: Path) -> None:
    """Such a configuration comes from `--log-config` with the user's own file."""
    access = logging.getLogger(ACCESS_LOGGER)
    for ours in list(access.handlers):
        access.removeHandler(ours)
        ours.close()
    access.addHandler(theirs := logging.FileHandler(tmp_path / "theirs.log"))
    create_app(Settings(log_path=tmp_path / "given"))
    assert access.handlers == [theirs]


def test_own_file_keeps_its_format_and_follows_log_path(tmp_path: Path, logs: Logs) -> None:
    log, plain = RequestLogHandler("shared"), LogHandler("shared")
    for folder in (tmp_path / "given", None):
        configure_logging(Settings(log_path=folder))
        for handler in (log, plain):
            handler.warning("text")
    assert messages(Logs(tmp_path / "given").lines("shared.log")) == ["WARNING [-] text"] * 2
    assert logs.lines("shared.log") == []
