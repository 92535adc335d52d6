"""A process that a test starts, tells things, and never leaves behind."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

from tests.support.logs import Logs

NOTHING_THINNED = {"LOG_CONTROL_BURST": "0", "LOG_CONTROL_ALERT_LEVEL": "OFF"}
"""Every line is counted, where a service has the option that thins them."""

MOST_BUSY_SECONDS = 0.2
"""How long `settle` waits for a thread that never sleeps, as one under full load."""


class Process(Logs):
    """A command of a project's environment, in a process group of its own, and the files that it writes to.

    `env` comes on top of what every such command gets: the project's commands on PATH, and `work` as HOME.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(
        self, project: Path, work: Path, command: Sequence[str], env: Mapping[str, str], log_path: Path | None = None
    ) -> None:
        super().__init__(work, log_path)
        self.project = project
        self.command = list(command)
        self.env = {**environment_of(project), "HOME": str(work), "PYTHONUNBUFFERED": "1", **NOTHING_THINNED, **env}

    def launch(self) -> None:
        """Start the command; its lines go on in the same files."""
        self.work.mkdir(parents=True, exist_ok=True)
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            self._process = subprocess.Popen(
                self.command, cwd=self.project, env=self.env, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last: a server's master."""
        assert self._process is not None, "not started"
        return self._process

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def stop(self, number: int = SIGTERM, timeout: float = 30.0) -> int:
        """Ask it to leave, and return its exit code."""
        if self.process.poll() is None:
            self.signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End the whole process group, whatever state it is in."""
        if self._process is not None:
            end_group(self._process)

    def workers(self) -> list[int]:
        """Return the process IDs of its children."""
        return children(self.process.pid)

    def settle(self) -> None:
        """Wait until each of its threads has slept since: whatever it had to do until now is done, and written."""
        awake = threads(self.process.pid)
        end = time.monotonic() + MOST_BUSY_SECONDS
        while (awake := [thread for thread in awake if is_awake(thread)]) and time.monotonic() < end:
            time.sleep(0.001)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and all of the group, whatever state they are in."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)
    process.wait(10)


def children(pid: int) -> list[int]:
    """Return the process IDs of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def threads(pid: int) -> list[Path]:
    """Return the folders in /proc of the threads of a process and of all that come from it; none when it has ended."""
    found: list[Path] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found += Path(f"/proc/{pid}/task").iterdir()
        for child in children(pid):
            found += threads(child)
    return found


def is_awake(thread: Path) -> bool:
    """Tell whether a thread runs, or waits for a processor or a disk (proc(5), stat)."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (thread / "stat").read_text("utf-8").rpartition(")")[2].split()[0] in {"R", "D"}
    return False


def environment_of(project: Path) -> dict[str, str]:
    """Return an environment in which the project's own commands are found, and nothing else is set."""
    return {"PATH": f"{project / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
