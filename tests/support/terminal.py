"""Runs a command as a person does, in a terminal, or as a service manager does, without one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from tests.support.process import end_group
from tests.support.waiting import wait_for

# A person's terminal: what is written to this process's standard input is what they type.
IN_TERMINAL = """
import os, pty, sys
code = os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:]))
sys.exit(code if code >= 0 else 128 - code)  # as a shell tells of a signal
"""


class Running:
    """A command in a process group of its own, and everything that it has said so far."""

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
        self.said = ""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, words: str, seconds: float = 300) -> None:
        """Wait until the command has said `words`; fails when it ends before, or takes longer."""

        def is_said() -> bool:
            ended = not self._reader.is_alive()
            assert words in self.said or not ended, f"ended without {words!r}"
            return words in self.said

        try:
            wait_for(is_said, repr(words), seconds)
        except AssertionError as error:
            error.add_note(self.said)
            raise

    def type(self, keys: bytes) -> None:
        """Press keys; only in a terminal."""
        assert self.process.stdin
        self.process.stdin.write(keys)
        self.process.stdin.flush()

    def tell_group(self, number: signal.Signals) -> None:
        """Send a signal to the command and to all that it has started in its group."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end and give the exit code, negative for a signal; fails when it takes longer."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        assert not self._reader.is_alive(), f"something that it has started is still there:\n{self.said}"
        return code

    def leave(self, seconds: float = 20) -> None:
        """End the command and its group, by force when they do not within `seconds`."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.tell_group(signal.SIGTERM)
            self.process.wait(seconds)
        end_group(self.process)
        if self.process.stdin:
            self.process.stdin.close()
        self._reader.join(seconds)
        if self.process.stdout and not self._reader.is_alive():  # else close() would wait for the reader, for ever
            self.process.stdout.close()


@contextmanager
def running(
    command: list[str], folder: Path, variables: Mapping[str, str], in_terminal: bool = False
) -> Iterator[Running]:
    """Run a command for the time of a test."""
    started = Running(command, folder, variables, in_terminal)
    try:
        yield started
    finally:
        started.leave()
