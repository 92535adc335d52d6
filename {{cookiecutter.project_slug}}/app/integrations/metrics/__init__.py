"""Prometheus metrics at /metrics for all workers together: requests, durations, response sizes, log records."""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from threading import RLock
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric, disable_created_metrics, exposition, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from starlette.types import ASGIApp, Receive, Scope, Send

from app.common.context.observers import metric_observers, request_observers
from app.common.context.request_record import RequestRecord
from app.common.http.routes import route_of
from app.common.logs.access_fields import method_of, policy
from app.common.logs.filters import RepetitionFilter

PATH = "/metrics"
COUNTED = "app.metrics.counted"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"))
LABELS = ("method", "route", "status")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

disable_created_metrics()
values.Lock = RLock  # type: ignore[assignment, attr-defined] # reentrant: a destructor that logs during a count would deadlock
requests = Counter("http_requests", "Completed requests.", LABELS)
durations = Histogram("http_request_duration_seconds", "From arrival to the last byte.", LABELS, buckets=SECONDS)
sizes = Histogram("http_response_size_bytes", "Body size in bytes.", LABELS, buckets=(100, 1e3, 1e4, 1e5, 1e6, 1e7))
in_flight = Gauge("http_requests_in_flight", "Requests in progress.", ("type",), multiprocess_mode="livesum")
messages = Counter("log_messages", "Log records, without access log lines.", ("level",))
in_progress = {kind: in_flight.labels(kind).track_inprogress() for kind in ("http", "websocket")}
levels = [messages.labels(level) for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")]
bounds = [*map(str, SECONDS), "+Inf"]
series: dict[tuple[str, ...], tuple[Counter, Histogram, Histogram]] = {}
exemplars: dict[tuple[str, ...], Exemplar] = {}
histograms: dict[str, Histogram] = {}
make_record, is_not_duplicate = logging.getLogRecordFactory(), RepetitionFilter().filter


def install(app: FastAPI, _settings: object) -> None:
    """Add /metrics, whose successful requests are neither counted nor logged, and observe requests and measurements."""
    policy.excluded |= {PATH}
    request_observers["metrics"], metric_observers["metrics"] = count_request, observe_duration

    @app.get(PATH, include_in_schema=False)
    def metrics(request: Request) -> Response:
        if "x-forwarded-for" in request.headers:
            raise HTTPException(404)  # it came through a proxy; Prometheus scrapes directly
        encoder: Any = exposition
        mime = exposition.CONTENT_TYPE_PLAIN_0_0_4
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            encoder, mime = openmetrics, openmetrics.CONTENT_TYPE_LATEST
        # A kept-alive connection would show the exemplars of one worker only.
        return Response(encoder.generate_latest(WorkersCollector()), headers={"connection": "close"}, media_type=mime)


def wrap(app: ASGIApp, _settings: object) -> ASGIApp:
    """Return the application with its requests in flight counted, except scrapes."""

    async def count_in_flight(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"] if scope.get("path") != PATH and COUNTED not in scope else "uncounted"
        scope[COUNTED] = True  # a mounted application of this service must not count it again
        with in_progress.get(kind, nullcontext()):
            await app(scope, receive, send)

    return count_in_flight


def count_request(record: RequestRecord) -> None:
    """Count a completed request; a websocket (101) adds no duration and no size."""
    route, method, seconds = route_of(record.scope) or "_UNMATCHED", method_of(record), record.duration
    if route == PATH and record.status < 400:  # noqa: PLR2004
        return
    labels = (method if method in METHODS else "_OTHER", route, str(record.status))
    if labels not in series:  # cached, since `labels` is slower than counting
        series[labels] = requests.labels(*labels), durations.labels(*labels), sizes.labels(*labels)
    count, duration, size = series[labels]
    count.inc()
    if record.status != 101:  # noqa: PLR2004
        duration.observe(seconds)
        size.observe(record.bytes_sent)
        if len(record.request_id) <= 128 - len("request_id"):  # OpenMetrics 1.0, "Exemplars"
            exemplar = Exemplar({"request_id": record.request_id}, seconds, record.ended_at)
            exemplars[*labels, bounds[bisect_left(SECONDS, seconds)]] = exemplar


def observe_duration(name: str, seconds: float, labels: Mapping[str, str]) -> None:
    """Add a duration measured by an integration to the histogram `<name>_seconds`, created on first use."""
    if name not in histograms:
        histograms[name] = Histogram(f"{name}_seconds", "Measured by an integration.", [*labels], buckets=SECONDS)
    histograms[name].labels(**labels).observe(seconds)


def make_and_count(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - as in logging
    """Return a new log record and count it: once for all handlers, and no access log line."""
    record = make_record(*args, **kwargs)
    if record.levelno and is_not_duplicate(record):  # `logging.makeLogRecord` makes copies, without a level
        levels[min(max(record.levelno // 10, 1), 5) - 1].inc()
    return record


logging.setLogRecordFactory(make_and_count)


class WorkersCollector(Collector):
    """Collects the metrics of all gunicorn workers, or else of this process; exemplars are those of this process."""

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its samples."""
        has_workers = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        for metric in (MultiProcessCollector(None) if has_workers else REGISTRY).collect():
            if metric.name == "http_request_duration_seconds":
                metric.samples = [s._replace(exemplar=exemplars.get((*s.labels.values(),))) for s in metric.samples]
            yield metric
