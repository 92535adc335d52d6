"""A separate nginx container in front of a stack's service, started by `start.sh` with other variables."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Self

import pytest

from tests.support.baking import must
from tests.support.client import Connection, Response
from tests.support.engine import image_exists
from tests.support.ports import free_port
from tests.support.stack import Line, Stack, docker
from tests.support.waiting import wait_for

PLAIN, NEWER = "nginx:1.30-alpine", "trail-nginx-newer"
RESOLVES_UPSTREAM = (1, 27, 3)
"""The first version that can resolve the name of an upstream server at run time; start.sh uses that."""

is_uuid4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY"
_numbers = count()


@cache
def version_of(image: str) -> tuple[int, ...]:
    output = must(docker("run", "--rm", "--network", "none", "--entrypoint", "nginx", image, "-v")).stderr
    return tuple(int(part) for part in output.strip().rpartition("/")[2].split()[0].split("."))


@cache
def newer_image() -> str:
    """Return an image with nginx `RESOLVES_UPSTREAM` or newer; build it, once, if that of `PLAIN` is older."""
    if version_of(PLAIN) >= RESOLVES_UPSTREAM:
        return PLAIN
    if not image_exists(NEWER):
        folder = Path(__file__).with_name("newer")
        built = docker("build", "--quiet", "--network", "host", "--tag", NEWER, str(folder), seconds=300)
        if built.returncode != 0:
            pytest.skip(f"No image with nginx {RESOLVES_UPSTREAM} or newer could be built: {built.stderr[-500:]}")
    return NEWER


class Nginx:
    """One nginx container: in front of a stack's service, or, for the folder of a project, without a service."""

    def __init__(self, behind: Stack | Path, image: str, /, *, size: str = "256m", **variables: str) -> None:
        self.network = f"{behind.name}_default" if isinstance(behind, Stack) else None
        self.folder = (behind.project if isinstance(behind, Stack) else behind) / "deploy/nginx"
        self.image, self.size = image, size
        # Without a service, the upstream is a port on which nothing listens.
        self.variables = variables if self.network else {"SERVICE": "127.0.0.1:9", **variables}
        self.name = f"trail-edge-{os.getpid()}-{next(_numbers)}"
        self.port = free_port()

    def __enter__(self) -> Self:
        try:
            must(docker("run", "--detach", "--name", self.name, *self._options(), self.image, *START))
            wait_for(self._is_ready, "response of nginx")
        except BaseException as error:
            error.add_note(docker("logs", self.name).stderr)
            self.remove()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(self.output()[-5000:].decode("latin-1"))
        self.remove()

    def _options(self) -> Iterator[str]:
        yield from run_options(self.folder, self.variables, self.size)
        yield from ("--network", self.network or "bridge", "--publish", f"127.0.0.1:{self.port}:8080")

    def _is_ready(self) -> bool:
        """Return whether nginx serves, and has resolved the address of its service, if it has one."""
        with suppress(EOFError, OSError):
            response = self.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return response.status == (200 if self.network else 502)
        return False

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name)

    def connect(self) -> Connection:
        return Connection(self.port)

    def send(self, data: bytes) -> Response:
        """Send the bytes on a new connection, and return the response."""
        with self.connect() as connection:
            connection.send(data)
            return connection.read_response(data.partition(b" ")[0].decode("latin-1"))

    def output(self, *, errors: bool = False) -> bytes:
        """Return the raw standard output, or standard error, of the container."""
        logs = subprocess.run(["docker", "logs", self.name], capture_output=True, check=True, timeout=60)
        return logs.stderr if errors else logs.stdout

    def lines(self) -> list[Line]:
        """Return the access log lines, parsed from JSON; fail if there is any other output."""
        return [json.loads(line) for line in self.output().decode("utf-8").split("\n") if line]

    def lines_of(self, *request_ids: str) -> list[Line]:
        """Return the access log lines of requests, one for each ID; wait for lines that are not written yet."""
        wanted = set(request_ids)

        def find_lines() -> list[Line]:
            lines = [line for line in self.lines() if line["request_id"] in wanted]
            return lines if wanted <= {line["request_id"] for line in lines} else []

        lines = wait_for(find_lines, f"lines of {request_ids}")
        assert len(lines) == len(request_ids), lines
        by_id = {line["request_id"]: line for line in lines}
        return [by_id[request_id] for request_id in request_ids]


START: Sequence[str] = ("/bin/sh", "/etc/nginx/service/start.sh")


def run_options(folder: Path, variables: Mapping[str, str], size: str = "256m") -> Iterator[str]:
    """Yield the options of `docker run` that correspond to compose.yaml."""
    yield from ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--user", "101:101")
    yield from ("--tmpfs", f"/tmp:mode=1777,size={size}", "--volume", f"{folder}:/etc/nginx/service:ro")
    for name, value in variables.items():
        yield from ("--env", f"{name}={value}")


def check_error_response(response: Response, status: int, *, header: str = "X-Request-ID", head: bool = False) -> str:
    """Check that an error response of nginx has the headers and the envelope of the service; return its ID."""
    assert response.status == status, response
    assert response.complete
    request_id = response.header(header)
    assert response.header("Content-Type") == "application/json"
    for name, value in SECURITY_HEADERS.items():
        assert response.header(name) == value
    assert response.header_values("Retry-After") == (["1"] if status in {429, 502, 503, 504} else [])
    assert response.header_values("Allow") == ([ALLOWED_METHODS] if status == 405 else [])
    if not head:
        content = response.json()
        cause = content.pop("cause")
        assert re.fullmatch(r"[A-Z][^\n]+\.", cause), cause
        assert content == {"code": status, "message": "failed", "request_id": request_id, "result": None}
    return request_id
