"""A generated service under `docker compose`: nginx and the service, at a port of its own."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any, Self

from scripts.snapshot import ROOT
from tests.support.baking import Result, must, run
from tests.support.client import Answer, Connection, build_request
from tests.support.ports import free_port
from tests.support.waiting import wait_for

Line = dict[str, Any]
_numbers = count()


class Stack:
    """What `docker compose up --wait` starts in a project's folder, and `down` ends; `variables` are its environment.

    The name keeps it apart from others on the same engine, those of the same project included.
    """

    def __init__(self, project: Path, name: str, **variables: str) -> None:
        self.project = project
        self.name = f"trail-{name}-{os.getpid()}"
        self.port = free_port()
        self.variables = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "HTTP_PORT": f"127.0.0.1:{self.port}",
            # One image for all stacks of a project: it is built once.
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

    def compose(self, *words: str, seconds: float = 300) -> Result:
        return run(["docker", "compose", *words], self.project, self.variables, seconds=seconds)

    def up(self, *words: str) -> Result:
        """Start it, or change what runs; wait until everything is healthy."""
        return self.compose("up", "--detach", "--wait", *words)

    def down(self) -> Result:
        return self.compose("down", "--volumes", "--timeout", "5")

    def exec(self, service: str, *command: str, index: int = 1) -> str:
        """Run a command in a container, and give what it says."""
        return must(self.compose("exec", "-T", "--index", str(index), service, *command)).stdout

    def containers(self, service: str) -> list[str]:
        return must(self.compose("ps", "--quiet", service)).stdout.split()

    def healthy(self) -> Counter[str]:
        rows = map(json.loads, must(self.compose("ps", "--format", "json")).stdout.splitlines())
        return Counter(row["Service"] for row in rows if row["Health"] == "healthy")

    def logs(self, *services: str) -> list[str]:
        """Give the lines of services' logs, without the names in front."""
        text = must(self.compose("logs", "--no-color", "--no-log-prefix", *services)).stdout
        return [line.removeprefix("\x1b[2K") for line in text.splitlines()]

    def lines(self, *services: str) -> list[Line]:
        """Give those lines that are JSON objects."""
        return [json.loads(line) for line in self.logs(*services) if line.startswith("{")]

    def lines_of(self, request_id: str, *services: str) -> list[Line]:
        """Give the lines of a request, in the order in which each container has written its own."""
        return [line for line in self.lines(*services) if line.get("request_id") == request_id]

    def wait_for_lines(self, request_id: str, count: int, *services: str, seconds: float = 30) -> list[Line]:
        """Wait until a request has so many lines, and give them; the log driver is a little behind."""

        def look() -> list[Line]:
            lines = self.lines_of(request_id, *services)
            return lines if len(lines) >= count else []

        return wait_for(look, f"{count} lines of {request_id}", seconds=seconds)

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
    ) -> Answer:
        with self.connect(timeout) as connection:
            connection.send(build_request(method, target, headers, body, request_id=request_id))
            return connection.answer(method)


def docker(*words: str, typed: str | None = None, seconds: float = 120) -> Result:
    return run(["docker", *words], ROOT, dict(os.environ), typed, seconds=seconds)


def write_override(project: Path, **services: Line) -> str:
    """Write a compose file beside compose.yaml, and give both as COMPOSE_FILE.

    Health is checked each second, so that no start waits longer; on a busy machine a check may take its time.
    """
    checked = {"healthcheck": {"interval": "1s", "timeout": "30s", "retries": 30}}
    merged = {name: checked | services.get(name, {}) for name in ("nginx", "api")}
    name = f"override-{next(_numbers)}.yaml"
    (project / name).write_text(json.dumps({"services": merged}))  # JSON is YAML
    return f"compose.yaml:{name}"


def image_of(project: Path) -> str:
    """Give the name of the image that all stacks of a project share, in this run of the tests."""
    return f"trail-{project.name}-{os.getpid()}"


def owned_image(image: str, folder: str, owner: str) -> str:
    """Give the image, or one like it, whose folder belongs to who is known for it; a stand-in's may be another's."""
    found = docker("run", "--rm", "--entrypoint", "stat", image, "-c", "%u:%g", folder).stdout.strip()
    if found == owner:
        return image
    own = f"trail-{image.partition(':')[0].rpartition('/')[2]}"
    text = f"FROM {image}\nUSER root\nRUN mkdir -p {folder} && chown {owner} {folder}\n"
    must(docker("build", "--quiet", "--tag", own, "-", typed=text))
    return own
