"""One request and the places in which its ID is found."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection

from scripts.server import Server

HEADER = "X-Request-ID"
# How long a line may take from the worker to us.
SECONDS = 5.0


@dataclass(frozen=True)
class Step:
    """A request to show: its path, the ID it brings along, if any, and whether the application logs while it runs."""

    title: str
    path: str
    given: str | None = None
    logs: bool = True


@dataclass(frozen=True)
class Trail:
    """What came back for a step: the status, and in which words each place names the ID; empty where it is missing."""

    step: Step
    status: int
    request_id: str
    header: str
    body: str
    log: str
    access: str

    @property
    def complete(self) -> bool:
        """Whether the one ID is in every place in which it belongs."""
        places = [self.header, self.body, self.access] + [self.log] * self.step.logs
        return bool(self.request_id) and all(self.request_id in place for place in places)


def first(lines: list[str]) -> str:
    """Give the first line, or nothing."""
    return lines[0] if lines else ""


def body_id(body: bytes) -> str:
    """Give the `request_id` of a JSON body as JSON shows it, or nothing."""
    try:
        return f'"request_id": {json.dumps(json.loads(body)["request_id"])}'
    except (ValueError, KeyError, TypeError):
        return ""


def follow(server: Server, host: str, port: int, step: Step, seconds: float = 30) -> Trail:
    """Send the request and collect the places; raises OSError when the server does not answer within `seconds`."""
    connection = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", step.path, headers={HEADER: step.given} if step.given else {})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    request_id = response.getheader(HEADER) or ""
    access = first(server.lines_with(request_id, server.out, SECONDS)) if request_id else ""
    log = first(server.lines_with(request_id, server.err, SECONDS)) if request_id and step.logs else ""
    header = f"{HEADER}: {request_id}" if request_id else ""
    return Trail(step, response.status, request_id, header, body_id(body), log, access)


def colours() -> bool:
    """Whether the screen shows colours, and the user wants them (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def picture(trail: Trail) -> Iterator[str]:
    """Give the lines that show a trail; the ID stands out where the screen can show it."""
    bold, cyan, plain = ("\033[1m", "\033[36m", "\033[0m") if colours() else ("", "", "")
    yield f"{bold}GET {trail.step.path}{plain}  {trail.step.title}: {trail.status}"
    nothing = "nothing ran that could have logged" if not trail.step.logs else "MISSING"
    places = {"header": trail.header, "body": trail.body, "log": trail.log or nothing, "access": trail.access}
    for place, words in places.items():
        shown = words or "MISSING"
        if trail.request_id:
            shown = shown.replace(trail.request_id, f"{cyan}{trail.request_id}{plain}")
        yield f"  {place:<7} {shown}"
    yield ""
