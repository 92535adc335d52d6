"""The compared applications: their packages, their worker class, and the access log line that each must write.

Each serves `GET /api/bench` as its only or first route. The applications are in `subjects/`.
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
    """A row of the results: `app`, served with `worker` in an environment that has `packages` and the common ones.

    `options` are command-line options of gunicorn. `line` is the regular expression of the access log line, in which
    `ID` is replaced by the ID of the response; if empty, there must be no line. With `has_id`, the header and the body
    of the response have the ID.
    """

    title: str
    app: str
    packages: tuple[str, ...] = ()
    worker: str = UVICORN
    options: tuple[str, ...] = ()
    line: str = ""
    has_id: bool = False
    opens_log: bool = False
    """Whether the application itself opens the file ACCESS_LOG, so that gunicorn must not."""
    service: tuple[str, ...] | None = None
    """The options of the generated service, whose `gun.py` then configures gunicorn; None for other applications."""
    variables: Mapping[str, str] = {}

    @property
    def is_ours(self) -> bool:
        """Whether the generated service is served; False also for a subject that only uses its environment."""
        return self.app in {"ours", "growing_ours"}

    def matches(self, line: str, request_id: str) -> bool:
        """Return whether an access log line has the expected form and ID."""
        return re.fullmatch(self.line.replace("ID", re.escape(request_id)), line) is not None


OURS_TEXT = rf"{TIME_AND_ZONE} ID 200 {DURATION} {CLIENT} - {REQUEST}"
OURS_JSON = r'\{.*"request_id": ?"ID".*"status": ?200, ?"duration": ?[\d.e-]+,.*\}'


def ours(title: str, *options: str, line: str = OURS_TEXT, **variables: str) -> Subject:
    """Return the generated service with some options and environment variables as a subject."""
    return Subject(title, "ours", line=line, has_id=True, service=options, variables=variables)


BASE, OURS, JSON, UVICORN_LINE, DESIGN_2020 = "bare-fastapi", "ours-text", "ours-json", "uvicorn-line", "design-2020"
SAME, SHORTEST = "same-imports", "shortest"

SUBJECTS = {
    "bare-starlette": Subject("Starlette without an access log", "bare_starlette"),
    BASE: Subject("FastAPI without an access log", "bare_fastapi"),
    SHORTEST: Subject(
        "FastAPI with a minimal request ID and access log",
        "shortest",
        line=rf"{TIME} ID 200 {DURATION} {CLIENT} - {REQUEST}",
        has_id=True,
        opens_log=True,
    ),
    UVICORN_LINE: Subject(
        "FastAPI with uvicorn's access log (no time, no ID)", "bare_fastapi", line=rf"{CLIENT} - {REQUEST} 200"
    ),
    "uvicorn-timestamp": Subject(
        "FastAPI with uvicorn's access log and timestamps",
        "uvicorn_timestamp",
        line=rf"{TIME} {CLIENT} - {REQUEST} 200 OK",
    ),
    "gunicorn-asgi": Subject(
        "FastAPI, gunicorn's `asgi` worker and access log (no ID)",
        "bare_fastapi",
        worker="asgi",
        options=("--access-logformat", '%(t)s %(s)s %(L)ss %(h)s - "%(r)s"'),
        line=rf"\[\d\d/\w{{3}}/\d{{4}}:\d\d:\d\d:\d\d [+-]\d{{4}}\] 200 {DURATION} 127\.0\.0\.1 - {REQUEST}",
    ),
    "asgi-correlation-id": Subject(
        "asgi-correlation-id, uvicorn's access log (no duration)",
        "correlation",
        packages=("asgi-correlation-id==5.0.1",),
        line=rf"{TIME} ID {CLIENT} - {REQUEST} 200",
        has_id=True,
    ),
    "raw-context": Subject(
        "starlette-context, RawContextMiddleware, no access log",
        "raw_context",
        packages=("starlette-context",),
        has_id=True,
    ),
    "base-context": Subject(
        "starlette-context, ContextMiddleware, no access log",
        "base_context",
        packages=("starlette-context",),
        has_id=True,
    ),
    DESIGN_2020: Subject(
        "2020 design (request ID and duration in the access log)",
        "design_2020.main",
        packages=("starlette-context",),
        worker="design_2020.workers.RequestUvicornWorker",
        line=rf"{TIME} ID 200 {DURATION} {CLIENT} - {REQUEST}",
        has_id=True,
    ),
    OURS: ours("**this template, text log**"),
    JSON: ours("**this template, JSON log**", line=OURS_JSON, LOG_FORMAT="json"),
    "ours-metrics": ours("this template with `metrics`", "metrics"),
    "ours-tracing": ours(
        "this template with `tracing` (nothing exported)",
        "tracing",
        line=OURS_TEXT + r" trace_id=\w{32} span_id=\w{16}",
    ),
    # Sentry gets only errors at this DSN, and these requests cause none, so nothing is sent.
    "ours-sentry": ours("this template with `sentry` (errors only)", "sentry", SENTRY_DSN="http://key@127.0.0.1:9/1"),
    "ours-structlog": ours("this template with `structlog`", "structlog"),
    "ours-log_control": ours("this template with `log_control`", "log_control"),
    "ours-mcp": ours("this template with `mcp`", "mcp"),
    "ours-celery": ours("this template with `celery`", "celery"),
    "ours-saq": ours("this template with `saq`", "saq"),
    "ours-faststream": ours("this template with `faststream`", "faststream", FASTSTREAM_CONSUME="false"),
    SAME: Subject("FastAPI with the same imports, no access log", "same_imports", service=()),
}
