"""What is compared: who is served, from which packages, by which worker, and the line that it must leave.

Each serves `GET /api/bench` as its only or first route; `subjects/` holds the applications.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

UVICORN = "uvicorn_worker.UvicornWorker"
TIME = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]"
TIME_AND_ZONE = TIME.replace(r"\]", r"([+-]\d{4})?\]")
DURATION = r"\d+\.\d+s"
CLIENT = r"127\.0\.0\.1:\d+"
REQUEST = r'"GET /api/bench HTTP/1\.1"'


class Subject(NamedTuple):
    """A row: `app` to be served with `worker` in an environment that has `packages` besides the common ones.

    `options` are those of gunicorn. `line` matches the access line, in which `ID` stands for the ID of the answer;
    empty: there must be no line. `has_id`: the answer carries the ID in header and body.
    """

    title: str
    app: str
    packages: tuple[str, ...] = ()
    worker: str = UVICORN
    options: tuple[str, ...] = ()
    line: str = ""
    has_id: bool = False
    opens_log: bool = False
    """Whether it opens the file ACCESS_LOG itself, so that gunicorn is not told of it."""
    service: tuple[str, ...] | None = None
    """The generated service with these options on; gunicorn is then set up by its own gun.py."""
    variables: Mapping[str, str] = {}

    @property
    def is_ours(self) -> bool:
        """Whether the generated service is what is served, and not only its packages."""
        return self.app in {"ours", "growing_ours"}

    def matches(self, line: str, request_id: str) -> bool:
        """Tell whether the line says what the row claims."""
        return re.fullmatch(self.line.replace("ID", re.escape(request_id)), line) is not None


OURS_TEXT = rf"{TIME_AND_ZONE} ID 200 {DURATION} {CLIENT} - {REQUEST}"
OURS_JSON = r'\{.*"request_id": ?"ID".*"status": ?200, ?"duration": ?[\d.e-]+,.*\}'


def ours(title: str, *options: str, line: str = OURS_TEXT, **variables: str) -> Subject:
    """Give the generated service with some options and variables."""
    return Subject(title, "ours", line=line, has_id=True, service=options, variables=variables)


BASE, OURS, JSON, UVICORN_LINE, DESIGN_2020 = "bare-fastapi", "ours-text", "ours-json", "uvicorn-line", "design-2020"
SAME, SHORTEST = "same-imports", "shortest"

SUBJECTS = {
    "bare-starlette": Subject("Starlette, no line", "bare_starlette"),
    BASE: Subject("FastAPI, no line", "bare_fastapi"),
    SHORTEST: Subject(
        "FastAPI, shortest possible ID and line",
        "shortest",
        line=rf"{TIME} ID 200 {DURATION} {CLIENT} - {REQUEST}",
        has_id=True,
        opens_log=True,
    ),
    UVICORN_LINE: Subject(
        "FastAPI, uvicorn's line without time or ID", "bare_fastapi", line=rf"{CLIENT} - {REQUEST} 200"
    ),
    "uvicorn-timestamp": Subject(
        "FastAPI, uvicorn's line with the time of day", "uvicorn_timestamp", line=rf"{TIME} {CLIENT} - {REQUEST} 200 OK"
    ),
    "gunicorn-asgi": Subject(
        "FastAPI, gunicorn's `asgi` worker and line, no ID",
        "bare_fastapi",
        worker="asgi",
        options=("--access-logformat", '%(t)s %(s)s %(L)ss %(h)s - "%(r)s"'),
        line=rf"\[\d\d/\w{{3}}/\d{{4}}:\d\d:\d\d:\d\d [+-]\d{{4}}\] 200 {DURATION} 127\.0\.0\.1 - {REQUEST}",
    ),
    "asgi-correlation-id": Subject(
        "asgi-correlation-id, uvicorn's line with ID, no duration",
        "correlation",
        packages=("asgi-correlation-id==5.0.1",),
        line=rf"{TIME} ID {CLIENT} - {REQUEST} 200",
        has_id=True,
    ),
    "raw-context": Subject(
        "starlette-context, RawContextMiddleware, no line", "raw_context", packages=("starlette-context",), has_id=True
    ),
    "base-context": Subject(
        "starlette-context, ContextMiddleware, no line", "base_context", packages=("starlette-context",), has_id=True
    ),
    DESIGN_2020: Subject(
        "the design of 2020, ID and duration in the line",
        "design_2020.main",
        packages=("starlette-context",),
        worker="design_2020.workers.RequestUvicornWorker",
        line=rf"{TIME} ID 200 {DURATION} {CLIENT} - {REQUEST}",
        has_id=True,
    ),
    OURS: ours("**the service, text**"),
    JSON: ours("**the service, JSON**", line=OURS_JSON, LOG_FORMAT="json"),
    "ours-metrics": ours("the service with metrics", "metrics"),
    "ours-tracing": ours(
        "the service with tracing, nothing sent", "tracing", line=OURS_TEXT + r" trace_id=\w{32} span_id=\w{16}"
    ),
    # An error would be sent there; a request that works is not.
    "ours-sentry": ours("the service with sentry, errors only", "sentry", SENTRY_DSN="http://key@127.0.0.1:9/1"),
    "ours-structlog": ours("the service with structlog", "structlog"),
    "ours-log_control": ours("the service with log_control", "log_control"),
    "ours-mcp": ours("the service with mcp", "mcp"),
    "ours-celery": ours("the service with celery", "celery"),
    "ours-saq": ours("the service with saq", "saq"),
    "ours-faststream": ours("the service with faststream", "faststream", FASTSTREAM_CONSUME="false"),
    SAME: Subject("FastAPI, no line, and all packages that the service imports", "same_imports", service=()),
}
