"""Guards the length of a request's path: `python -m benchmarks.instructions UV [COMMIT]`.

It counts the instructions that the processor executes for a request, by valgrind's callgrind: unlike a time, they are
the same on a busy machine. The repository as it lies here and as it is in another commit, by default HEAD, are counted
in one run, since the figures depend on the machine. Each application is run twice, with few and with many requests, and
what the runs have in common, the start, falls out of the difference.
"""

import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.machine import as_text, require_program, versions
from scripts.generate import generate, install
from scripts.snapshot import ROOT

FEW, MANY = 200, 1200
TOLERANCE = 0.03
"""The share by which the figure of a whole request may grow."""
IN_PROCESS = ROOT / "benchmarks" / "in_process.py"
PACKAGES = ("fastapi", "pydantic", "pydantic-core", "starlette", "starlette-context", "uvloop")


class Subject(NamedTuple):
    """An application of `in_process.py`, and the form of its lines."""

    application: str
    log_format: str


SUBJECTS = {
    "middleware and access line alone, text": Subject("door", "text"),
    "middleware and access line alone, JSON": Subject("door", "json"),
    "service, text": Subject("service", "text"),
    "service, JSON": Subject("service", "json"),
    "bare FastAPI": Subject("fastapi", "text"),
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


def generate_from(commit: str, folder: Path) -> Path:
    """Generate a service from a commit; raises CalledProcessError where there is no such commit."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as content:
        content.extractall(folder / "repository", filter="data")
    return generate(folder / "build", folder / "repository")


def show(now: Mapping[str, int], before: Mapping[str, int]) -> None:
    """Print the table."""
    print(f"{'before':>9}  {'now':>9}  {'change':>7}  instructions for each of {MANY - FEW} requests")
    for name, found in now.items():
        print(f"{before[name]:>9,}  {found:>9,}  {found / before[name] - 1:>+7.1%}  {name}")


def faults(now: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """Give a sentence for each figure of the whole service that has grown further than it may."""
    whole = [name for name, subject in SUBJECTS.items() if subject.application == "service"]
    grown = [name for name in whole if now[name] > before[name] * (1 + TOLERANCE)]
    return [f"{name}: more than {TOLERANCE:.0%} more instructions. Shorten the path again." for name in grown]


def main(uv: Path, commit: str = "HEAD") -> int:
    """Generate both services, count, and compare; 0 where no figure has grown further than it may."""
    require_program("valgrind", "valgrind")
    with TemporaryDirectory() as name:
        folders = [Path(name) / "now", Path(name) / "old"]  # of one length, as the names are part of what is run
        projects = [generate(folders[0] / "build"), generate_from(commit, folders[1])]
        for project in projects:
            install(project, uv)
        by = versions(projects[0], PACKAGES) | {"machine": platform.machine()}
        now, before = (measure(project, folder) for project, folder in zip(projects, folders, strict=True))
    show(now, before)
    print(f"Python {by['python']}, {as_text(dict(by))}.")
    sentences = faults(now, before)
    print("\n".join(sentences), file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
