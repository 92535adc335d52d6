"""What receives the reports of a service under test: a Sentry, a collector of traces, a scrape of its metrics."""

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
    """Takes envelopes over HTTP, as Sentry does; a context manager."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self._delay = 0.0
        sentry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(sentry._delay)  # the network
                sentry.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://public-key@127.0.0.1:{self._server.server_port}/1"

    def take(self, envelope: bytes) -> None:
        """Read an envelope: a line of its own, then for each item a line about it and its content."""
        _, _, rest = envelope.partition(b"\n")
        while rest.strip():
            head, _, rest = rest.partition(b"\n")
            about = json.loads(head)
            content, rest = rest[: about["length"]], rest[about["length"] :].lstrip(b"\n")
            self.items.append((about["type"], json.loads(content)))

    def of(self, kind: str, request_id: str) -> list[Any]:
        found = [content for its_kind, content in list(self.items) if its_kind == kind]
        return [one for one in found if one.get("tags", {}).get("request_id") == request_id]

    def wait(self, kind: str, request_id: str, count: int = 1) -> list[Any]:
        wait_for(lambda: len(self.of(kind, request_id)) >= count, f"{count} {kind}(s) of {request_id} in Sentry")
        return self.of(kind, request_id)

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
    """Takes spans over HTTP, in a process with a project's Python, which can read them."""

    def __init__(self, project: Path, work: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        words = ["python", str(ROOT / "tests/live/tracing_collector_probe.py"), str(port)]
        super().__init__(project, work, words, {}, ready="listening", name="collector")

    def spans(self, request_id: str) -> list[Span]:
        """Return those of the trace to which a request belongs."""
        found: list[Span] = [json.loads(line) for line in self.stdout.read_text("utf-8").splitlines(keepends=True)
                             if line.endswith("\n")]  # fmt: skip
        traces = {one["trace_id"] for one in found if one["attributes"].get("request_id") == request_id}
        return [one for one in found if one["trace_id"] in traces]

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


def samples(service: Service, headers: Sequence[tuple[str, str]] = ()) -> list[Sample]:
    """Scrape once; no line is anything else than a sample or a comment."""
    answer = service.request("GET", "/metrics", headers)
    assert answer.status == 200, answer
    return [read_sample(line) for line in answer.body.decode().splitlines() if not line.startswith("#")]


def exemplar_of(service: Service, request_id: str) -> Sample | None:
    """Look for a request among the exemplars of one scrape."""
    found = [one for one in samples(service, OPENMETRICS) if one.exemplar.get("request_id") == request_id]
    return found[0] if found else None
