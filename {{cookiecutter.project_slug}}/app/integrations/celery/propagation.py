"""Carries the IDs: out when a task is sent, in when it runs, and into what the worker's first process says of it."""

import logging
from collections.abc import Callable
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]
from typing import Any, Final

from celery import Task, current_task, signals, states
from celery.app.trace import LOG_SUCCESS
from celery.exceptions import MaxRetriesExceededError
from celery.worker.consumer import consumer as words
from celery.worker.request import Request

from app.common.request_id import new_request_id
from app.common.task_record import extract, inject
from app.integrations.processes import observe_work, set_up_logging

MAX_NAME: Final = 256
WITH_BODY: Final = (words.INVALID_TASK_ERROR, words.MESSAGE_DECODE_ERROR, words.UNKNOWN_FORMAT)

log = logging.getLogger(__name__)
# Each process of a pool tells of its start and its end, where billiard runs only its own finalizers. Pools of threads
# have none but the first one; theirs are those that no signal's handler may stop.
signals.worker_process_init.connect(lambda **_: observe_work(), weak=False)
signals.worker_process_shutdown.connect(lambda **_: _run_finalizers(), weak=False)
signals.worker_ready.connect(lambda sender, **_: None if sender.pool.signal_safe else observe_work(), weak=False)


@signals.before_task_publish.connect(weak=False)
def _send(headers: dict[str, Any], **_: object) -> None:
    is_retry = bool(current_task) and current_task.request.id == headers.get("id")
    inject(headers, current_task.request.record.task_id if is_retry else "")


@signals.task_prerun.connect(weak=False)
def _begin(task: Task, task_id: str, **_: object) -> None:
    own_id = task_id if task.app.conf.use_task_id else new_request_id()
    task.request.record = extract({**(task.request.headers or {})}, own_id).begin(task.name)


@signals.task_postrun.connect(weak=False)
def _end(task: Task, state: str | None = None, **_: object) -> None:
    task.request.record.finish(task.name, (state or "ended").lower(), failed=state == states.FAILURE)
    task.request.record.__exit__()


def _with_ids(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(self: Request, *args: object, **options: object) -> object:
        with extract(self.request_dict, self.id):
            return method(self, *args, **options)

    return wrapped


class PropagatingRequest(Request):
    """A task as the worker's first process sees it, also one that is lost, out of time or revoked."""

    on_failure, on_timeout = _with_ids(Request.on_failure), _with_ids(Request.on_timeout)
    revoked, terminate = _with_ids(Request.revoked), _with_ids(Request.terminate)


class TriedTooOftenError(MaxRetriesExceededError):
    """Says which task it was, but not, as Celery does, with which arguments."""

    def __init__(self, sentence: str = "", *args: object, **options: object) -> None:
        super().__init__(sentence.partition(" args:")[0], *args, **options)


@signals.task_received.connect(weak=False)
def _received(request: Request, **_: object) -> None:
    with extract(request.request_dict, request.id):
        log.info("%s received", request.name)


@signals.task_unknown.connect(weak=False)
def _unknown(message: Any, name: str, id: str, **_: object) -> None:  # noqa: A002, ANN401 - Celery's names
    with extract(message.headers, id):
        log.error("%s is no task that this worker knows; it is refused", name[:MAX_NAME])


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: object) -> None:
    set_up_logging()
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)  # its "received" is ours, without the IDs
    logging.getLogger("celery.app.trace").addFilter(_without_arguments)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_body)


def _without_arguments(line: logging.LogRecord) -> bool:
    """Keep arguments and results out, which may be secrets; how a task ended our last line says."""
    vars(line).pop("data", None)
    return bool(line.msg != LOG_SUCCESS)


def _without_body(line: logging.LogRecord) -> bool:
    """Keep out what a message holds that is no task, and what `_unknown` says."""
    if str(line.msg).startswith(WITH_BODY):
        line.msg, line.args, line.exc_info = "A message that is no task, or a broken one, is refused", (), None
    return bool(line.msg != words.UNKNOWN_TASK_ERROR)
