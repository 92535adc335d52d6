"""Propagate request IDs to tasks, jobs and messages, each of which also has a task ID and its parent's ID.

Producers call `inject(headers)`. Consumers run inside `with extract(headers, task_id):`, where every accessor, log line
and outgoing call has the ID of the origin request.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any, Self

from app.common.constants import NO_REQUEST_ID, PARENT_ID_KEY, REQUEST_ID_KEY, TASK_LOGGER
from app.common.context.observers import injectors, task_observers
from app.common.context.request_record import RequestRecord, Tokens, bind, current_record, unbind
from app.common.request_id import id_policy

log = logging.getLogger(TASK_LOGGER)

_MAX_ID, _MAX_NAME = 128, 256
_UNSAFE = re.compile(r"[^!-~]")


class TaskRecord(RequestRecord):
    """The record of one task, a context manager to enter once: `with TaskRecord(request_id, task_id, parent_id):`.

    `request_id`: ID of the origin request. `task_id`: the task's own ID. `parent_id`: ID of the task that started it,
    or "-". The arguments are not checked; `extract` checks IDs from outside.
    """

    __slots__ = ("_observers", "_tokens", "headers", "name", "parent_id", "state", "task_id")
    _tokens: Tokens

    def __init__(
        self, request_id: str, task_id: str, parent_id: str = NO_REQUEST_ID, headers: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(request_id, {"type": "task"})
        self.headers = headers or {}
        self.name = self.state = ""
        self._observers = ExitStack()
        self.task_id = task_id
        self.parent_id = parent_id

    def __enter__(self) -> Self:
        self._tokens = bind(self)
        return self

    def begin(self, name: str) -> Self:
        """Enter the record and its `task_observers` to run the task; use `with` alone only to log about the task."""
        self.name = name[:_MAX_NAME]
        self.__enter__()
        try:
            for observe in task_observers.values():
                self._observers.enter_context(observe(self))
        except BaseException:
            self.__exit__()  # or the next task in this context would have these IDs
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._observers.close()
        unbind(self._tokens)

    def finish(self, name: str, state: str, level: int = logging.INFO, *, failed: bool = False) -> None:
        """Log the end of the task: its name, its state and its duration in seconds.

        `failed`: whether the task failed, for observers. `state` is only for readers of the log.
        """
        self.end()
        name, self.state, self.failed = name[:_MAX_NAME], state, failed
        fields = {"task": name, "state": state, "duration": round(self.duration, 6)}
        log.log(level, "%s %s %.3fs", name, state, self.duration, extra=fields)


def inject(carrier: MutableMapping[Any, Any], task_id: str = "") -> None:
    """Write the current IDs into the headers of a message, unless they are already there.

    `task_id`: ID of the new task, if known: a task that sends itself again (a retry) must not become its own parent.
    """
    record = current_record.get()
    existing = {str(key).lower() for key in carrier}
    if REQUEST_ID_KEY not in existing:
        carrier[REQUEST_ID_KEY] = record.request_id if record else id_policy.new()
    parent = NO_REQUEST_ID if record is None else record.parent_id if record.task_id == task_id else record.task_id
    if PARENT_ID_KEY not in existing and parent != NO_REQUEST_ID:
        carrier[PARENT_ID_KEY] = parent
    for injector in injectors.values():
        injector(carrier)


def extract(carrier: Mapping[Any, Any], task_id: str, fallback: object = None) -> TaskRecord:
    """Return the record for the task of a message with the headers `carrier`.

    A missing or invalid request ID is replaced by `fallback` (the ID of a foreign producer), by the ID of the current
    record (in a direct call), or by a new ID. The first or last is written to `carrier`, so that the message keeps it.
    """
    headers = {str(key).lower(): value for key, value in carrier.items()}
    carried, foreign = _bytes_of(headers.get(REQUEST_ID_KEY)), _bytes_of(fallback)
    parent, outer = headers.get(PARENT_ID_KEY), current_record.get()
    if id_policy.accepts(carried, is_carried=True):
        request_id = carried.decode("latin-1")
    elif outer and not id_policy.accepts(foreign):
        request_id, parent = outer.request_id, outer.parent_id if outer.task_id == task_id else outer.task_id
    else:
        request_id = id_policy.choose(foreign)
        _write_back(carrier, request_id)
    return TaskRecord(request_id, printable(task_id), printable(parent or NO_REQUEST_ID), headers)


def _write_back(carrier: Mapping[Any, Any], request_id: str) -> None:
    if isinstance(carrier, MutableMapping):
        for key in [key for key in carrier if str(key).lower() == REQUEST_ID_KEY]:
            carrier.pop(key, None)
        carrier[REQUEST_ID_KEY] = request_id


def _bytes_of(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode("utf-8", "replace")


def printable(value: object) -> str:
    """Return an ID in printable ASCII, with `_` for other characters, truncated to 128 characters."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return _UNSAFE.sub("_", text[:_MAX_ID])
