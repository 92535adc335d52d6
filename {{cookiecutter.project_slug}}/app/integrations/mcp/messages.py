"""What other servers say, as records of standard logging: logger `app.mcp.<label>`, ID of the request it is about."""

import logging
import queue
from collections import Counter
from collections.abc import Mapping
from threading import Thread
from time import perf_counter
from typing import Any, Final, NamedTuple

from app.common.log_format import dump_json
from app.common.log_values import with_values
from app.common.measures import measure
from app.common.request_id import logged_id
from app.integrations.mcp.trail import LEVELS

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
"""Messages that wait for being written; what comes on top is counted, and not written."""
MAX_TEXT: Final = 16_384
"""Characters of a message, and of its values, that are kept."""
OURS: Final = frozenset(("server", "mcp_level", "logger_name"))


class Message(NamedTuple):
    """What a server has said, which request it is about, and when it came (`perf_counter`)."""

    server: str
    level: str
    logger: str
    text: str
    values: Mapping[str, Any]
    request_id: str
    came: float

    @classmethod
    def read(cls, server: str, level: str, logger: str | None, data: object, request_id: str) -> "Message":
        """Take apart what came: FastMCP's text and values, or any JSON; what is too long is cut or left out."""
        content = data if isinstance(data, dict) and "msg" in data else {"msg": data}
        text = content["msg"] if isinstance(content["msg"], str) else dump_json({"data": content["msg"]})
        extra = content.get("extra")
        values = {str(name): value for name, value in extra.items()} if isinstance(extra, dict) else {}
        if values and (length := len(dump_json(values))) > MAX_TEXT:
            values = {"extra_omitted": length}
        return cls(server, level, (logger or "-")[:256], text[:MAX_TEXT], values, request_id, perf_counter())


def write(message: Message) -> None:
    """Write a message as a record; no name among its values can break the record, or pass for one of ours."""
    given = {f"{name}_" if name in OURS else name: value for name, value in message.values.items()}
    given.pop("request_id", None)
    text, values = with_values(f"{message.server}: {message.text}", given)
    ours = {"server": message.server, "mcp_level": message.level, "logger_name": message.logger}
    level = LEVELS.get(message.level, logging.WARNING)
    logging.getLogger(f"app.mcp.{message.server}").log(
        level, "%s", text, extra={**values, **ours, "request_id": logged_id(message.request_id)}
    )
    measure("mcp_log_message", perf_counter() - message.came, server=message.server, level=message.level)


class Messages:
    """Writes messages in a thread of its own, since a slow disk or pipe must not hold up the loop."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Message | None] = queue.Queue(MAX_WAITING)
        self._too_many: Counter[str] = Counter()
        self._thread = Thread(target=self._write_all, name="mcp-messages", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Take a message, or count it where too many wait."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._too_many[message.server] += 1

    def close(self, seconds: float) -> None:
        """Write what waits, for as long as that; call it where nothing else waits, such as in a thread."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                write(message)
            except Exception:
                log.exception("A message of the MCP server %s could not be written", message.server)
            if self._queue.empty():
                self._tell_of_the_rest()
        self._tell_of_the_rest()

    def _tell_of_the_rest(self) -> None:
        for server in list(self._too_many):
            number = self._too_many.pop(server)
            log.warning("%d messages of the MCP server %s were too many to be written", number, server)
