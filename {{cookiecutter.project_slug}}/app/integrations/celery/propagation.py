"""Propagate the IDs to tasks: into sent messages, and into the log lines of tasks and of the worker's main process."""

import logging
from collections.abc import Callable
from multiprocessing.util import _run_finalizers  # type: ignore[attr-defined]
from typing import Any, Final

from celery import Task, current_task, signals, states
from celery.app.trace import LOG_SUCCESS
from celery.exceptions import MaxRetriesExceededError
from celery.worker.consumer import consumer as templates
from celery.worker.request import Request

from app.common.request_id import new_request_id
from app.common.task_record import extract, inject
from app.integrations.processes import observe_work, set_up_logging

MAX_NAME: Final = 256
WITH_BODY: Final = (templates.INVALID_TASK_ERROR, templates.MESSAGE_DECODE_ERROR, templates.UNKNOWN_FORMAT)

log = logging.getLogger(__name__)
# A prefork pool signals the start and the end of each process; at the end, billiard runs only its own finalizers, not
# those of multiprocessing. Pools of threads or greenlets (not `signal_safe`) run tasks in the main process.
signals.worker_process_init.connect(lambda **_: observe_work(), weak=False)
signals.worker_process_shutdown.connect(lambda **_: _run_finalizers(), weak=False)
signals.worker_ready.connect(lambda sender, **_: None if sender.pool.signal_safe else observe_work(), weak=False)


@signals.before_task_publish.connect(weak=False)
def _inject_ids(headers: dict[str, Any], **_: object) -> None:
    is_retry = bool(current_task) and current_task.request.id == headers.get("id")
    inject(headers, current_task.request.record.task_id if is_retry else "")


@signals.task_prerun.connect(weak=False)
def _begin_task(task: Task, task_id: str, **_: object) -> None:
    run_id = task_id if task.app.conf.use_task_id else new_request_id()
    task.request.record = extract({**(task.request.headers or {})}, run_id).begin(task.name)


@signals.task_postrun.connect(weak=False)
def _finish_task(task: Task, state: str | None = None, **_: object) -> None:
    task.request.record.finish(task.name, (state or "ended").lower(), failed=state == states.FAILURE)
    task.request.record.__exit__()


def _with_ids(method: Callable[..., Any]) -> Callable[..., Any]:
    def method_with_ids(self: Request, *args: object, **options: object) -> object:
        with extract(self.request_dict, self.id):
            return method(self, *args, **options)

    return method_with_ids


class PropagatingRequest(Request):
    """A task in the worker's main process, which logs with its IDs when it is lost, times out or is revoked."""

    on_failure, on_timeout = _with_ids(Request.on_failure), _with_ids(Request.on_timeout)
    revoked, terminate = _with_ids(Request.revoked), _with_ids(Request.terminate)


class MaxRetriesError(MaxRetriesExceededError):
    """Celery's MaxRetriesExceededError without the arguments of the task, which may be secrets, in its message."""

    def __init__(self, message: str = "", *args: object, **options: object) -> None:
        super().__init__(message.partition(" args:")[0], *args, **options)


@signals.task_received.connect(weak=False)
def _log_received(request: Request, **_: object) -> None:
    with extract(request.request_dict, request.id):
        log.info("%s received", request.name)


@signals.task_unknown.connect(weak=False)
def _log_unknown_task(message: Any, name: str, id: str, **_: object) -> None:  # noqa: A002, ANN401 - Celery's names
    with extract(message.headers, id):
        log.error("%s is not registered in this worker, message rejected: deploy the code of the task", name[:MAX_NAME])


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: object) -> None:
    set_up_logging()
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)  # it logs "received" without IDs
    logging.getLogger("celery.app.trace").addFilter(_redact_arguments)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_redact_body)


def _redact_arguments(record: logging.LogRecord) -> bool:
    """Remove arguments and results, which may be secrets; drop the success record: `_finish_task` logs one."""
    vars(record).pop("data", None)
    return bool(record.msg != LOG_SUCCESS)


def _redact_body(record: logging.LogRecord) -> bool:
    """Remove the body of a message that is not a valid task; drop Celery's record of an unknown task."""
    if str(record.msg).startswith(WITH_BODY):
        record.msg, record.args, record.exc_info = "Discarded a message that is not a valid Celery task", (), None
    return bool(record.msg != templates.UNKNOWN_TASK_ERROR)
