"""Messages of other MCP servers become log records of the logger `app.mcp.<label>`, with the ID of their request."""

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

MAX_QUEUED: Final = 1000
"""Messages per server that may wait to be written; further ones are dropped and counted."""
MAX_TEXT: Final = 16_384
"""Maximum length of a message's text in characters, and of its values as JSON."""
FIELDS: Final = frozenset(("server", "mcp_level", "logger_name", "suppressed", "task", "state", "trace_id", "span_id"))
"""Fields that only the service sets; a value of a message with such a name gets an underscore appended."""


class Message(NamedTuple):
    """A message of a server, the ID of its request, and the time of arrival (`perf_counter`, seconds).

    `values` stays JSON text while it waits: as objects, 16,384 characters can take a third of a megabyte.
    """

    server: str
    level: str
    logger: str
    text: str
    values: str
    request_id: str
    received: float

    @classmethod
    def parse(cls, server: str, level: str, logger: str | None, data: object, request_id: str) -> "Message":
        """Accept FastMCP's text and values, or any JSON; truncate a long text, omit values that are too long."""
        content = data if isinstance(data, dict) and "msg" in data else {"msg": data}
        text = content["msg"] if isinstance(content["msg"], str) else dump_json({"data": content["msg"]})
        extra = content.get("extra")
        values = dump_json({str(name): value for name, value in extra.items()}) if isinstance(extra, dict) else "{}"
        if len(values) > MAX_TEXT:
            values = dump_json({"extra_omitted": len(values)})
        return cls(server, level, (logger or "-")[:256], text[:MAX_TEXT], values, request_id, perf_counter())


def write(message: Message) -> None:
    """Write a message as a log record; its values can neither break the record nor replace the service's own fields."""
    extra = {f"{name}_" if name in FIELDS else name: value for name, value in from_json(message.values).items()}
    extra.pop("request_id", None)
    text, values = with_values(f"{message.server}: {message.text}", extra)
    fields = {"server": message.server, "mcp_level": message.level, "logger_name": message.logger}
    level = LEVELS.get(message.level, logging.WARNING)
    logging.getLogger(f"app.mcp.{message.server}").log(
        level, "%s", text, extra={**values, **fields, "request_id": logged_id(message.request_id)}
    )
    observe_metric("mcp_log_message", perf_counter() - message.received, server=message.server, level=message.level)


class MessageWriter:
    """Writes messages in a separate thread, because a slow disk or pipe must not block the event loop.

    Only one thread writes to each counter: increments by two threads could get lost.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._queued, self._written, self._dropped, self._reported = (Counter[str]() for _ in range(4))
        self._thread = Thread(target=self._write_all, name="mcp-messages", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message; drop and count it if MAX_QUEUED messages of its server are waiting."""
        server = message.server
        if self._queued[server] - self._written[server] < MAX_QUEUED:
            self._queued[server] += 1
            self._queue.put(message)
        else:
            self._dropped[server] += 1

    def close(self, seconds: float) -> None:
        """Write the queued messages, for at most `seconds`; this blocks, so call it in a thread."""
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
                self._report_dropped()
        self._report_dropped()

    def _report_dropped(self) -> None:
        for server, number in list(self._dropped.items()):
            if unreported := number - self._reported[server]:
                self._reported[server] = number
                log.warning("%d messages of the MCP server %s were dropped: its queue was full", unreported, server)
