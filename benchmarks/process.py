"""A subject that is served: by gunicorn, with one worker, on a processor of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.environments import Environment, variables_of
from benchmarks.subject import Subject

PATH = "/api/bench"
START_SECONDS = 60
LINE_SECONDS = 2


class Memory(NamedTuple):
    """Bytes of a process: `pss` counts a page that several share in parts, `rss` counts it whole."""

    pss: int
    rss: int


class Served:
    """A running subject; a context manager that leaves no process behind. `boot` is in seconds."""

    def __init__(self, subject: Subject, environment: Environment, folder: Path, core: int) -> None:
        self.subject, self.environment, self.folder, self.core = subject, environment, folder, core
        self.log = folder / "access.log"
        self.boot = 0.0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        variables = variables_of(self.subject, self.environment, self.folder, self.port)
        own = self.environment.project if self.subject.is_ours else None
        command = ["taskset", "-c", str(self.core), str(self.environment.bin / "gunicorn"), *self._options()]
        with (self.folder / "output").open("wb") as output:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                command, cwd=own or self.folder, env=variables, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait()
            self.boot = time.perf_counter() - began
            self.worker = self._worker()
        except BaseException as error:
            self.__exit__(None, None, None)
            error.add_note((self.folder / "output").read_text("utf-8", "replace"))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def _options(self) -> list[str]:
        subject = self.subject
        if subject.is_ours:
            return ["-c", "gun.py", f"{subject.app}:app"]
        log = ["--access-logfile", str(self.log)] if subject.line and not subject.opens_log else []
        common = ["--bind", f"127.0.0.1:{self.port}", "--workers", "1", "--no-control-socket"]
        heart = ["--worker-tmp-dir", "/dev/shm"] if os.access("/dev/shm", os.W_OK) else []
        return [*common, *heart, "--worker-class", subject.worker, *log, *subject.options, f"{subject.app}:app"]

    def _wait(self) -> None:
        """Wait for the first answer; the master accepts, and keeps the request until the worker is there."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.subject.title} ended with {self.process.returncode} at its start.")
            with contextlib.suppress(OSError):
                status, _ = ask(self.port)
                if status == HTTPStatus.OK:
                    return
                raise RuntimeError(f"{self.subject.title} answers {status}.")
            time.sleep(0.002)
        raise RuntimeError(f"{self.subject.title} has not answered within {START_SECONDS} s.")

    def _worker(self) -> int:
        pid = self.process.pid
        (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(worker)

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
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            body, header = json.loads(answer.read()), answer.getheader("X-Request-ID")
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
        """Wait for the line, which may follow the answer; where there must be none, wait a little for that too."""
        end = time.monotonic() + (LINE_SECONDS if self.subject.line else LINE_SECONDS / 10)
        lines: list[str] = []
        while time.monotonic() < end:
            lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
            if any(self.subject.matches(line, request_id) for line in lines):
                return
            time.sleep(0.01)
        if self.subject.line or lines:
            raise RuntimeError(f"{self.subject.title} has left these lines for the request {request_id}: {lines}")


def ask(port: int) -> tuple[int, bytes]:
    """Make one request, and give status and body."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as connection:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        return answer.status, answer.read()


def free_port() -> int:
    """Give a port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
