"""Processes that tests start, signal and stop."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

from tests.support.logs import Logs

NO_LOG_CONTROL = {"LOG_CONTROL_BURST": "0", "LOG_CONTROL_ALERT_LEVEL": "OFF"}
"""Settings without rate limits and alerts, for a service with the option `log_control`: tests count every line."""

SETTLE_SECONDS = 0.2
"""The timeout of `settle` for a thread that never sleeps, such as one under full load."""


class Process(Logs):
    """A command in a project's environment, in a process group of its own, and its output files.

    `env` is added to the environment variables of every command: the project's commands on PATH, `work` as HOME.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(
        self, project: Path, work: Path, command: Sequence[str], env: Mapping[str, str], log_path: Path | None = None
    ) -> None:
        super().__init__(work, log_path)
        self.project = project
        self.command = list(command)
        self.env = {**environment_of(project), "HOME": str(work), "PYTHONUNBUFFERED": "1", **NO_LOG_CONTROL, **env}

    def launch(self) -> None:
        """Start the command; its output is appended to the same files."""
        self.work.mkdir(parents=True, exist_ok=True)
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            self._process = subprocess.Popen(
                self.command, cwd=self.project, env=self.env, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last; for gunicorn, the master."""
        assert self._process is not None, "not started"
        return self._process

    def signal(self, number: int) -> None:
        """Send a signal to the process, not to its group."""
        self.process.send_signal(number)

    def stop(self, number: int = SIGTERM, timeout: float = 30.0) -> int:
        """Stop the process with a signal, and return its exit code."""
        if self.process.poll() is None:
            self.signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Kill the process group."""
        if self._process is not None:
            kill_group(self._process)

    def workers(self) -> list[int]:
        """Return the process IDs of the child processes."""
        return children(self.process.pid)

    def settle(self) -> None:
        """Wait until each thread has been idle once: then pending work is done and its lines are written."""
        busy = threads(self.process.pid)
        deadline = time.monotonic() + SETTLE_SECONDS
        while (busy := [thread for thread in busy if is_busy(thread)]) and time.monotonic() < deadline:
            time.sleep(0.001)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a group, and all processes of the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)
    process.wait(10)


def children(pid: int) -> list[int]:
    """Return the process IDs of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def threads(pid: int) -> list[Path]:
    """Return the /proc folders of the threads of a process and of its descendants; none if it has exited."""
    found: list[Path] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found += Path(f"/proc/{pid}/task").iterdir()
        for child in children(pid):
            found += threads(child)
    return found


def is_busy(thread: Path) -> bool:
    """Whether a thread is running, or waiting for a processor or a disk (the states R and D in proc(5))."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (thread / "stat").read_text("utf-8").rpartition(")")[2].split()[0] in {"R", "D"}
    return False


def environment_of(project: Path) -> dict[str, str]:
    """Return environment variables with the project's commands on PATH, and nothing else."""
    return {"PATH": f"{project / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
