"""Receivers for a service under test: a Sentry server, a trace collector, a scraper of metrics."""

import gzip
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Self

from scripts.snapshot import ROOT
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker

Span = dict[str, Any]


class Sentry:
    """An HTTP server that stores Sentry envelopes; a context manager."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self._delay = 0.0
        sentry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(sentry._delay)  # simulated network latency
                sentry.store(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://public-key@127.0.0.1:{self._server.server_port}/1"

    def store(self, envelope: bytes) -> None:
        """Parse an envelope: a header line, then for each item a header line and its content."""
        _, _, rest = envelope.partition(b"\n")
        while rest.strip():
            line, _, rest = rest.partition(b"\n")
            header = json.loads(line)
            content, rest = rest[: header["length"]], rest[header["length"] :].lstrip(b"\n")
            self.items.append((header["type"], json.loads(content)))

    def items_of(self, item_type: str, request_id: str) -> list[Any]:
        contents = [content for its_type, content in list(self.items) if its_type == item_type]
        return [content for content in contents if content.get("tags", {}).get("request_id") == request_id]

    def wait(self, item_type: str, request_id: str, count: int = 1) -> list[Any]:
        awaited = f"{count} {item_type}(s) of {request_id} in Sentry"
        wait_for(lambda: len(self.items_of(item_type, request_id)) >= count, awaited)
        return self.items_of(item_type, request_id)

    @contextmanager
    def slow(self) -> Iterator[None]:
        self._delay = 0.3
        yield
        self._delay = 0.0

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class TraceCollector(Worker):
    """An OTLP receiver in its own process: the project's Python has the package that decodes spans."""

    def __init__(self, project: Path, work: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = ["python", str(ROOT / "tests/live/tracing_collector_probe.py"), str(port)]
        super().__init__(project, work, command, {}, ready="listening", name="collector")

    def spans(self, request_id: str) -> list[Span]:
        """Return all spans of the request's trace."""
        spans: list[Span] = [json.loads(line) for line in self.stdout.read_text("utf-8").splitlines(keepends=True)
                             if line.endswith("\n")]  # fmt: skip
        traces = {span["trace_id"] for span in spans if span["attributes"].get("request_id") == request_id}
        return [span for span in spans if span["trace_id"] in traces]

    def wait(self, count: int, request_id: str) -> list[Span]:
        wait_for(lambda: len(self.spans(request_id)) >= count, f"{count} spans of {request_id}")
        return self.spans(request_id)


SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: # \{(.*)\} (\S+) (\S+))?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
OPENMETRICS = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")]


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float
    exemplar: dict[str, str]


def read_sample(line: str) -> Sample:
    match = SAMPLE.fullmatch(line)
    assert match, line
    return Sample(match[1], dict(LABEL.findall(match[2] or "")), float(match[3]), dict(LABEL.findall(match[4] or "")))


def scrape(service: Service, headers: Sequence[tuple[str, str]] = ()) -> list[Sample]:
    """Scrape once; fail on a line that is neither a sample nor a comment."""
    response = service.request("GET", "/metrics", headers)
    assert response.status == 200, response
    return [read_sample(line) for line in response.body.decode().splitlines() if not line.startswith("#")]


def exemplar_of(service: Service, request_id: str) -> Sample | None:
    """Return the sample whose exemplar is this request, from one scrape, or None."""
    found = [one for one in scrape(service, OPENMETRICS) if one.exemplar.get("request_id") == request_id]
    return found[0] if found else None
