"""Metrics for Prometheus at /metrics: requests, their durations and sizes, log records; of all workers together."""

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
values.Lock = RLock  # type: ignore[assignment, attr-defined] # a destructor that logs in the midst of a count would wait for ever
requests = Counter("http_requests", "Requests that are over.", LABELS)
durations = Histogram("http_request_duration_seconds", "From arrival to the last byte.", LABELS, buckets=SECONDS)
sizes = Histogram("http_response_size_bytes", "Bytes of the body.", LABELS, buckets=(100, 1e3, 1e4, 1e5, 1e6, 1e7))
in_flight = Gauge("http_requests_in_flight", "Requests under way.", ("type",), multiprocess_mode="livesum")
messages = Counter("log_messages", "Log records, access lines excepted.", ("level",))
under_way = {kind: in_flight.labels(kind).track_inprogress() for kind in ("http", "websocket")}
levels = [messages.labels(level) for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")]
bounds = [*map(str, SECONDS), "+Inf"]
series: dict[tuple[str, ...], tuple[Counter, Histogram, Histogram]] = {}
newest: dict[tuple[str, ...], Exemplar] = {}
measured: dict[str, Histogram] = {}
make_record, is_new = logging.getLogRecordFactory(), RepetitionFilter().filter


def install(app: FastAPI, _settings: object) -> None:
    """Add /metrics, which is neither counted nor in the access log, and begin to count."""
    policy.excluded |= {PATH}
    request_observers["metrics"], metric_observers["metrics"] = count_request, count_measure

    @app.get(PATH, include_in_schema=False)
    def metrics(request: Request) -> Response:
        if "x-forwarded-for" in request.headers:
            raise HTTPException(404)  # through a proxy comes who is not Prometheus
        form: Any = exposition
        kind = exposition.CONTENT_TYPE_PLAIN_0_0_4
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            form, kind = openmetrics, openmetrics.CONTENT_TYPE_LATEST
        # A new connection each time, or a single worker would tell, and only it its exemplars.
        return Response(form.generate_latest(Everything()), headers={"connection": "close"}, media_type=kind)


def wrap(app: ASGIApp, _settings: object) -> ASGIApp:
    """Return the application with its requests in flight counted, scrapes excepted."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"] if scope.get("path") != PATH and COUNTED not in scope else "uncounted"
        scope[COUNTED] = True  # also for an application like this one that is mounted
        with under_way.get(kind, nullcontext()):
            await app(scope, receive, send)

    return counted


def count_request(record: RequestRecord) -> None:
    """Count a request that is over; of a websocket (101) neither the time it was open nor what it has sent."""
    route, method, seconds = route_of(record.scope) or "_UNMATCHED", method_of(record), record.duration
    if route == PATH and record.status < 400:  # noqa: PLR2004
        return
    labels = (method if method in METHODS else "_OTHER", route, str(record.status))
    if labels not in series:  # resolved once, as that takes longer than to count
        series[labels] = requests.labels(*labels), durations.labels(*labels), sizes.labels(*labels)
    count, duration, size = series[labels]
    count.inc()
    if record.status != 101:  # noqa: PLR2004
        duration.observe(seconds)
        size.observe(record.bytes_sent)
        if len(record.request_id) <= 128 - len("request_id"):  # OpenMetrics 1.0, "Exemplars"
            example = Exemplar({"request_id": record.request_id}, seconds, record.ended_at)
            newest[*labels, bounds[bisect_left(SECONDS, seconds)]] = example


def count_measure(name: str, seconds: float, labels: Mapping[str, str]) -> None:
    """Count what an integration has measured, in a histogram that is made when it is first needed."""
    if name not in measured:
        measured[name] = Histogram(f"{name}_seconds", "Measured by an integration.", [*labels], buckets=SECONDS)
    measured[name].labels(**labels).observe(seconds)


def make_and_count(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - what logging gives it
    """Return a log record, counted where it is made: once, whatever handlers there are, and no access line."""
    record = make_record(*args, **kwargs)
    if record.levelno and is_new(record):  # without a level: the copy of one, by `logging.makeLogRecord`
        levels[min(max(record.levelno // 10, 1), 5) - 1].inc()
    return record


logging.setLogRecordFactory(make_and_count)


class Everything(Collector):
    """What all workers of gunicorn have counted, else this process; with exemplars, which are of this process alone."""

    def collect(self) -> Iterator[Metric]:
        """Give each metric with its samples."""
        is_one_of_many = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        for metric in (MultiProcessCollector(None) if is_one_of_many else REGISTRY).collect():
            if metric.name == "http_request_duration_seconds":
                metric.samples = [one._replace(exemplar=newest.get((*one.labels.values(),))) for one in metric.samples]
            yield metric
