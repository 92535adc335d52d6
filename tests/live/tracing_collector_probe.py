"""A trace collector for the live tests: receives spans (OTLP over HTTP) and writes each as a JSON line to stdout.

The Python of a baked project runs it, as it has the protocol's package: `python tracing_collector_probe.py PORT`.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


def values(attributes: Any) -> dict[str, Any]:  # noqa: ANN401 - generated types
    """Return the attributes as a dict."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def span_to_dict(span: Any, resource: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return the span's fields that the tests check."""
    return {
        "name": span.name,
        "kind": KINDS[span.kind],
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex(),
        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        "is_error": span.status.code == 2,
        "attributes": values(span.attributes),
        "events": [{"name": event.name, **values(event.attributes)} for event in span.events],
        "resource": resource,
    }


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {"key": self.headers.get("x-key", ""), "path": self.path, **values(group.resource.attributes)}
            for scope in group.scope_spans:
                for span in scope.spans:
                    sys.stdout.write(json.dumps(span_to_dict(span, resource)) + "\n")
        sys.stdout.flush()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    sys.stderr.write("listening\n")
    server.serve_forever()
