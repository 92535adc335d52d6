"""Run a generated service with `docker compose`: nginx and the service, at a free port."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any, Self

from scripts.snapshot import ROOT
from tests.support.baking import Result, must, run
from tests.support.client import Connection, Response, build_request
from tests.support.ports import free_port
from tests.support.waiting import wait_for

Line = dict[str, Any]
_numbers = count()


class Stack:
    """A context manager that runs `docker compose up --wait` and `down` in a project's folder.

    `name` becomes part of the Compose project name, so that several stacks, also of the same project, can run on one
    engine. `variables` are added to the environment variables of the command.
    """

    def __init__(self, project: Path, name: str, **variables: str) -> None:
        self.project = project
        self.name = f"trail-{name}-{os.getpid()}"
        self.port = free_port()
        self.variables = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "HTTP_PORT": f"127.0.0.1:{self.port}",
            # All stacks of a project share one image, which is built once.
            "IMAGE": image_of(project),
            **variables,
        }

    def __enter__(self) -> Self:
        try:
            must(self.up())
        except BaseException as error:
            error.add_note(self.compose("logs", "--no-color").stdout[-20000:])
            self.down()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(self.compose("logs", "--no-color", "--tail", "200").stdout[-20000:])
        self.down()

    def compose(self, *arguments: str, seconds: float = 300) -> Result:
        return run(["docker", "compose", *arguments], self.project, self.variables, seconds=seconds)

    def up(self, *arguments: str) -> Result:
        """Start or update the containers, and wait until all are healthy."""
        return self.compose("up", "--detach", "--wait", *arguments)

    def down(self) -> Result:
        return self.compose("down", "--volumes", "--timeout", "5")

    def exec(self, service: str, *command: str, index: int = 1) -> str:
        """Run a command in a container, and return its output."""
        return must(self.compose("exec", "-T", "--index", str(index), service, *command)).stdout

    def containers(self, service: str) -> list[str]:
        return must(self.compose("ps", "--quiet", service)).stdout.split()

    def healthy(self) -> Counter[str]:
        rows = map(json.loads, must(self.compose("ps", "--format", "json")).stdout.splitlines())
        return Counter(row["Service"] for row in rows if row["Health"] == "healthy")

    def logs(self, *services: str) -> list[str]:
        """Return the log lines of the services, without the container names as prefixes."""
        text = must(self.compose("logs", "--no-color", "--no-log-prefix", *services)).stdout
        return [line.removeprefix("\x1b[2K") for line in text.splitlines()]

    def lines(self, *services: str) -> list[Line]:
        """Return the log lines of the services that are JSON objects."""
        return [json.loads(line) for line in self.logs(*services) if line.startswith("{")]

    def lines_of(self, request_id: str, *services: str) -> list[Line]:
        """Return the lines of a request; those of one container are in the order in which it has written them."""
        return [line for line in self.lines(*services) if line.get("request_id") == request_id]

    def wait_for_lines(self, request_id: str, count: int, *services: str, seconds: float = 30) -> list[Line]:
        """Wait until a request has `count` lines, and return them; the log driver of Docker has a short delay."""

        def find_lines() -> list[Line]:
            lines = self.lines_of(request_id, *services)
            return lines if len(lines) >= count else []

        return wait_for(find_lines, f"{count} lines of {request_id}", seconds=seconds)

    def connect(self, timeout: float = 15.0) -> Connection:
        return Connection(self.port, timeout=timeout)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        request_id: str | None = None,
        timeout: float = 15.0,
    ) -> Response:
        with self.connect(timeout) as connection:
            connection.send(build_request(method, target, headers, body, request_id=request_id))
            return connection.read_response(method)


def docker(*arguments: str, typed: str | None = None, seconds: float = 120) -> Result:
    return run(["docker", *arguments], ROOT, dict(os.environ), typed, seconds=seconds)


def write_override(project: Path, **services: Line) -> str:
    """Write an override file next to compose.yaml, and return both as the value of COMPOSE_FILE.

    Health checks run every second, so that `up --wait` returns soon; their timeout is long enough for a busy machine.
    """
    checked = {"healthcheck": {"interval": "1s", "timeout": "30s", "retries": 30}}
    merged = {name: checked | services.get(name, {}) for name in ("nginx", "api")}
    name = f"override-{next(_numbers)}.yaml"
    (project / name).write_text(json.dumps({"services": merged}))  # JSON is YAML
    return f"compose.yaml:{name}"


def image_of(project: Path) -> str:
    """Return the name of the image that all stacks of a project share in this test run."""
    return f"trail-{project.name}-{os.getpid()}"


def image_with_owner(image: str, folder: str, owner: str) -> str:
    """Return the image, or a derived one in which the folder belongs to `owner` ("uid:gid").

    In the original image it does; in a substitute without a registry (see engine.py) it may not.
    """
    found = docker("run", "--rm", "--entrypoint", "stat", image, "-c", "%u:%g", folder).stdout.strip()
    if found == owner:
        return image
    own = f"trail-{image.partition(':')[0].rpartition('/')[2]}"
    text = f"FROM {image}\nUSER root\nRUN mkdir -p {folder} && chown {owner} {folder}\n"
    must(docker("build", "--quiet", "--tag", own, "-", typed=text))
    return own
