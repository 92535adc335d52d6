"""The generated service under gunicorn: started, listened to, stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import IO, TextIO

from scripts.generate import clean_environment

# Longer than the service's own graceful timeout, so that it is the service that decides.
PATIENCE = 40.0


def wait_until(moment: float) -> bool:
    """Sleep a little; True as long as the monotonic time `moment`, in seconds, is ahead."""
    time.sleep(0.02)
    return time.monotonic() < moment


class Server:
    """Gunicorn in the project's folder, with every line it writes kept, and shown once `echo` is set."""

    def __init__(self, project: Path, host: str, port: int) -> None:
        """Start the server; nothing of the terminal reaches it, so Ctrl-C stops it by way of `stop` only."""
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
        """Start the thread that keeps, and shows, what comes out of one pipe."""

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
    def runs(self) -> bool:
        """Whether the server's main process is there."""
        return self.process.poll() is None

    def lines_with(self, text: str, lines: list[str], seconds: float) -> list[str]:
        """Give the lines that hold `text`, waiting up to `seconds` for the first one."""
        end = time.monotonic() + seconds
        while not any(text in line for line in lines) and self.runs and wait_until(end):
            pass
        return [line for line in lines if text in line]

    def join(self) -> int:
        """Wait for the end of the server, then of its lines; give its exit code."""
        code = self.process.wait()
        for reader, pipe in zip(self._readers, (self.process.stdout, self.process.stderr), strict=True):
            reader.join()
            if pipe:
                pipe.close()
        return code

    def stop(self) -> None:
        """Let the server finish what it began, and end it; after PATIENCE seconds it is killed with its workers."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.join()
