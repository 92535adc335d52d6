"""An nginx of its own in front of a stack's service, started by `start.sh` with other variables."""

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
from tests.support.client import Answer, Connection
from tests.support.engine import image_exists
from tests.support.ports import free_port
from tests.support.stack import Line, Stack, docker
from tests.support.waiting import wait_for

PLAIN, NEWER = "nginx:1.30-alpine", "trail-nginx-newer"
FOLLOWS_NAMES = (1, 27, 3)
"""The version from which start.sh lets nginx follow the addresses of a name."""

MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
SECURITY = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY"
_numbers = count()


@cache
def version_of(image: str) -> tuple[int, ...]:
    said = must(docker("run", "--rm", "--network", "none", "--entrypoint", "nginx", image, "-v")).stderr
    return tuple(int(part) for part in said.strip().rpartition("/")[2].split()[0].split("."))


@cache
def newer_image() -> str:
    """Give an image with an nginx that follows names; build it, once, where the plain one is older."""
    if version_of(PLAIN) >= FOLLOWS_NAMES:
        return PLAIN
    if not image_exists(NEWER):
        folder = Path(__file__).with_name("newer")
        built = docker("build", "--quiet", "--network", "host", "--tag", NEWER, str(folder), seconds=300)
        if built.returncode != 0:
            pytest.skip(f"An nginx of {FOLLOWS_NAMES} or later cannot be had here: {built.stderr[-500:]}")
    return NEWER


class Edge:
    """One container with nginx, in front of a stack's service, or with a project's files and no service behind it."""

    def __init__(self, behind: Stack | Path, image: str, /, *, size: str = "256m", **variables: str) -> None:
        self.network = f"{behind.name}_default" if isinstance(behind, Stack) else None
        self.folder = (behind.project if isinstance(behind, Stack) else behind) / "deploy/nginx"
        self.image, self.size = image, size
        # Without a service, a port on which nothing listens.
        self.variables = variables if self.network else {"SERVICE": "127.0.0.1:9", **variables}
        self.name = f"trail-edge-{os.getpid()}-{next(_numbers)}"
        self.port = free_port()

    def __enter__(self) -> Self:
        try:
            must(docker("run", "--detach", "--name", self.name, *self._options(), self.image, *START))
            wait_for(self._answers, "answer of nginx")
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
        yield from options_of(self.folder, self.variables, self.size)
        yield from ("--network", self.network or "bridge", "--publish", f"127.0.0.1:{self.port}:8080")

    def _answers(self) -> bool:
        """Whether it serves and, where a service is behind it, has learned that one's address, which takes a moment."""
        with suppress(EOFError, OSError):
            answer = self.ask(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return answer.status == (200 if self.network else 502)
        return False

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name)

    def connect(self) -> Connection:
        return Connection(self.port)

    def ask(self, data: bytes) -> Answer:
        """Send these bytes on a connection of their own, and read the answer."""
        with self.connect() as connection:
            connection.send(data)
            return connection.answer(data.partition(b" ")[0].decode("latin-1"))

    def output(self, *, errors: bool = False) -> bytes:
        """Give what was written to standard output, or to standard error, byte for byte."""
        told = subprocess.run(["docker", "logs", self.name], capture_output=True, check=True, timeout=60)
        return told.stderr if errors else told.stdout

    def lines(self) -> list[Line]:
        """Give the access lines; each is a JSON object in UTF-8, and there is nothing else."""
        return [json.loads(line) for line in self.output().decode("utf-8").split("\n") if line]

    def lines_of(self, *request_ids: str) -> list[Line]:
        """Give the access lines of requests; each has exactly one, which may be a moment late."""
        wanted = set(request_ids)

        def look() -> list[Line]:
            lines = [line for line in self.lines() if line["request_id"] in wanted]
            return lines if wanted <= {line["request_id"] for line in lines} else []

        lines = wait_for(look, f"lines of {request_ids}")
        assert len(lines) == len(request_ids), lines
        by_id = {line["request_id"]: line for line in lines}
        return [by_id[request_id] for request_id in request_ids]


START: Sequence[str] = ("/bin/sh", "/etc/nginx/service/start.sh")


def options_of(folder: Path, variables: Mapping[str, str], size: str = "256m") -> Iterator[str]:
    """Give the options of `docker run` that make a container as compose.yaml does."""
    yield from ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--user", "101:101")
    yield from ("--tmpfs", f"/tmp:mode=1777,size={size}", "--volume", f"{folder}:/etc/nginx/service:ro")
    for name, value in variables.items():
        yield from ("--env", f"{name}={value}")


def check_own_answer(answer: Answer, status: int, *, header: str = "X-Request-ID", head: bool = False) -> str:
    """Check that an answer of nginx itself is as one of the service, and give its ID."""
    assert answer.status == status, answer
    assert answer.complete
    request_id = answer.one(header)
    assert answer.one("Content-Type") == "application/json"
    for name, value in SECURITY.items():
        assert answer.one(name) == value
    assert answer.all("Retry-After") == (["1"] if status in {429, 502, 503, 504} else [])
    assert answer.all("Allow") == ([ALLOWED] if status == 405 else [])
    if not head:
        content = answer.json()
        cause = content.pop("cause")
        assert re.fullmatch(r"[A-Z][^\n]+\.", cause), cause
        assert content == {"code": status, "message": "failed", "request_id": request_id, "result": None}
    return request_id
