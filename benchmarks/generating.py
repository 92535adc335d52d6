"""Generations by cookiecutter in fresh processes, from a copy of the repository, and how long they take."""

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

Way = Callable[[], Sequence[str | Path]]


class Taken(NamedTuple):
    """Seconds of a clock at the wall, and of processors, where they are known."""

    wall: float
    cpu: float | None = None


class Bench:
    """A copy of the template, and settings for cookiecutter that keep it out of the user's home, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = copy_repository(folder / "template")
        self.settings = folder / "settings.yaml"
        kept = {key: str(folder / key) for key in ("cookiecutters_dir", "replay_dir")}
        self.settings.write_text(json.dumps(kept), encoding="utf-8")  # JSON is YAML

    def command(self, *options: str, **answers: bool) -> list[str | Path]:
        """Give the command that generates into a fresh folder."""
        output = self.folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        where: list[str | Path] = ["--no-input", "--config-file", self.settings, "--output-dir", output]
        given = [f"{name}={value}" for name, value in answers.items()]
        return [sys.executable, "-m", "cookiecutter", self.template, *where, *options, *given]


def all_options() -> list[str]:
    """Give the names of the options that are on or off."""
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    return [name for name, default in questions.items() if isinstance(default, bool)]


def children() -> float:
    """Give the seconds that all child processes so far have had a processor, their own children included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(command: Sequence[str | Path], folder: Path) -> Taken:
    """Give the seconds of a command; raises SystemExit with its words when it fails."""
    began, cpu = time.perf_counter(), children()
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, env=clean_environment())
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Taken(time.perf_counter() - began, children() - cpu)


def all_rounds(ways: Mapping[str, Way], folder: Path) -> dict[str, list[Taken]]:
    """Give the seconds of each way, which take turns; the first round, which compiles, does not count."""
    found: dict[str, list[Taken]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name in sorted(ways, reverse=bool(number % 2)):
            taken = seconds(ways[name](), folder)
            if number:
                found[name].append(taken)
    return found


def generation(bench: Bench) -> dict[str, list[Taken]]:
    """Give the seconds of generations, and of commands that do a part of one."""
    off, on = (dict.fromkeys(all_options(), answer) for answer in (False, True))
    ways: dict[str, Way] = {
        "generation, defaults": bench.command,
        "generation, every option off": lambda: bench.command(**off),
        "generation, every option on": lambda: bench.command(**on),
        "part: Python started": lambda: [sys.executable, "-c", "pass"],
        "part: Python started, cookiecutter imported": lambda: [sys.executable, "-m", "cookiecutter", "--version"],
        "part: defaults, without hooks": lambda: bench.command("--accept-hooks", "no"),
    }
    return all_rounds(ways, bench.folder)
