"""Errors in Sentry, optionally transactions and log records; docs/sentry.md lists what is sent and what is not."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any, Final

import sentry_sdk
from pydantic import Field
from sentry_sdk.integrations import logging as sentry_logging
from sentry_sdk.scope import Scope, ScopeType
from sentry_sdk.tracing import NoOpSpan
from sentry_sdk.utils import qualname_from_function
from starlette import types

from app.common.constants import ACCESS_LOGGER, ERROR_LOGGER, NO_REQUEST_ID
from app.common.context.observers import injectors, task_observers
from app.common.context.request_record import RequestRecord, current_record
from app.common.logs.access_fields import method_of, path_of, policy, query_of
from app.common.logs.filters import RepetitionFilter
from app.common.logs.formatters import INTERNAL_ATTRIBUTES, jsonable
from app.common.redaction import redact
from app.environment import EnvironmentSettings, project_metadata, read_settings
from app.settings import Settings

DSN: Final = r"^https?://[^\s:/?#@]+@[\w.:\[\]-]+/([\w./-]*/)?[0-9]+$"
IDS = {"request_id": "request_id", "transaction_id": "request_id", "current_id": "task_id", "parent_id": "parent_id"}
NOT_SENT: Final = (*INTERNAL_ATTRIBUTES, "_meta", "asctime", "sentry.message.")


class SETTINGS(EnvironmentSettings, env_prefix="SENTRY_"):
    """Project, names and sample rates of events."""

    dsn: str | None = Field(None, pattern=DSN, repr=False, description="https://key@host/1; empty: nothing is sent")
    environment: str = Field("production", pattern=r"^[^\s/]{1,64}$", description="name of the environment")
    release: str | None = Field(None, pattern=r"^[^\s/\\]{1,200}$", description="release name; empty: name@version")
    error_sample_rate: float = Field(1, ge=0, le=1, description="share of errors that are sent, from 0 to 1")
    traces_sample_rate: float = Field(0, ge=0, le=1, description="share of requests and tasks sent as transactions")
    logs: bool = Field(False, description="also send log records, from INFO up")


def observe(*_: object) -> None:
    """Start sending what happens in this process; without SENTRY_DSN, change nothing."""
    settings, project = read_settings(SETTINGS), project_metadata()
    if not settings.dsn:
        return
    sentry_logging.ignore_logger(ACCESS_LOGGER)
    # urllib3 would log every attempt to reach Sentry while it is unavailable, three for each event.
    logging.getLogger("urllib3.connectionpool").addFilter(lambda log: log.threadName != "sentry-sdk.BackgroundWorker")
    sentry_sdk.init(
        settings.dsn,
        environment=settings.environment,
        release=settings.release or f"{project.get('name', 'service')}@{project.get('version', '0')}",
        sample_rate=settings.error_sample_rate,
        traces_sample_rate=settings.traces_sample_rate or None,
        enable_logs=settings.logs,
        default_integrations=False,  # they patch libraries, and send headers, bodies, the command line
        integrations=[sentry_logging.LoggingIntegration(sentry_logs_level=logging.INFO if settings.logs else None)],
        server_name="",
        include_local_variables=False,
        before_send=finish_event,
        before_send_transaction=finish_event,
        before_send_log=lambda log, _: clean(log) | {"attributes": clean(log["attributes"]) | id_tags()},
    )
    injectors["sentry"], task_observers["sentry"] = inject_trace, work_scope
    Finalize(None, sentry_sdk.flush, (1.0,), exitpriority=0)


install = observe


def wrap(app: types.ASGIApp, settings: Settings) -> types.ASGIApp:
    """Return the application with a scope per request; with REQUEST_ID_TRUST=always it continues the caller's trace."""
    trace_headers = (b"sentry-trace", b"baggage") if settings.request_id_trust == "always" else ()

    async def run_in_scope(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        if (record := current_record.get()) is None or scope["type"] == "lifespan":
            await app(scope, receive, send)
            sentry_sdk.flush(1.0)  # a process that a signal ends runs no exit handlers
            return
        trace = {name.decode(): text.decode("latin-1") for name, text in scope["headers"] if name in trace_headers}
        with work_scope(record, trace):
            await app(scope, receive, send)

    return run_in_scope if sentry_sdk.get_client().is_active() else app


@contextmanager
def work_scope(record: RequestRecord, trace: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Isolate a request or task; an outermost request keeps its scope, since its error is logged after it."""
    outer, kind = Scope.get_isolation_scope(), record.scope["type"]
    Scope.set_isolation_scope(Scope(ScopeType.ISOLATION))
    trace = {name: str(value) for name, value in (trace or getattr(record, "headers", {})).items()}
    started: Any = NoOpSpan()
    with suppress(ArithmeticError, ValueError):  # a hostile header, such as the sample rate `inf`
        Scope.get_isolation_scope().generate_propagation_context(trace)
        if sentry_sdk.get_client().options["traces_sample_rate"] and not policy.excludes(record.scope):
            op = "queue.task" if kind == "task" else f"{kind}.server"
            started = sentry_sdk.start_transaction(sentry_sdk.continue_trace(trace, op=op, name=kind))
    try:
        with sentry_sdk.new_scope(), started as transaction:
            yield
            if kind == "task":
                transaction.set_status("internal_error" if record.failed else "ok")
            else:
                transaction.set_http_status(record.status)
    finally:
        if record.outer is not None or kind == "task":  # the enclosing request or the worker continues in this context
            Scope.set_isolation_scope(outer)


def inject_trace(carrier: Any) -> None:  # noqa: ANN401
    """Write the trace of the current request or task into outgoing headers, keeping existing ones."""
    if current_record.get() is not None:  # outside, all messages would share the trace of the process
        for name, value in sentry_sdk.get_current_scope().iter_trace_propagation_headers():
            carrier.setdefault(name, value)


def finish_event(event: Any, hint: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Add the IDs to an event and redact secrets; drop the event of an error that was reported before."""
    log_record, record, (_, error, _) = hint.get("log_record"), current_record.get(), hint.get("exc_info", (None,) * 3)
    is_reported = error and vars(error).setdefault("sentry_event", event["event_id"]) != event["event_id"]
    if is_reported or (log_record and not RepetitionFilter().filter(log_record)):
        return None
    if log_record:
        event["logentry"].pop("params", None)  # they include the arguments of tasks
        for value in event.get("exception", {}).get("values", [])[-1:]:
            value["mechanism"]["handled"] = log_record.name != ERROR_LOGGER
    event = clean(event)
    if record:
        endpoint: Any = record.scope.get("endpoint")
        name = getattr(record, "name", "") or qualname_from_function(endpoint) or "no route"
        event |= {"tags": (event.get("tags") or {}) | id_tags(), "transaction": name}
        if event.get("type") == "transaction":
            event |= {"start_timestamp": record.started_at, "timestamp": record.started_at + record.elapsed()}
        if record.scope["type"] != "task":
            event["request"] = {"method": method_of(record), "url": path_of(record), "query_string": query_of(record)}
    return event


def clean(value: Any) -> Any:  # noqa: ANN401
    """Return a copy without secrets and without the attributes in NOT_SENT: internal ones, copies of the message."""
    return redact.value(jsonable(value), without=NOT_SENT)


def id_tags() -> dict[str, str]:
    """Return the IDs of the current request or task as tags; `transaction_id` as in asgi-correlation-id."""
    record = current_record.get()
    return {tag: value for tag, name in IDS.items() if (value := getattr(record, name, NO_REQUEST_ID)) != NO_REQUEST_ID}
