"""What other servers say, as records of standard logging: logger `app.mcp.<label>`, ID of the request it is about."""

import logging
import queue
from collections import Counter
from threading import Thread
from time import perf_counter
from typing import Final, NamedTuple

from pydantic_core import from_json

from app.common.context.observers import observe_metric
from app.common.logs.extra import with_values
from app.common.logs.formatters import dump_json
from app.common.request_id import logged_id
from app.integrations.mcp.propagation import LEVELS

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
"""Messages of a server that wait for being written; what comes on top is counted, and not written."""
MAX_TEXT: Final = 16_384
"""Characters of a message, and of its values, that are kept."""
OURS: Final = frozenset(("server", "mcp_level", "logger_name", "suppressed", "task", "state", "trace_id", "span_id"))
"""Names under which a line tells what we know; another's values get an underscore."""


class Message(NamedTuple):
    """What a server has said, which request it is about, and when it came (`perf_counter`).

    Its values are JSON still: sixteen thousand characters of it can be a third of a megabyte of objects.
    """

    server: str
    level: str
    logger: str
    text: str
    values: str
    request_id: str
    came: float

    @classmethod
    def read(cls, server: str, level: str, logger: str | None, data: object, request_id: str) -> "Message":
        """Take apart what came: FastMCP's text and values, or any JSON; what is too long is cut or left out."""
        content = data if isinstance(data, dict) and "msg" in data else {"msg": data}
        text = content["msg"] if isinstance(content["msg"], str) else dump_json({"data": content["msg"]})
        extra = content.get("extra")
        values = dump_json({str(name): value for name, value in extra.items()}) if isinstance(extra, dict) else "{}"
        if len(values) > MAX_TEXT:
            values = dump_json({"extra_omitted": len(values)})
        return cls(server, level, (logger or "-")[:256], text[:MAX_TEXT], values, request_id, perf_counter())


def write(message: Message) -> None:
    """Write a message as a record; no name among its values can break the record, or pass for one of ours."""
    given = {f"{name}_" if name in OURS else name: value for name, value in from_json(message.values).items()}
    given.pop("request_id", None)
    text, values = with_values(f"{message.server}: {message.text}", given)
    ours = {"server": message.server, "mcp_level": message.level, "logger_name": message.logger}
    level = LEVELS.get(message.level, logging.WARNING)
    logging.getLogger(f"app.mcp.{message.server}").log(
        level, "%s", text, extra={**values, **ours, "request_id": logged_id(message.request_id)}
    )
    observe_metric("mcp_log_message", perf_counter() - message.came, server=message.server, level=message.level)


class Messages:
    """Writes messages in a thread of its own, since a slow disk or pipe must not hold up the loop.

    Each counter is written by one thread only: a sum of two threads could lose some.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._taken, self._written, self._too_many, self._told = (Counter[str]() for _ in range(4))
        self._thread = Thread(target=self._write_all, name="mcp-messages", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Take a message, or count it where too many of its server wait."""
        server = message.server
        if self._taken[server] - self._written[server] < MAX_WAITING:
            self._taken[server] += 1
            self._queue.put(message)
        else:
            self._too_many[server] += 1

    def close(self, seconds: float) -> None:
        """Write what waits, for as long as that; call it where nothing else waits, such as in a thread."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                write(message)
            except Exception:
                log.exception("A message of the MCP server %s could not be written", message.server)
            self._written[message.server] += 1
            if self._queue.empty():
                self._tell_of_the_rest()
        self._tell_of_the_rest()

    def _tell_of_the_rest(self) -> None:
        for server, number in list(self._too_many.items()):
            if untold := number - self._told[server]:
                self._told[server] = number
                log.warning("%d messages of the MCP server %s were too many to be written", untold, server)
