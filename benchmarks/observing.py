"""What each observer costs for each request, beside the same service without any: `make bench`.

Services under gunicorn, one worker each, with the lines in a file, are asked in turns over a kept connection. A figure
is the processor time of the worker, all its threads included, for each request, in microseconds: the median of all
rounds, and the span between the quartiles. What is sent elsewhere goes to a server on loopback that takes everything.
"""

import os
import platform
import socket
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.report import publish
from scripts.generate import generate, install
from tests.support.service import Service

ROUNDS = 9
REQUESTS = 2000
REQUEST = b"GET /api/demo HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: benchmark-0001\r\n\r\n"


class Subject(NamedTuple):
    """A service with some options, and its environment, in which {sink} is the address of what takes everything."""

    options: tuple[str, ...]
    variables: Mapping[str, str] = {}


OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://{sink}"}
SENTRY = {"SENTRY_DSN": "http://key@{sink}/1", "SENTRY_TRACES_SAMPLE_RATE": "0"}
SUBJECTS = {
    "off": Subject(()),
    "metrics": Subject(("metrics",)),
    "tracing, nothing sent": Subject(("tracing",)),
    "tracing, each trace sent": Subject(("tracing",), OTLP),
    "sentry, errors": Subject(("sentry",), SENTRY),
    "sentry, each transaction sent": Subject(("sentry",), SENTRY | {"SENTRY_TRACES_SAMPLE_RATE": "1"}),
    "structlog": Subject(("structlog",)),
    "all four, errors and traces sent": Subject(("metrics", "tracing", "sentry", "structlog"), OTLP | SENTRY),
}


class Sink(BaseHTTPRequestHandler):
    """Takes what is posted, and says so."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer 200."""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            self.rfile.read(size + 2)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def sink() -> Iterator[str]:
    """Serve on a free port; give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def processor_time(pid: int) -> float:
    """Give the microseconds that a process has had a processor, threads that have ended aside."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def ask(port: int, count: int) -> None:
    """Make requests one after the other on one connection."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(count):
            connection.sendall(REQUEST)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)


def measure(service: Service) -> float:
    """Give the microseconds of processor time that a request takes."""
    (worker,) = service.workers()
    before = processor_time(worker)
    ask(service.port, REQUESTS)
    return (processor_time(worker) - before) / REQUESTS


def started(folder: Path, uv: Path, subject: Subject, address: str) -> Service:
    """Give the service of a subject, generated and installed, to be entered."""
    project = generate(folder / "build", **dict.fromkeys(subject.options, True))
    install(project, uv)
    variables = {name: value.format(sink=address) for name, value in subject.variables.items()}
    log = folder / "log"
    return Service(project, folder / "work", app="app.main:app", env=variables, workers=1, log_path=log)


def all_rounds(services: Mapping[str, Service]) -> dict[str, list[float]]:
    """Give the figures of all services, which take turns, so that what disturbs one disturbs the others."""
    found: dict[str, list[float]] = {name: [] for name in services}
    for number in range(ROUNDS + 1):
        for name in sorted(services, reverse=bool(number % 2)):
            figure = measure(services[name])
            if number:  # the first round warms up
                found[name].append(figure)
    return found


def rows(found: Mapping[str, list[float]]) -> list[str]:
    """Give the rows of the table."""
    off = statistics.median(found["off"])
    lines = []
    for name, figures in found.items():
        median, (low, _, high) = statistics.median(figures), statistics.quantiles(figures, n=4)
        shown = f"{median:.0f} ({low:.0f} to {high:.0f})"
        lines.append(f"| {name} | {shown} | {median - off:+.0f} | {median / off:.2f} |")
    return lines


def main(uv: Path) -> int:
    """Make the services, measure, print the table, and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name, sink() as address, ExitStack() as stack:
        services = {}
        for number, (subject, what) in enumerate(SUBJECTS.items()):
            services[subject] = stack.enter_context(started(Path(name) / str(number), uv, what, address))
        found = all_rounds(services)
    about = [
        "# Cost of observing",
        "",
        f"Processor time of the worker for each of {REQUESTS} requests in µs; medians of {ROUNDS} rounds.",
    ]
    remark = f"Python {platform.python_version()}, {os.cpu_count()} processors"
    publish("observing", about, "| options | µs | beside off | ratio |", rows(found), remark)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
