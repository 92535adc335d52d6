"""Export of spans to the collector in OTEL_EXPORTER_OTLP_ENDPOINT; without one, no span is recorded."""

import logging
import os
from collections.abc import Sequence
from multiprocessing.util import Finalize
from threading import Thread
from typing import Final, Literal

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from pydantic import Field

from app.environment import EnvironmentSettings, project_metadata, read_settings, server_url, variable_of
from app.settings import get_settings

PAIRS: Final = r"^[^=,]+=[^=,]*(,[^=,]+=[^,]*)*$"
SAMPLER_NAMES: Final = r"^(parentbased_)?(always_on|always_off|traceidratio)$"
SAMPLER: Final = "always_on, always_off or traceidratio; with prefix parentbased_: only for traces that start here"
ENDPOINT: Final = "URL of the collector, such as http://127.0.0.1:4318; empty: nothing is recorded or sent"
HEADERS: Final = "headers for the collector, such as an API key: name=value,name=value"
log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings, env_prefix="OTEL_"):
    """OpenTelemetry's variables that are checked at startup; others, such as OTEL_BSP_SCHEDULE_DELAY, also apply."""

    exporter_otlp_endpoint: str | None = Field(None, pattern=server_url("https?"), repr=False, description=ENDPOINT)
    exporter_otlp_headers: str | None = Field(None, pattern=PAIRS, repr=False, description=HEADERS)
    exporter_otlp_protocol: Literal["http/protobuf"] = Field("http/protobuf", description="the only supported one")
    service_name: str | None = Field(None, description="service name in traces; empty: the project's name")
    resource_attributes: str | None = Field(None, pattern=PAIRS, description="resource attributes: key=value,key=value")
    traces_sampler: str = Field("parentbased_always_on", pattern=SAMPLER_NAMES, description=SAMPLER)
    traces_sampler_arg: float = Field(1, ge=0, le=1, description="share of traces for traceidratio, from 0 to 1")
    sdk_disabled: bool = Field(False, description="true: nothing is recorded or sent")


class Exporter(OTLPSpanExporter):
    """Logs the first failed export, with the library's message, and the first success after it."""

    is_failing = False

    def is_first_failure(self, _: logging.LogRecord) -> bool:
        """Filter the library's log records: admit one, and the next only after an export has succeeded."""
        was_failing, self.is_failing = self.is_failing, True
        return not was_failing

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; those that the collector does not accept before the timeout are lost."""
        result = super().export(spans)
        if self.is_failing and result is SpanExportResult.SUCCESS:
            self.is_failing = False
            log.warning("The trace collector accepts spans again")
        return result


class Processor(BatchSpanProcessor):
    """Sends spans from a background thread, which does not delay the exit of the process."""

    def shutdown(self) -> None:
        """Send the remaining spans; return within `stop_seconds()`, even if the collector hangs."""
        self._batch_processor.shutdown(round(1000 * stop_seconds()))


def stop_seconds() -> float:
    """Return the timeout in seconds of each of the last two exports: at the end of the lifespan, and of the process."""
    return min(2, get_settings().graceful_timeout / 16)


def start_export() -> None:
    """Record and send the spans of this process if there is a collector; an existing tracer provider stays."""
    otel = read_settings(SETTINGS)
    if not otel.exporter_otlp_endpoint or otel.sdk_disabled or isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    variables = otel.model_dump(include=otel.model_fields_set, exclude_none=True)
    os.environ.update({variable_of(SETTINGS, name): str(value) for name, value in variables.items()})  # from `.env`
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: project_metadata().get("name", "service")}))
    provider, exporter = TracerProvider(resource=resource, shutdown_on_exit=False), Exporter()
    provider.add_span_processor(Processor(exporter))
    trace.set_tracer_provider(provider)
    Finalize(None, provider.shutdown, exitpriority=0)
    for name in ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal"):
        logging.getLogger(f"opentelemetry.{name}").addFilter(exporter.is_first_failure)


def flush() -> None:
    """Send the spans recorded so far; return within `stop_seconds()`, even if the collector hangs."""
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        thread = Thread(target=provider.force_flush, daemon=True)
        thread.start()
        thread.join(stop_seconds())
