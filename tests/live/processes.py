"""A process that a test starts, tells things, and never leaves behind."""

import contextlib
import os
import subprocess
from pathlib import Path
from signal import SIGKILL, SIGTERM

from .logs import Logs

NOTHING_THINNED = {"LOG_CONTROL_BURST": "0", "LOG_CONTROL_ALERT_LEVEL": "OFF"}
"""Every line is counted, where a service has the option that thins them."""


class Process(Logs):
    """A command in a process group of its own, and the files that it writes to."""

    _process: subprocess.Popen[bytes] | None = None

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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, SIGKILL)
            self._process.wait(10)

    def workers(self) -> list[int]:
        """Return the process IDs of its children."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
