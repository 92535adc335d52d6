"""Times the generation of projects by cookiecutter, each in a new process, from a copy of the repository."""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.generate import clean_environment
from scripts.snapshot import ROOT, copy_repository

ROUNDS = 7

MakeCommand = Callable[[], Sequence[str | Path]]
"""Prepares a run and returns its command."""


class Duration(NamedTuple):
    """Seconds of wall clock, and of CPU time if it was measured."""

    wall: float
    cpu: float | None = None


class Bench:
    """A copy of the template in `folder`, with cookiecutter settings that keep its files out of the user's home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = copy_repository(folder / "template")
        self.settings = folder / "settings.yaml"
        folders = {key: str(folder / key) for key in ("cookiecutters_dir", "replay_dir")}
        self.settings.write_text(json.dumps(folders), encoding="utf-8")  # JSON is YAML

    def command(self, *options: str, **answers: bool) -> list[str | Path]:
        """Empty the output folder and return the command that generates a project into it."""
        output = self.folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        where: list[str | Path] = ["--no-input", "--config-file", self.settings, "--output-dir", output]
        given = [f"{name}={value}" for name, value in answers.items()]
        return [sys.executable, "-m", "cookiecutter", self.template, *where, *options, *given]


def all_options() -> list[str]:
    """Return the names of the boolean options."""
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    return [name for name, default in questions.items() if isinstance(default, bool)]


def children_cpu_time() -> float:
    """Return the seconds of CPU time of all finished child processes and their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_timed(command: Sequence[str | Path], folder: Path) -> Duration:
    """Run a command and return its duration; raise SystemExit with its output if it fails."""
    began, cpu = time.perf_counter(), children_cpu_time()
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, env=clean_environment())
    if done.returncode:
        raise SystemExit(f"{command[0]} exited with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return Duration(time.perf_counter() - began, children_cpu_time() - cpu)


def all_rounds(commands: Mapping[str, MakeCommand], folder: Path) -> dict[str, list[Duration]]:
    """Return the durations of each command in interleaved rounds; the first round, which compiles, is discarded."""
    found: dict[str, list[Duration]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name in sorted(commands, reverse=bool(number % 2)):
            duration = run_timed(commands[name](), folder)
            if number:
                found[name].append(duration)
    return found


def time_generation(bench: Bench) -> dict[str, list[Duration]]:
    """Return the durations of whole generations and of commands that run only the first steps of one."""
    off, on = (dict.fromkeys(all_options(), answer) for answer in (False, True))
    commands: dict[str, MakeCommand] = {
        "generation, default options": bench.command,
        "generation, all options off": lambda: bench.command(**off),
        "generation, all options on": lambda: bench.command(**on),
        "part: start of Python": lambda: [sys.executable, "-c", "pass"],
        "part: start of Python, import of cookiecutter": lambda: [sys.executable, "-m", "cookiecutter", "--version"],
        "part: default options, without hooks": lambda: bench.command("--accept-hooks", "no"),
    }
    return all_rounds(commands, bench.folder)
