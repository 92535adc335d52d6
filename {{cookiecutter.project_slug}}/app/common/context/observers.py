"""Who observes requests, tasks, calls and lines: integrations enter themselves here, each under its own name.

A table costs nothing while it is empty. Observers must not raise.
"""

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from logging import LogRecord
from typing import Any, Final

from app.common.context.request_record import RequestRecord
from app.common.redaction import redact

log_fields: Final[dict[str, Callable[[], Mapping[str, object]]]] = {}
"""What each line has besides the IDs, such as those of a trace: of the context in which the line is written."""

log_filters: Final[dict[str, Callable[[LogRecord], bool]]] = {}
"""Which records become lines, access lines excepted; called once for each record."""

injectors: Final[dict[str, Callable[[MutableMapping[Any, Any]], None]]] = {}
"""What goes out besides the IDs, into the headers of calls (to allowed hosts), tasks and messages."""

request_observers: Final[dict[str, Callable[[RequestRecord], None]]] = {}
"""Called with each request that is over, refused ones and websockets included."""

task_observers: Final[dict[str, Callable[[Any], AbstractContextManager[None]]]] = {}
"""Put around each task, with its `TaskRecord`: its `headers`, and, when it ends, its `state` and whether it failed."""

call_observers: Final[dict[str, Callable[[Any], AbstractContextManager[None]]]] = {}
"""Put around each outgoing call, with its `OutboundCall`: the request, the answer; an error passes through."""

metric_observers: Final[dict[str, Callable[[str, float, Mapping[str, str]], None]]] = {}
"""Called with each measurement: its name, the seconds, and its labels, whose values are few."""

_tables: Final[tuple[dict[str, Any], ...]] = (
    *(log_fields, log_filters, injectors),
    *(request_observers, task_observers, call_observers, metric_observers),
)


def clear() -> None:
    """Remove every observer, as tests do."""
    for table in _tables:
        table.clear()


def observe_metric(name: str, seconds: float, **labels: str) -> None:
    """Report a measurement other than that of a request."""
    for watch in metric_observers.values():
        watch(name, seconds, labels)


def current_fields() -> dict[str, object]:
    """Return the fields of a line that is written now, without secrets."""
    return {key: redact.value(value, key) for fields in log_fields.values() for key, value in fields().items()}


def fields_suffix(fields: Mapping[str, object]) -> str:
    """Return them as a text line shows them: a space and `name=value` for each."""
    return "".join(f" {name}={value}" for name, value in fields.items())
