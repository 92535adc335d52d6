"""Loggers whose lines carry the request ID, and the logging configuration of every process.

`log_config.json` is that configuration, for gunicorn's master and workers, plain uvicorn (`--log-config`) and scripts.
It calls the factories below, which read the settings, so that LOG_FORMAT and LOG_PATH apply to all of them.
"""

import json
import logging.config
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from app.common.constants import ACCESS_LOG_FORMAT, ACCESS_LOGGER, LOG_FORMAT, REQUEST_ID_LOG_FORMAT
from app.common.logs.access import JsonAccessFormatter, RequestAccessFormatter
from app.common.logs.access_fields import policy
from app.common.logs.filters import OwnFileMark
from app.common.logs.formatters import JsonFormatter, TextFormatter
from app.common.logs.handlers import FILE_HANDLERS, LogStreamHandler
from app.common.redaction import redact
from app.common.request_id import RequestIDLogFilter, set_logged_length
from app.environment import PROJECT_ROOT
from app.settings import Settings, current, get_settings, use_settings

RESERVED_FILES = frozenset({"access.log", "error.log"})
SERVERS = ("gunicorn.", "uvicorn.", "hypercorn.", "granian.")
OWN_FILE = "own file of a LogHandler"
LOG_CONFIG = PROJECT_ROOT / "log_config.json"

instances: "WeakKeyDictionary[LogHandler, None]" = WeakKeyDictionary()
"""Every `LogHandler` in order of creation, so that settings made current later apply to those created at import."""


def default_formatter(fmt: str = REQUEST_ID_LOG_FORMAT) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT; `fmt` is the format of text lines."""
    return JsonFormatter() if get_settings().log_format == "json" else TextFormatter(fmt)


def access_formatter(fmt: str = ACCESS_LOG_FORMAT) -> logging.Formatter:
    """Return the formatter of access log lines for LOG_FORMAT; `fmt` is the format of text lines."""
    return JsonAccessFormatter() if get_settings().log_format == "json" else RequestAccessFormatter(fmt)


def file_handler(filename: str) -> logging.Handler:
    """Return a handler for a file in LOG_PATH, or a NullHandler if LOG_PATH is not set."""
    settings = get_settings()
    if settings.log_path is None:
        return logging.NullHandler()
    return FILE_HANDLERS[settings.log_rotation](str(settings.log_path / filename))


def access_handler() -> logging.Handler:
    """Return the handler of access log lines, for LOG_PATH/access.log, or standard output if LOG_PATH is not set."""
    return LogStreamHandler(sys.stdout) if get_settings().log_path is None else file_handler("access.log")


def logging_config() -> dict[str, Any]:
    """Return the content of `log_config.json` with LOG_LEVEL applied, for `logging.config.dictConfig`."""
    config: dict[str, Any] = json.loads(LOG_CONFIG.read_text("utf-8"))
    config["root"]["level"] = get_settings().log_level
    return config


def configure_logging(settings: Settings) -> None:
    """Make the settings current, and set up logging unless the server has already done so with the same settings.

    A logging configuration by other code is kept, as are handlers that other code added to ours.
    """
    changed, root, access = current != [settings], logging.getLogger(), logging.getLogger(ACCESS_LOGGER).handlers
    use_settings(settings)
    if not access or (changed and access[0].name == "access"):
        config = logging_config()
        others = [handler for handler in root.handlers if access and handler.name not in config["handlers"]]
        logging.config.dictConfig(config)
        root.handlers += others
    for instance in list(instances):
        instance.set_up()
    logging.getLogger().setLevel(settings.log_level)
    for name, _, level in (word.partition("=") for word in settings.log_levels):
        logging.getLogger(name).setLevel(level.upper())
    policy.configure(settings.access_log_exclude, settings.masked_query)
    redact.configure(settings.masked_log)
    set_logged_length(settings.log_id_length)


def file_name_of(name: str) -> str:
    """Return the name of a logger's file in LOG_PATH."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") + ".log"


