"""CPU time per request of each observability option, compared with the service without any: `make bench`.

Each service runs under gunicorn with one worker and logs to a file. The services take turns; each gets its requests
over one keep-alive connection. A figure is the CPU time of all threads of the worker per request in microseconds: the
median of all rounds, with the quartiles. Exporters send to a server on the loopback interface that accepts everything.
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
    """The options and environment variables of a service; `{sink}` is replaced by the address of `sink()`."""

    options: tuple[str, ...]
    variables: Mapping[str, str] = {}


OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://{sink}"}
SENTRY = {"SENTRY_DSN": "http://key@{sink}/1", "SENTRY_TRACES_SAMPLE_RATE": "0"}
SUBJECTS = {
    "none": Subject(()),
    "metrics": Subject(("metrics",)),
    "tracing, nothing exported": Subject(("tracing",)),
    "tracing, every trace exported": Subject(("tracing",), OTLP),
    "sentry, errors only": Subject(("sentry",), SENTRY),
    "sentry, every transaction sent": Subject(("sentry",), SENTRY | {"SENTRY_TRACES_SAMPLE_RATE": "1"}),
    "structlog": Subject(("structlog",)),
    "all four: metrics, tracing (every trace exported), sentry (errors only), structlog": Subject(
        ("metrics", "tracing", "sentry", "structlog"), OTLP | SENTRY
    ),
}


class Sink(BaseHTTPRequestHandler):
    """Accepts every POST request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the body and respond with 200."""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            self.rfile.read(size + 2)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def sink() -> Iterator[str]:
    """Run the accepting server on a free port; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def processor_time(pid: int) -> float:
    """Return the CPU time of a process in microseconds, without threads that have ended."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def send_requests(port: int, count: int) -> None:
    """Send requests one after the other over one connection."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(count):
            connection.sendall(REQUEST)
            response = b""
            while not response.endswith(b"}"):
                response += connection.recv(65536)


def measure(service: Service) -> float:
    """Return the CPU time per request in microseconds."""
    (worker,) = service.workers()
    before = processor_time(worker)
    send_requests(service.port, REQUESTS)
    return (processor_time(worker) - before) / REQUESTS


def create_service(folder: Path, uv: Path, subject: Subject, address: str) -> Service:
    """Generate and install a service; return it as a context manager that runs it."""
    project = generate(folder / "build", **dict.fromkeys(subject.options, True))
    install(project, uv)
    variables = {name: value.format(sink=address) for name, value in subject.variables.items()}
    log = folder / "log"
    return Service(project, folder / "work", app="app.main:app", env=variables, workers=1, log_path=log)


def all_rounds(services: Mapping[str, Service]) -> dict[str, list[float]]:
    """Return the figures of all services; they take turns, so that disturbances affect all of them."""
    found: dict[str, list[float]] = {name: [] for name in services}
    for number in range(ROUNDS + 1):
        for name in sorted(services, reverse=bool(number % 2)):
            figure = measure(services[name])
            if number:  # the first round warms up
                found[name].append(figure)
    return found


def rows(found: Mapping[str, list[float]]) -> list[str]:
    """Return the table rows."""
    base = statistics.median(found["none"])
    lines = []
    for name, figures in found.items():
        median, (low, _, high) = statistics.median(figures), statistics.quantiles(figures, n=4)
        cell = f"{median:.0f} ({low:.0f} to {high:.0f})"
        lines.append(f"| {name} | {cell} | {median - base:+.0f} | {median / base:.2f} |")
    return lines


def main(uv: Path) -> int:
    """Run the services, measure them, print the results page and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name, sink() as address, ExitStack() as stack:
        services = {}
        for number, (subject, what) in enumerate(SUBJECTS.items()):
            services[subject] = stack.enter_context(create_service(Path(name) / str(number), uv, what, address))
        found = all_rounds(services)
    intro = [
        "# CPU time per request of the observability options",
        "",
        f"CPU time of the worker per request in µs: medians of {ROUNDS} rounds of {REQUESTS} requests each, with the",
        "quartiles. Difference and ratio are relative to this template without options.",
    ]
    remark = f"Python {platform.python_version()}, {os.cpu_count()} processors"
    publish("observing", intro, "| options | µs | difference | ratio |", rows(found), remark)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
