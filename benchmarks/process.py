"""Runs a subject under gunicorn with one worker that is pinned to one processor."""

import os
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.environments import Environment, environment_variables
from benchmarks.subject import Subject
from tests.support.service import Service
from tests.support.waiting import wait_for

PATH = "/api/bench"


class Memory(NamedTuple):
    """Memory of a process in bytes: `rss` counts shared pages in full, `pss` divides them by the processes."""

    pss: int
    rss: int


class RunningSubject(Service):
    """A subject as a context manager that starts it and leaves no process behind; `boot` is in seconds."""

    interval = 0.002

    def __init__(self, subject: Subject, environment: Environment, folder: Path, core: int) -> None:
        self.subject, self.folder, self.log, self.boot = subject, folder, folder / "access.log", 0.0
        folder.mkdir(parents=True, exist_ok=True)
        pinned = ["taskset", "-c", str(core), str(environment.bin / "gunicorn")]
        own = environment.project if subject.is_ours else None
        super().__init__(own or folder, folder, command=lambda _app, port: [*pinned, *self._options(port)])
        self.env = environment_variables(subject, environment, folder, self.port)

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
        heartbeat = ["--worker-tmp-dir", "/dev/shm"] if os.access("/dev/shm", os.W_OK) else []
        return [*common, *heartbeat, "--worker-class", subject.worker, *log, *subject.options, f"{subject.app}:app"]

    def is_ready(self) -> bool:
        """Return whether a request is answered; it may wait in the listen queue until the worker runs."""
        try:
            response = self.request("GET", PATH)
        except (OSError, EOFError):
            return False
        assert response.status == HTTPStatus.OK, f"{self.subject.title} responded {response.status}, expected 200."
        return True

    def processor_time(self) -> float:
        """Return the CPU time of all threads of the worker in microseconds (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.worker}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000

    def memory(self) -> Memory:
        """Return the memory of the worker (proc(5), smaps_rollup)."""
        lines = Path(f"/proc/{self.worker}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return Memory(kilobytes["Pss"] * 1024, kilobytes["Rss"] * 1024)

    def truncate_logs(self) -> None:
        """Truncate the log files, so that the disk does not fill up; all subjects open them in append mode."""
        for log in self.folder.glob("*.log"):
            os.truncate(log, 0)

    def check(self) -> None:
        """Send one request; raise RuntimeError if its response or access log line is not as the subject requires."""
        self.truncate_logs()
        response = self.request("GET", PATH)
        body, header = response.json(), "".join(response.header_values("X-Request-ID"))
        expected = {
            "code": 0,
            "message": "success",
            "cause": "",
            "request_id": body.get("request_id"),
            "result": "demo",
        }
        if response.status != HTTPStatus.OK or body != expected:
            raise RuntimeError(f"{self.subject.title} responded {response.status} {body}, expected 200 {expected}.")
        if self.subject.has_id and (not header or header != body["request_id"]):
            raise RuntimeError(f"{self.subject.title} has {header} in the header and {body['request_id']} in the body.")
        self._check_log(body["request_id"])
        self._check_libraries()

    def _check_libraries(self) -> None:
        """Raise RuntimeError if the worker has not loaded uvloop and httptools; the `asgi` worker needs only uvloop."""
        loaded = Path(f"/proc/{self.worker}/maps").read_text("utf-8", "replace")
        for library in ("uvloop", *(() if self.subject.worker == "asgi" else ("httptools",))):
            if f"/{library}/" not in loaded:
                raise RuntimeError(f"{self.subject.title} has not loaded {library}.")

    def _check_log(self, request_id: str) -> None:
        """Wait for the access log line, which may follow the response; if none is expected, check the log when idle."""
        if self.subject.line:
            title = self.subject.title
            wait_for(
                lambda: any(self.subject.matches(line, request_id) for line in self._lines()),
                f"the access log line of {title}",
            )
            return
        self.settle()
        if lines := self._lines():
            raise RuntimeError(f"{self.subject.title} must not log request {request_id}, but wrote: {lines}")

    def _lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines() if self.log.exists() else []
