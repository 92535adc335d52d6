"""Work outside of a request, followed like one: a task, a job, a message, each with its own ID and its parent's.

Who sends a message calls `inject(headers)`; who works on it does so `with extract(headers, task_id)`: every accessor,
log line and outgoing call has the ID of the request that set it off.
"""

import logging
import re
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack
from contextvars import Token
from typing import Any, Final, Self

from starlette_context import _request_scope_context_storage as starlette_context_storage

from app.common.constants import NO_REQUEST_ID, PARENT_ID_KEY, REQUEST_ID_KEY, TASK_LOGGER
from app.common.request_id import is_acceptable, new_request_id
from app.common.request_record import RequestRecord, current_record, injectors

log = logging.getLogger(TASK_LOGGER)

_MAX_ID, _MAX_NAME = 128, 256
_UNSAFE = re.compile(r"[^!-~]")


class TaskRecord(RequestRecord):
    """A piece of work: `with TaskRecord(request_id, task_id, parent_id):`, once.

    `request_id`: of the request that set it off; `task_id`: its own; `parent_id`: of the task that set it off, "-" if
    none did. What comes from outside goes through `extract`.
    """

    __slots__ = ("_before", "_watches", "headers", "name", "parent_id", "state", "task_id")
    _before: tuple[Token[Any], Token[Any]]

    def __init__(
        self, request_id: str, task_id: str, parent_id: str = NO_REQUEST_ID, headers: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(request_id, {"type": "task"})
        self.headers = headers or {}
        self.name = self.state = ""
        self._watches = ExitStack()
        self.task_id = task_id
        self.parent_id = parent_id

    def __enter__(self) -> Self:
        self._before = current_record.set(self), starlette_context_storage.set(self.context)
        return self

    def begin(self, name: str) -> Self:
        """Enter it for the work itself, of which those who watch are told; else it is only for lines about it."""
        self.name = name[:_MAX_NAME]
        self.__enter__()
        try:
            for watch in task_watchers.values():
                self._watches.enter_context(watch(self))
        except BaseException:
            self.__exit__()  # or the next task here would have this one's IDs
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._watches.close()
        current_record.reset(self._before[0])
        starlette_context_storage.reset(self._before[1])

    def tell(self, name: str, state: str, level: int = logging.INFO) -> None:
        """Write the last line of this work: what it was, how it ended, after how many seconds."""
        self.end()
        name, self.state = name[:_MAX_NAME], state
        fields = {"task": name, "state": state, "duration": round(self.duration, 6)}
        log.log(level, "%s %s %.3fs", name, state, self.duration, extra=fields)


task_watchers: Final[dict[str, Callable[[TaskRecord], AbstractContextManager[None]]]] = {}
"""What integrations put around each piece of work: it sees the `headers`, and, when it ends, the `state`."""


def inject(carrier: MutableMapping[Any, Any], task_id: str = "") -> None:
    """Write the current IDs into what travels with a message; those that stand there already stay.

    `task_id`: of what is sent, where it is known: what sends itself again (a retry) is not its own parent.
    """
    record = current_record.get()
    known = {str(key).lower() for key in carrier}
    if REQUEST_ID_KEY not in known:
        carrier[REQUEST_ID_KEY] = record.request_id if record else new_request_id()
    parent = NO_REQUEST_ID if record is None else record.parent_id if record.task_id == task_id else record.task_id
    if PARENT_ID_KEY not in known and parent != NO_REQUEST_ID:
        carrier[PARENT_ID_KEY] = parent
    for one in injectors.values():
        one(carrier)


def extract(carrier: Mapping[Any, Any], task_id: str, fallback: object = None) -> TaskRecord:
    """Return the record of the work on a message; a doubtful ID in it is replaced, as at the door.

    Without one, `fallback` is taken (the ID by which a foreign sender follows it), then that of the work that runs here
    already (a task that is called instead of sent), then a new one.
    """
    headers = {str(key).lower(): value for key, value in carrier.items()}
    given = _acceptable(headers.get(REQUEST_ID_KEY)) or _acceptable(fallback)
    parent, outer = headers.get(PARENT_ID_KEY), current_record.get()
    if outer and not given:
        given, parent = outer.request_id, outer.parent_id if outer.task_id == task_id else outer.task_id
    return TaskRecord(given or new_request_id(), _printable(task_id), _printable(parent or NO_REQUEST_ID), headers)


def _acceptable(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text if is_acceptable(text.encode("utf-8", "replace")) else ""


def _printable(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return _UNSAFE.sub("_", text[:_MAX_ID])
