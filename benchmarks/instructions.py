"""Guards the length of a request's path: `python -m benchmarks.instructions UV [--store]`.

It counts the instructions that the processor executes for a request, by valgrind's callgrind: unlike a time, they are
the same on a busy machine. Each application is run twice, with few and with many requests, and what the runs have in
common, the start, falls out of the difference. The figures are compared with those in
`benchmarks/results/instructions.json`, which hold for one version of Python and of the packages; `--store` writes them.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.machine import as_text, require_program, versions
from benchmarks.stored_instructions import faults, store
from scripts.generate import generate, install
from scripts.snapshot import ROOT

FEW, MANY = 200, 1200
IN_PROCESS = ROOT / "benchmarks" / "in_process.py"
PACKAGES = ("fastapi", "pydantic", "pydantic-core", "starlette", "starlette-context", "uvloop")


class Subject(NamedTuple):
    """An application of `in_process.py`, and the form of its lines."""

    application: str
    log_format: str


SUBJECTS = {
    "trivial application": Subject("trivial", "text"),
    "middleware and access line around it, text": Subject("door", "text"),
    "middleware and access line around it, JSON": Subject("door", "json"),
    "bare FastAPI": Subject("fastapi", "text"),
    "service, text": Subject("service", "text"),
    "service, JSON": Subject("service", "json"),
}


def environment(project: Path, log: Path, log_format: str) -> dict[str, str]:
    """Give an environment that is the same on each machine, since its size and the hashes move the count."""
    lines = {"LOG_PATH": str(log), "LOG_FORMAT": log_format, "ACCESS_LOG_EXCLUDE": "/none"}
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "PYTHONHASHSEED": "0", "TZ": "UTC", **lines}


def command(project: Path, application: str, requests: int) -> list[str]:
    """Give the command that makes requests of an application."""
    return [str(project / ".venv/bin/python"), str(IN_PROCESS), application, str(requests)]


def count(project: Path, folder: Path, subject: Subject, requests: int) -> int:
    """Give the instructions of a process that makes requests; raises CalledProcessError when it fails."""
    name = f"{subject.application}-{subject.log_format}-{requests}"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / name}.out"]
    done = subprocess.run(
        [*valgrind, *command(project, subject.application, requests)],
        cwd=project,
        env=environment(project, folder / name, subject.log_format),
        check=True,
        capture_output=True,
        text=True,
    )
    (collected,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(collected)


def warm_up(project: Path, folder: Path) -> None:
    """Run each application once, since the first import also compiles."""
    for application in sorted({subject.application for subject in SUBJECTS.values()}):
        variables = environment(project, folder / "warm", "text")
        subprocess.run(command(project, application, 1), cwd=project, env=variables, check=True)


def measure(project: Path, folder: Path) -> dict[str, int]:
    """Give the instructions of a request for each subject."""
    warm_up(project, folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {
            (name, requests): pool.submit(count, project, folder, subject, requests)
            for name, subject in SUBJECTS.items()
            for requests in (FEW, MANY)
        }
    difference = {name: runs[name, MANY].result() - runs[name, FEW].result() for name in SUBJECTS}
    return {name: round(total / (MANY - FEW)) for name, total in difference.items()}


def show(found: Mapping[str, int], by: Mapping[str, str]) -> None:
    """Print the table."""
    print(f"Instructions for each of {MANY - FEW} requests; Python {by['python']}, {as_text(dict(by))}.")
    for name, instructions in found.items():
        print(f"{instructions:>9,}  {instructions / found['bare FastAPI']:5.2f} of bare FastAPI  {name}")


def main(uv: Path, *options: str) -> int:
    """Generate a service, count, and compare or store; 0 when each figure is as it was, or has been stored."""
    require_program("valgrind", "valgrind")
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build")
        install(project, uv)
        by = versions(project, PACKAGES) | {"machine": platform.machine()}
        found = measure(project, Path(name))
    show(found, by)
    minor = by["python"].rpartition(".")[0]
    if "--store" in options:
        store(minor, found, by)
        return 0
    sentences = faults(minor, found, by)
    print("\n".join(sentences), file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
