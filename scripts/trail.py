"""Send one request, and find its ID in the response header, the body, the log and the access log."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection

from scripts.server import Server

HEADER = "X-Request-ID"
# The timeout for a line that the worker has written to reach this process.
LINE_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Step:
    """A request to send: its path, the ID in its header, if any, and whether the application logs while it runs."""

    title: str
    path: str
    sent_id: str | None = None
    logs: bool = True


@dataclass(frozen=True)
class StepResult:
    """The status and ID of a response, and the text with the ID from each place; empty where the ID is missing."""

    step: Step
    status: int
    request_id: str
    header: str
    body: str
    log: str
    access: str

    @property
    def complete(self) -> bool:
        """Whether the ID is in every place that must have it."""
        places = [self.header, self.body, self.access] + [self.log] * self.step.logs
        return bool(self.request_id) and all(self.request_id in place for place in places)


def first_or_empty(lines: list[str]) -> str:
    """Return the first line, or an empty string."""
    return lines[0] if lines else ""


def body_id(body: bytes) -> str:
    """Return the `request_id` member of a JSON body, name and value; empty if the body has none."""
    try:
        return f'"request_id": {json.dumps(json.loads(body)["request_id"])}'
    except (ValueError, KeyError, TypeError):
        return ""


def run_step(server: Server, host: str, port: int, step: Step, seconds: float = 30) -> StepResult:
    """Send the request and find its ID; raises OSError if the server does not respond within `seconds`."""
    connection = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", step.path, headers={HEADER: step.sent_id} if step.sent_id else {})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    request_id = response.getheader(HEADER) or ""
    access = first_or_empty(server.lines_with(request_id, server.out, LINE_TIMEOUT_SECONDS)) if request_id else ""
    log = ""
    if request_id and step.logs:
        log = first_or_empty(server.lines_with(request_id, server.err, LINE_TIMEOUT_SECONDS))
    header = f"{HEADER}: {request_id}" if request_id else ""
    return StepResult(step, response.status, request_id, header, body_id(body), log, access)


def supports_colours() -> bool:
    """Whether standard output is a terminal with colours, and NO_COLOR is not set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def format_result(result: StepResult) -> Iterator[str]:
    """Yield the lines that show a result; the ID is highlighted if the terminal supports colours."""
    bold, cyan, plain = ("\033[1m", "\033[36m", "\033[0m") if supports_colours() else ("", "", "")
    yield f"{bold}GET {result.step.path}{plain}  {result.step.title}: {result.status}"
    no_log = "MISSING" if result.step.logs else "none (no application code ran)"
    places = {"header": result.header, "body": result.body, "log": result.log or no_log, "access": result.access}
    for place, text in places.items():
        line = text or "MISSING"
        if result.request_id:
            line = line.replace(result.request_id, f"{cyan}{result.request_id}{plain}")
        yield f"  {place:<7} {line}"
    yield ""
