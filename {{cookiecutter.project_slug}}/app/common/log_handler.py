"""Loggers whose lines carry the request's ID, and the one logging configuration of every process.

`log_config.json` is that configuration: gunicorn's master and workers, plain uvicorn (`--log-config`) and scripts use
the same file. Its factories, below, look into the settings, so that LOG_FORMAT and LOG_PATH mean the same everywhere.
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

made: "WeakKeyDictionary[LogHandler, None]" = WeakKeyDictionary()
"""Every `LogHandler` in its order: those that are made at import follow settings that come later."""


def default_formatter(fmt: str = REQUEST_ID_LOG_FORMAT) -> logging.Formatter:
    """Return the formatter that LOG_FORMAT asks for."""
    return JsonFormatter() if get_settings().log_format == "json" else TextFormatter(fmt)


def access_formatter(fmt: str = ACCESS_LOG_FORMAT) -> logging.Formatter:
    """Return the formatter of access lines that LOG_FORMAT asks for."""
    return JsonAccessFormatter() if get_settings().log_format == "json" else RequestAccessFormatter(fmt)


def file_handler(filename: str) -> logging.Handler:
    """Return a handler for the file in the folder LOG_PATH; one that does nothing without a folder."""
    settings = get_settings()
    if settings.log_path is None:
        return logging.NullHandler()
    return FILE_HANDLERS[settings.log_rotation](str(settings.log_path / filename))


def access_handler() -> logging.Handler:
    """Return the handler of access lines: LOG_PATH/access.log, or standard output without a folder."""
    return LogStreamHandler(sys.stdout) if get_settings().log_path is None else file_handler("access.log")


def logging_config() -> dict[str, Any]:
    """Return the content of `log_config.json` with the level of the settings, for `logging.config.dictConfig`."""
    config: dict[str, Any] = json.loads(LOG_CONFIG.read_text("utf-8"))
    config["root"]["level"] = get_settings().log_level
    return config


def configure_logging(settings: Settings) -> None:
    """Make the settings those of this process, and set up logging unless the server has done so by the same ones.

    A configuration of others stays, and so do handlers of theirs beside ours.
    """
    changed, root, access = current != [settings], logging.getLogger(), logging.getLogger(ACCESS_LOGGER).handlers
    use_settings(settings)
    if not access or (changed and access[0].name == "access"):
        config = logging_config()
        others = [handler for handler in root.handlers if access and handler.name not in config["handlers"]]
        logging.config.dictConfig(config)
        root.handlers += others
    for known in list(made):
        known.set_up()
    logging.getLogger().setLevel(settings.log_level)
    for name, _, level in (word.partition("=") for word in settings.log_levels):
        logging.getLogger(name).setLevel(level.upper())
    policy.configure(settings.access_log_exclude, settings.masked_query)
    redact.configure(settings.masked_log)
    set_logged_length(settings.log_id_length)


def file_name_of(name: str) -> str:
    """Return the name of a logger's file in the folder LOG_PATH."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") + ".log"


def refuse_reserved(name: str) -> None:
    """Raise ValueError for a name that belongs to the server."""
    if file_name_of(name) in RESERVED_FILES or name == ACCESS_LOGGER or name.startswith(SERVERS):
        raise ValueError(f"A logger {name!r} would write among the server's own lines: give it another name.")


class LogHandler(logging.LoggerAdapter[logging.Logger]):
    """The logger `name` with a file of its own, `LOG_PATH/<name>.log`, besides the stream.

    It is `logging.getLogger(name)`: part of the hierarchy, the same however often it is asked for.
    `level`: lowest level kept, default: that of the root logger. `stream`: its lines also go where the root logger's
    go. `file`: it has a file of its own, if LOG_PATH is set.
    """

    format: ClassVar[str] = LOG_FORMAT

    def __init__(self, name: str, level: int | str | None = None, stream: bool = True, file: bool = True) -> None:
        refuse_reserved(name)
        super().__init__(logging.getLogger(name), {})
        self._level, self._stream, self._file = level, stream, file
        made[self] = None
        self.set_up()

    @property
    def file_name(self) -> str:
        """The name of its file in the folder LOG_PATH."""
        return file_name_of(self.name)

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """Hand on the call as it is; the base class would replace the caller's `extra`."""
        return msg, kwargs

    def resetName(self, name: str) -> None:  # noqa: N802 - a name that users know from elsewhere
        """Go on under another name, in another file."""
        refuse_reserved(name)
        self.logger = logging.getLogger(name)
        self.set_up()

    def set_up(self) -> None:
        """Follow the settings of the process: level, stream, and its file in their folder and format."""
        if self._level is not None:
            self.logger.setLevel(self._level)
        if not self._stream:
            self.logger.propagate = False
        folder = get_settings().log_path if self._file else None
        if not self._has_file(folder and folder / self.file_name) and folder:
            self.logger.addHandler(self._own_file())

    def _has_file(self, path: Path | None) -> bool:
        """Tell whether the file is open already; one in another folder is closed."""
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
    """The same, whose lines carry the request's ID: `log = RequestLogHandler("demo"); log.info("demo")`."""

    format = REQUEST_ID_LOG_FORMAT


def prepare_log_files(settings: Settings) -> None:
    """Make the folder for log files of several processes; raise SystemExit with a sentence if that cannot work."""
    if settings.log_rotation != "off":
        raise SystemExit(
            f"LOG_ROTATION is {settings.log_rotation!r}, and several processes would rotate files under each other: "
            "set LOG_ROTATION=off and rotate from outside (logrotate, then SIGUSR1 to gunicorn)."
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
            f"LOG_PATH is {str(settings.log_path)!r}, and no file can be written there ({error.strerror}): set it to a "
            "folder that this user may write to, or leave it empty for standard output."
        ) from None
