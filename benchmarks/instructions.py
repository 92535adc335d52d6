"""Checks that a request executes no more instructions than before: `python -m benchmarks.instructions UV [COMMIT]`.

valgrind's callgrind counts the instructions that the processor executes. Unlike a time, the count does not depend on
the load of the machine. It depends on the machine itself, so one run counts both the working tree and another commit,
HEAD by default. Each application runs twice, with few and with many requests; the difference of the two counts does not
include the startup.
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

from benchmarks.machine import format_versions, require_program, versions
from scripts.generate import generate, install
from scripts.snapshot import ROOT

FEW, MANY = 200, 1200
TOLERANCE = 0.03
"""The share by which the instructions of a request to the whole service may grow."""
IN_PROCESS = ROOT / "benchmarks" / "in_process.py"
PACKAGES = ("fastapi", "pydantic", "pydantic-core", "starlette", "starlette-context", "uvloop")


class Subject(NamedTuple):
    """An application of `in_process.py`, and its log format."""

    application: str
    log_format: str


SUBJECTS = {
    "middleware and access log alone, text": Subject("middleware", "text"),
    "middleware and access log alone, JSON": Subject("middleware", "json"),
    "service, text": Subject("service", "text"),
    "service, JSON": Subject("service", "json"),
    "bare FastAPI": Subject("fastapi", "text"),
}


def environment(project: Path, log: Path, log_format: str) -> dict[str, str]:
    """Return the same environment on each machine, since its size and the hash seed change the count."""
    logging = {"LOG_PATH": str(log), "LOG_FORMAT": log_format, "ACCESS_LOG_EXCLUDE": "/none"}
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "PYTHONHASHSEED": "0", "TZ": "UTC", **logging}


def command(project: Path, application: str, requests: int) -> list[str]:
    """Return the command that sends requests to an application."""
    return [str(project / ".venv/bin/python"), str(IN_PROCESS), application, str(requests)]


def count(project: Path, folder: Path, subject: Subject, requests: int) -> int:
    """Return the instructions of a process that sends requests; raise CalledProcessError if it fails."""
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
    """Run each application once, because the first import also compiles."""
    for application in sorted({subject.application for subject in SUBJECTS.values()}):
        variables = environment(project, folder / "warm", "text")
        subprocess.run(command(project, application, 1), cwd=project, env=variables, check=True)


def measure(project: Path, folder: Path) -> dict[str, int]:
    """Return the instructions per request, by subject."""
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
    """Generate a service from a commit; raise CalledProcessError if the commit does not exist."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as content:
        content.extractall(folder / "repository", filter="data")
    return generate(folder / "build", folder / "repository")


def print_table(now: Mapping[str, int], before: Mapping[str, int]) -> None:
    """Print both counts and the change of each subject."""
    print(f"{'before':>9}  {'now':>9}  {'change':>7}  instructions per request, mean of {MANY - FEW}")
    for name, found in now.items():
        print(f"{before[name]:>9,}  {found:>9,}  {found / before[name] - 1:>+7.1%}  {name}")


def find_regressions(now: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """Return a sentence for each figure of the whole service that has grown by more than TOLERANCE."""
    services = [name for name, subject in SUBJECTS.items() if subject.application == "service"]
    grown = [name for name in services if now[name] > before[name] * (1 + TOLERANCE)]
    return [f"{name}: the instructions per request grew by more than {TOLERANCE:.0%}." for name in grown]


def main(uv: Path, commit: str = "HEAD") -> int:
    """Generate both services, count and compare; return 1 if a figure has grown by more than TOLERANCE."""
    require_program("valgrind", "valgrind")
    with TemporaryDirectory() as name:
        # Both paths have the same length, because the environment contains them and its size changes the count.
        folders = [Path(name) / "now", Path(name) / "old"]
        projects = [generate(folders[0] / "build"), generate_from(commit, folders[1])]
        for project in projects:
            install(project, uv)
        by = versions(projects[0], PACKAGES) | {"machine": platform.machine()}
        now, before = (measure(project, folder) for project, folder in zip(projects, folders, strict=True))
    print_table(now, before)
    print(f"Python {by['python']}, {format_versions(dict(by))}.")
    regressions = find_regressions(now, before)
    print("\n".join(regressions), file=sys.stderr)
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
