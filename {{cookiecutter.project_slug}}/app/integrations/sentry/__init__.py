"""Errors in Sentry, transactions and lines if wanted: docs/sentry.md says what of them is sent, and what is not."""

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
from app.common.logs.formatters import NOT_FOR_READERS, jsonable
from app.common.redaction import redact
from app.environment import EnvironmentSettings, project_metadata, read_settings
from app.settings import Settings

DSN: Final = r"^https?://[^\s:/?#@]+@[\w.:\[\]-]+/([\w./-]*/)?[0-9]+$"
IDS = {"request_id": "request_id", "transaction_id": "request_id", "current_id": "task_id", "parent_id": "parent_id"}
NOT_SENT: Final = (*NOT_FOR_READERS, "_meta", "asctime", "sentry.message.")


class SETTINGS(EnvironmentSettings, env_prefix="SENTRY_"):
    """Where events go, and how many."""

    dsn: str | None = Field(None, pattern=DSN, repr=False, description="https://key@host/1; empty: nothing is sent")
    environment: str = Field("production", pattern=r"^[^\s/]{1,64}$", description="name of the environment")
    release: str | None = Field(None, pattern=r"^[^\s/\\]{1,200}$", description="empty: name@version of the project")
    error_sample_rate: float = Field(1, ge=0, le=1, description="share of the errors that is sent")
    traces_sample_rate: float = Field(0, ge=0, le=1, description="share of requests and tasks sent as transactions")
    logs: bool = Field(False, description="whether lines are sent as well, from INFO up")


def observe(*_: object) -> None:
    """Send from now on what happens in this process; without SENTRY_DSN, change nothing."""
    own, project = read_settings(SETTINGS), project_metadata()
    if not own.dsn:
        return
    sentry_logging.ignore_logger(ACCESS_LOGGER)
    # It would tell of each try to reach a Sentry that is away, three times for each event.
    logging.getLogger("urllib3.connectionpool").addFilter(lambda line: line.threadName != "sentry-sdk.BackgroundWorker")
    sentry_sdk.init(
        own.dsn,
        environment=own.environment,
        release=own.release or f"{project.get('name', 'service')}@{project.get('version', '0')}",
        sample_rate=own.error_sample_rate,
        traces_sample_rate=own.traces_sample_rate or None,
        enable_logs=own.logs,
        default_integrations=False,  # they patch what is installed, and send headers, bodies, the process' arguments
        integrations=[sentry_logging.LoggingIntegration(sentry_logs_level=logging.INFO if own.logs else None)],
        server_name="",
        include_local_variables=False,
        before_send=finish_event,
        before_send_transaction=finish_event,
        before_send_log=lambda line, _: clean(line) | {"attributes": clean(line["attributes"]) | ids()},
    )
    injectors["sentry"], task_observers["sentry"] = inject_trace, followed
    Finalize(None, sentry_sdk.flush, (1.0,), exitpriority=0)


install = observe


def wrap(app: types.ASGIApp, settings: Settings) -> types.ASGIApp:
    """Follow each request, in its sender's trace if IDs are taken over from everybody."""
    wanted = (b"sentry-trace", b"baggage") if settings.request_id_trust == "always" else ()

    async def watched(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        if (record := current_record.get()) is None or scope["type"] == "lifespan":
            await app(scope, receive, send)
            sentry_sdk.flush(1.0)  # a process that a signal ends has no other end
            return
        trace = {name.decode(): text.decode("latin-1") for name, text in scope["headers"] if name in wanted}
        with followed(record, trace):
            await app(scope, receive, send)

    return watched if sentry_sdk.get_client().is_active() else app


@contextmanager
def followed(record: RequestRecord, trace: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Keep apart what belongs to a request or a task; after an error as well, since the line that tells it follows."""
    before, kind = Scope.get_isolation_scope(), record.scope["type"]
    Scope.set_isolation_scope(Scope(ScopeType.ISOLATION))
    trace = {name: str(value) for name, value in (trace or getattr(record, "headers", {})).items()}
    begun: Any = NoOpSpan()
    with suppress(ArithmeticError, ValueError):  # a hostile trace, such as one with the sample rate `inf`
        Scope.get_isolation_scope().generate_propagation_context(trace)
        if sentry_sdk.get_client().options["traces_sample_rate"] and not policy.excludes(record.scope):
            op = "queue.task" if kind == "task" else f"{kind}.server"
            begun = sentry_sdk.start_transaction(sentry_sdk.continue_trace(trace, op=op, name=kind))
    try:
        with sentry_sdk.new_scope(), begun as transaction:
            yield
            if kind == "task":
                transaction.set_status("internal_error" if record.failed else "ok")
            else:
                transaction.set_http_status(record.status)
    finally:
        if record.outer is not None or kind == "task":  # somebody goes on here
            Scope.set_isolation_scope(before)


def inject_trace(carrier: Any) -> None:  # noqa: ANN401
    """Write the trace of a request or a task into what goes to others, but keep what stands there."""
    if current_record.get() is not None:  # else it is the process' own, which all would share
        for name, value in sentry_sdk.get_current_scope().iter_trace_propagation_headers():
            carrier.setdefault(name, value)


def finish_event(event: Any, hint: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Say whose event it is, and take secrets out; drop what another one tells, as when it is raised once more."""
    line, record, (_, error, _) = hint.get("log_record"), current_record.get(), hint.get("exc_info", (None,) * 3)
    is_told = error and vars(error).setdefault("sentry_event", event["event_id"]) != event["event_id"]
    if is_told or (line and not RepetitionFilter().filter(line)):
        return None
    if line:
        event["logentry"].pop("params", None)  # a task's arguments among them
        for value in event.get("exception", {}).get("values", [])[-1:]:
            value["mechanism"]["handled"] = line.name != ERROR_LOGGER
    event = clean(event)
    if record:
        endpoint: Any = record.scope.get("endpoint")
        place = getattr(record, "name", "") or qualname_from_function(endpoint) or "no route"
        event |= {"tags": (event.get("tags") or {}) | ids(), "transaction": place}
        if event.get("type") == "transaction":
            event |= {"start_timestamp": record.started_at, "timestamp": record.started_at + record.elapsed()}
        if record.scope["type"] != "task":
            event["request"] = {"method": method_of(record), "url": path_of(record), "query_string": query_of(record)}
    return event


def clean(value: Any) -> Any:  # noqa: ANN401
    """Return it without secrets, and without what repeats a message or its parts."""
    return redact.value(jsonable(value), without=NOT_SENT)


def ids() -> dict[str, str]:
    """Return the tags of what runs, if anything does; asgi-correlation-id calls the request's ID `transaction_id`."""
    record = current_record.get()
    return {tag: value for tag, name in IDS.items() if (value := getattr(record, name, NO_REQUEST_ID)) != NO_REQUEST_ID}
