"""Work outside of a request, followed like one: a task, a job, a message, each with its own ID and its parent's.

Who sends a message calls `inject(headers)`; who works on it does so `with extract(headers, task_id)`: every accessor,
log line and outgoing call has the ID of the request that set it off.
"""

import logging
import re
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any, Self

from app.common.constants import NO_REQUEST_ID, PARENT_ID_KEY, REQUEST_ID_KEY, TASK_LOGGER
from app.common.context.observers import injectors, task_observers
from app.common.context.request_record import Bound, RequestRecord, bind, current_record, unbind
from app.common.request_id import id_policy

log = logging.getLogger(TASK_LOGGER)

_MAX_ID, _MAX_NAME = 128, 256
_UNSAFE = re.compile(r"[^!-~]")


class TaskRecord(RequestRecord):
    """A piece of work: `with TaskRecord(request_id, task_id, parent_id):`, once.

    `request_id`: of the request that set it off; `task_id`: its own; `parent_id`: of the task that set it off, "-" if
    none did. What comes from outside goes through `extract`.
    """

    __slots__ = ("_bound", "_watches", "headers", "name", "parent_id", "state", "task_id")
    _bound: Bound

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
        self._bound = bind(self)
        return self

    def begin(self, name: str) -> Self:
        """Enter it for the work itself, of which those who watch are told; else it is only for lines about it."""
        self.name = name[:_MAX_NAME]
        self.__enter__()
        try:
            for watch in task_observers.values():
                self._watches.enter_context(watch(self))
        except BaseException:
            self.__exit__()  # or the next task here would have this one's IDs
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._watches.close()
        unbind(self._bound)

    def finish(self, name: str, state: str, level: int = logging.INFO, *, failed: bool = False) -> None:
        """Write the last line of this work: what it was, how it ended, after how many seconds.

        `failed`: whether it ended in a failure, for those who watch; `state` is a word for people.
        """
        self.end()
        name, self.state, self.failed = name[:_MAX_NAME], state, failed
        fields = {"task": name, "state": state, "duration": round(self.duration, 6)}
        log.log(level, "%s %s %.3fs", name, state, self.duration, extra=fields)


def inject(carrier: MutableMapping[Any, Any], task_id: str = "") -> None:
    """Write the current IDs into what travels with a message; those that stand there already stay.

    `task_id`: of what is sent, where it is known: what sends itself again (a retry) is not its own parent.
    """
    record = current_record.get()
    known = {str(key).lower() for key in carrier}
    if REQUEST_ID_KEY not in known:
        carrier[REQUEST_ID_KEY] = record.request_id if record else id_policy.new()
    parent = NO_REQUEST_ID if record is None else record.parent_id if record.task_id == task_id else record.task_id
    if PARENT_ID_KEY not in known and parent != NO_REQUEST_ID:
        carrier[PARENT_ID_KEY] = parent
    for one in injectors.values():
        one(carrier)


def extract(carrier: Mapping[Any, Any], task_id: str, fallback: object = None) -> TaskRecord:
    """Return the record of the work on a message; a doubtful ID in it is replaced, as that of a request.

    Without one, `fallback` is taken (the ID by which a foreign sender follows it), else a new one, and written back, so
    that a message has one ID. What is called instead of sent has the ID of the work that runs here already.
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
    """Return an ID as records have it: in printable ASCII, cut to 128 characters."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return _UNSAFE.sub("_", text[:_MAX_ID])
