"""Run the generated service under gunicorn, and collect its output."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import IO, TextIO

from scripts.generate import clean_environment

# Longer than the service's GRACEFUL_TIMEOUT, so that gunicorn can finish its graceful shutdown.
STOP_TIMEOUT_SECONDS = 40.0


def sleep_before(deadline: float) -> bool:
    """Sleep 20 ms; return whether the monotonic time `deadline`, in seconds, is still ahead."""
    time.sleep(0.02)
    return time.monotonic() < deadline


class Server:
    """Gunicorn in the project's folder; collects every line that it writes, and prints them while `echo` is set."""

    def __init__(self, project: Path, host: str, port: int) -> None:
        """Start the server in its own process group, which Ctrl-C in the terminal does not signal; `stop` stops it."""
        settings = {"HOST": host, "PORT": str(port), "LOG_PATH": "", "LOG_FORMAT": "text", "PYTHONUNBUFFERED": "1"}
        self.echo = False
        self.process = subprocess.Popen(
            [str(project / ".venv" / "bin" / "python"), "-m", "gunicorn", "-c", "gun.py"],
            cwd=project,
            env=clean_environment() | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            self._reader(self.process.stdout, self.out, sys.stdout),
            self._reader(self.process.stderr, self.err, sys.stderr),
        ]

    def _reader(self, pipe: IO[bytes] | None, lines: list[str], screen: TextIO) -> Thread:
        """Start the thread that collects, and with `echo` prints, the lines of one pipe."""

        def read() -> None:
            for raw in pipe or ():
                line = raw.decode(errors="replace").rstrip("\n")
                lines.append(line)
                if self.echo:
                    print(line, file=screen, flush=True)

        thread = Thread(target=read, daemon=True)
        thread.start()
        return thread

    @property
    def is_running(self) -> bool:
        """Whether the gunicorn master process is running."""
        return self.process.poll() is None

    def lines_with(self, text: str, lines: list[str], seconds: float) -> list[str]:
        """Return the lines that contain `text`; wait up to `seconds` for the first one."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in lines) and self.is_running and sleep_before(deadline):
            pass
        return [line for line in lines if text in line]

    def join(self) -> int:
        """Wait until the server has exited and its output is read; return its exit code."""
        code = self.process.wait()
        for reader, pipe in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join()
            if pipe:
                pipe.close()
        return code

    def stop(self) -> None:
        """Shut the server down gracefully; after STOP_TIMEOUT_SECONDS kill it and its workers."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.join()
