"""Run a command in a terminal, as a user does, or without one, as a service manager does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from tests.support.process import kill_group
from tests.support.waiting import wait_for

# Runs a command in a pseudo-terminal. The standard input of this process is the keyboard.
IN_TERMINAL = """
import os, pty, sys
code = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(code if code >= 0 else 128 - code)  # a shell's exit code for a signal
"""


class Running:
    """A command in a process group of its own; `output` has everything that it has written so far."""

    def __init__(self, command: list[str], folder: Path, variables: Mapping[str, str], in_terminal: bool) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *command] if in_terminal else command,
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE if in_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Wait until the output contains `text`; AssertionError if the command exits first, or after `seconds`."""

        def is_written() -> bool:
            exited = not self._reader.is_alive()
            assert text in self.output or not exited, f"exited without {text!r}"
            return text in self.output

        try:
            wait_for(is_written, repr(text), seconds)
        except AssertionError as error:
            error.add_note(self.output)
            raise

    def type(self, keys: bytes) -> None:
        """Send keys to the terminal; only if the command runs in one."""
        assert self.process.stdin
        self.process.stdin.write(keys)
        self.process.stdin.flush()

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process group of the command."""
        os.killpg(self.process.pid, number)

    def wait_for_exit(self, seconds: float = 60) -> int:
        """Wait until the command exits; return its exit code, negative for a signal. Raises after `seconds`."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        assert not self._reader.is_alive(), f"a process that the command has started is still running:\n{self.output}"
        return code

    def stop(self, seconds: float = 20) -> None:
        """Stop the command and its process group with SIGTERM; kill them if they do not exit within `seconds`."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.signal_group(signal.SIGTERM)
            self.process.wait(seconds)
        kill_group(self.process)
        if self.process.stdin:
            self.process.stdin.close()
        self._reader.join(seconds)
        if self.process.stdout and not self._reader.is_alive():  # close() would wait for a running reader
            self.process.stdout.close()


@contextmanager
def running(
    command: list[str], folder: Path, variables: Mapping[str, str], in_terminal: bool = False
) -> Iterator[Running]:
    """Run a command for the duration of the context, and stop it."""
    started = Running(command, folder, variables, in_terminal)
    try:
        yield started
    finally:
        started.stop()
