"""Registry of observers: callbacks of integrations for requests, tasks, outgoing calls and log records.

Each integration registers under its own name. An empty registry costs nothing. Observers must not raise.
"""

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from logging import LogRecord
from typing import Any, Final

from app.common.context.request_record import RequestRecord
from app.common.redaction import redact

log_fields: Final[dict[str, Callable[[], Mapping[str, object]]]] = {}
"""Callbacks that return additional fields of a log record, such as trace IDs, in the context that emits it."""

log_filters: Final[dict[str, Callable[[LogRecord], bool]]] = {}
"""Callbacks that return whether a log record is written; called once per record, but not for access log records."""

injectors: Final[dict[str, Callable[[MutableMapping[Any, Any]], None]]] = {}
"""Callbacks that add headers, besides the IDs, to outgoing calls (to allowed hosts), tasks and messages."""

request_observers: Final[dict[str, Callable[[RequestRecord], None]]] = {}
"""Callbacks for the record of each finished request, including refused requests and WebSockets."""

task_observers: Final[dict[str, Callable[[Any], AbstractContextManager[None]]]] = {}
"""Context managers around each task, called with its `TaskRecord`: `headers`, and at the end `state` and `failed`."""

call_observers: Final[dict[str, Callable[[Any], AbstractContextManager[None]]]] = {}
"""Context managers around each outgoing call, called with its `OutboundCall`; exceptions of the call pass through."""

metric_observers: Final[dict[str, Callable[[str, float, Mapping[str, str]], None]]] = {}
"""Callbacks for each metric observation: its name, its seconds, and its labels, which must have low cardinality."""

_tables: Final[tuple[dict[str, Any], ...]] = (
    *(log_fields, log_filters, injectors),
    *(request_observers, task_observers, call_observers, metric_observers),
)


def clear() -> None:
    """Remove every observer, as tests do."""
    for table in _tables:
        table.clear()


def observe_metric(name: str, seconds: float, **labels: str) -> None:
    """Report a metric observation, in seconds, to the observers; requests are reported to `request_observers`."""
    for observe in metric_observers.values():
        observe(name, seconds, labels)


def current_fields() -> dict[str, object]:
    """Return the additional fields of a log record that is emitted now, with secrets masked."""
    return {key: redact.value(value, key) for fields in log_fields.values() for key, value in fields().items()}


def fields_suffix(fields: Mapping[str, object]) -> str:
    """Return the fields as text log lines show them: ` name=value` for each."""
    return "".join(f" {name}={value}" for name, value in fields.items())
