"""A subject that is served: by gunicorn, with one worker, on a processor of its own."""

import os
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.environments import Environment, variables_of
from benchmarks.subject import Subject
from tests.support.service import Service
from tests.support.waiting import wait_for

PATH = "/api/bench"


class Memory(NamedTuple):
    """Bytes of a process: `pss` counts a page that several share in parts, `rss` counts it whole."""

    pss: int
    rss: int


class Served(Service):
    """A running subject; a context manager that leaves no process behind. `boot` is in seconds."""

    interval = 0.002

    def __init__(self, subject: Subject, environment: Environment, folder: Path, core: int) -> None:
        self.subject, self.folder, self.log, self.boot = subject, folder, folder / "access.log", 0.0
        folder.mkdir(parents=True, exist_ok=True)
        pinned = ["taskset", "-c", str(core), str(environment.bin / "gunicorn")]
        own = environment.project if subject.is_ours else None
        super().__init__(own or folder, folder, command=lambda _app, port: [*pinned, *self._options(port)])
        self.env = variables_of(subject, environment, folder, self.port)

    def __enter__(self) -> Self:
        began = time.perf_counter()
        super().__enter__()
        self.boot = time.perf_counter() - began
        (self.worker,) = self.workers()
        return self

    def _options(self, port: int) -> list[str]:
        subject = self.subject
        if subject.is_ours:
            return ["-c", "gun.py", f"{subject.app}:app"]
        log = ["--access-logfile", str(self.log)] if subject.line and not subject.opens_log else []
        common = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--no-control-socket"]
        heart = ["--worker-tmp-dir", "/dev/shm"] if os.access("/dev/shm", os.W_OK) else []
        return [*common, *heart, "--worker-class", subject.worker, *log, *subject.options, f"{subject.app}:app"]

    def is_ready(self) -> bool:
        """Ask; the master accepts, and keeps the request until the worker is there."""
        try:
            answer = self.request("GET", PATH)
        except (OSError, EOFError):
            return False
        assert answer.status == HTTPStatus.OK, f"{self.subject.title} answers {answer.status}."
        return True

    def processor_time(self) -> float:
        """Give the microseconds that the worker's threads have had a processor (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.worker}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000

    def memory(self) -> Memory:
        """Give the worker's memory (proc(5), smaps_rollup)."""
        lines = Path(f"/proc/{self.worker}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return Memory(kilobytes["Pss"] * 1024, kilobytes["Rss"] * 1024)

    def forget_lines(self) -> None:
        """Empty the log, so that no disk fills up; all subjects append."""
        for log in self.folder.glob("*.log"):
            os.truncate(log, 0)

    def check(self) -> None:
        """Ask once; raise RuntimeError where the answer or the line is not what the subject claims."""
        self.forget_lines()
        answer = self.request("GET", PATH)
        body, header = answer.json(), "".join(answer.all("X-Request-ID"))
        wanted = {"code": 0, "message": "success", "cause": "", "request_id": body.get("request_id"), "result": "demo"}
        if answer.status != HTTPStatus.OK or body != wanted:
            raise RuntimeError(f"{self.subject.title} answers {answer.status} {body}.")
        if self.subject.has_id and (not header or header != body["request_id"]):
            raise RuntimeError(f"{self.subject.title} has {header} in the header and {body['request_id']} in the body.")
        self._check_line(body["request_id"])
        self._check_parts()

    def _check_parts(self) -> None:
        """Raise RuntimeError where the worker runs without the fast loop, or without the fast parser."""
        loaded = Path(f"/proc/{self.worker}/maps").read_text("utf-8", "replace")
        for part in ("uvloop", *(() if self.subject.worker == "asgi" else ("httptools",))):
            if f"/{part}/" not in loaded:
                raise RuntimeError(f"{self.subject.title} does not run on {part}.")

    def _check_line(self, request_id: str) -> None:
        """Wait for the line, which may follow the answer; where there must be none, look when the worker is done."""
        if self.subject.line:
            title = self.subject.title
            wait_for(lambda: any(self.subject.matches(line, request_id) for line in self._lines()), f"{title}'s line")
            return
        self.settle()
        if lines := self._lines():
            raise RuntimeError(f"{self.subject.title} has left these lines for the request {request_id}: {lines}")

    def _lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []
