"""Where spans go: to the collector that OpenTelemetry's own variables name; without one, nobody records any."""

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
SAMPLERS: Final = r"^(parentbased_)?(always_on|always_off|traceidratio)$"
WHICH: Final = "always_on, always_off or traceidratio; after parentbased_ only for traces that begin here"
PLACE: Final = "collector, such as http://127.0.0.1:4318; empty: nothing is recorded, and nothing sent"
KEYS: Final = "headers for the collector, such as a key: name=value,name=value"
log = logging.getLogger(__name__)


class SETTINGS(EnvironmentSettings, env_prefix="OTEL_"):
    """The standard's own variables; those that are not here, such as OTEL_BSP_SCHEDULE_DELAY, work as well."""

    exporter_otlp_endpoint: str | None = Field(None, pattern=server_url("https?"), repr=False, description=PLACE)
    exporter_otlp_headers: str | None = Field(None, pattern=PAIRS, repr=False, description=KEYS)
    exporter_otlp_protocol: Literal["http/protobuf"] = Field("http/protobuf", description="the only one that is spoken")
    service_name: str | None = Field(None, description="the service's name in traces; empty: the project's")
    resource_attributes: str | None = Field(None, pattern=PAIRS, description="of each span: name=value,name=value")
    traces_sampler: str = Field("parentbased_always_on", pattern=SAMPLERS, description=WHICH)
    traces_sampler_arg: float = Field(1, ge=0, le=1, description="share of traces that traceidratio records")
    sdk_disabled: bool = Field(False, description="true: nothing is recorded, whatever else is set")


class Exporter(OTLPSpanExporter):
    """Says once that the collector is away, in the library's words, and once that it is back."""

    is_away = False

    def is_news(self, _: logging.LogRecord) -> bool:
        """Let the first of the library's lines pass, and no other until the collector is back."""
        was_away, self.is_away = self.is_away, True
        return not was_away

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; those that the collector does not take in time are lost."""
        result = super().export(spans)
        if self.is_away and result is SpanExportResult.SUCCESS:
            self.is_away = False
            log.warning("The collector of traces takes spans again")
        return result


class Processor(BatchSpanProcessor):
    """Sends from a thread of its own, which does not keep the process from its end."""

    def shutdown(self) -> None:
        """Send what is left, and return in time even if the collector hangs."""
        self._batch_processor.shutdown(round(1000 * stop_seconds()))


def stop_seconds() -> float:
    """Return how long the collector may take when the process ends, for each of two tries."""
    return min(2, get_settings().graceful_timeout / 16)


def start() -> None:
    """Have spans of this process recorded and sent, if a collector is named; a provider that is there already stays."""
    own = read_settings(SETTINGS)
    if not own.exporter_otlp_endpoint or own.sdk_disabled or isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    given = own.model_dump(include=own.model_fields_set, exclude_none=True)
    os.environ.update({variable_of(SETTINGS, name): str(value) for name, value in given.items()})  # what `.env` says
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: project_metadata().get("name", "service")}))
    provider, exporter = TracerProvider(resource=resource, shutdown_on_exit=False), Exporter()
    provider.add_span_processor(Processor(exporter))
    trace.set_tracer_provider(provider)
    Finalize(None, provider.shutdown, exitpriority=0)
    for speaker in ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal"):
        logging.getLogger(f"opentelemetry.{speaker}").addFilter(exporter.is_news)


def flush() -> None:
    """Send what is there, and return in time even if the collector hangs."""
    if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
        sender = Thread(target=provider.force_flush, daemon=True)
        sender.start()
        sender.join(stop_seconds())