def reject_reserved_name(name: str) -> None:
    """Raise ValueError if the logger name, or its file, is used by the server."""
    if file_name_of(name) in RESERVED_FILES or name == ACCESS_LOGGER or name.startswith(SERVERS):
        raise ValueError(f"The logger name {name!r} is reserved for the server's log lines: choose another name.")


class LogHandler(logging.LoggerAdapter[logging.Logger]):
    """Adapter of the logger `name`, which writes to its own file, `LOG_PATH/<name>.log`, as well as to the stream.

    The logger is `logging.getLogger(name)`: part of the hierarchy, and shared by handlers of the same name.
    `level`: lowest level logged; by default that of the root logger. `stream`: whether records also go to the handlers
    of the root logger. `file`: whether it has its own file if LOG_PATH is set.
    """

    format: ClassVar[str] = LOG_FORMAT

    def __init__(self, name: str, level: int | str | None = None, stream: bool = True, file: bool = True) -> None:
        reject_reserved_name(name)
        super().__init__(logging.getLogger(name), {})
        self._level, self._stream, self._file = level, stream, file
        instances[self] = None
        self.set_up()

    @property
    def file_name(self) -> str:
        """The name of its file in LOG_PATH."""
        return file_name_of(self.name)

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """Return the arguments unchanged; the base class would replace the caller's `extra`."""
        return msg, kwargs

    def resetName(self, name: str) -> None:  # noqa: N802 - a public name
        """Switch to the logger and the file of another name; raise ValueError if the name is reserved."""
        reject_reserved_name(name)
        self.logger = logging.getLogger(name)
        self.set_up()

    def set_up(self) -> None:
        """Apply the current settings: level, propagation, and the folder and format of its file."""
        if self._level is not None:
            self.logger.setLevel(self._level)
        if not self._stream:
            self.logger.propagate = False
        folder = get_settings().log_path if self._file else None
        if not self._has_file(folder and folder / self.file_name) and folder:
            self.logger.addHandler(self._own_file())

    def _has_file(self, path: Path | None) -> bool:
        """Return whether the file is already open; close a file in another folder."""
        for handler in [handler for handler in self.logger.handlers if handler.name == OWN_FILE]:
            if path and isinstance(handler, logging.FileHandler) and Path(handler.baseFilename) == path.absolute():
                handler.setFormatter(default_formatter(vars(handler)["fmt"]))
                return True
            self.logger.removeHandler(handler)
            handler.close()
        return False

    def _own_file(self) -> logging.Handler:
        handler = file_handler(self.file_name)
        handler.name, vars(handler)["fmt"] = OWN_FILE, self.format
        handler.setFormatter(default_formatter(self.format))
        handler.addFilter(RequestIDLogFilter())
        handler.addFilter(OwnFileMark())
        return handler


class RequestLogHandler(LogHandler):
    """A `LogHandler` whose lines carry the request ID: `log = RequestLogHandler("demo"); log.info("demo")`."""

    format = REQUEST_ID_LOG_FORMAT


def prepare_log_files(settings: Settings) -> None:
    """Create LOG_PATH for several processes; raise SystemExit if it is not writable, or if LOG_ROTATION is on."""
    if settings.log_rotation != "off":
        raise SystemExit(
            f"LOG_ROTATION is {settings.log_rotation!r}, but several processes cannot rotate the same files: "
            "set LOG_ROTATION=off, and use logrotate with a SIGUSR1 to gunicorn."
        )
    if settings.log_path is None:
        return
    probe = settings.log_path / ".writable"
    try:
        settings.log_path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise SystemExit(
            f"LOG_PATH is {str(settings.log_path)!r}, but no file can be written there ({error.strerror}): set it to a "
            "folder that this user may write to, or leave it empty for standard output."
        ) from None
