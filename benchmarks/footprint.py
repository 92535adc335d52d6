"""Memory, boot time and import time of each subject, measured while no other subject runs."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import Environment, environment_variables
from benchmarks.load import Cores, measure
from benchmarks.process import Memory, RunningSubject
from benchmarks.subject import Subject

TIMES = 5


class Footprint(NamedTuple):
    """Boot and import times in seconds, one per run; memory in bytes after one second of load."""

    boots: list[float]
    walls: list[float]
    cpus: list[float]
    memory: Memory

    @property
    def boot(self) -> float:
        """Median seconds from the start of gunicorn to the first response."""
        return statistics.median(self.boots)

    @property
    def import_wall(self) -> float:
        """Median seconds to import the application, by the wall clock."""
        return statistics.median(self.walls)

    @property
    def import_cpu(self) -> float:
        """Median seconds of CPU time to import the application."""
        return statistics.median(self.cpus)


Subjects = Mapping[str, tuple[Subject, Environment]]


def measure_footprints(subjects: Subjects, folder: Path, cores: Cores) -> dict[str, Footprint]:
    """Measure the subjects in turn; only one runs at a time, as PSS divides a page by the processes that share it."""
    found = {}
    for name, what in subjects.items():
        import_time(*what, folder / name)  # the first import also compiles
        found[name] = Footprint([], [], [], check_and_measure_memory(*what, folder / name, cores))
        print(f"checked: {what[0].title}", file=sys.stderr)
    for _ in range(TIMES):
        for name, what in subjects.items():
            wall, cpu = import_time(*what, folder / name)
            found[name].walls.append(wall)
            found[name].cpus.append(cpu)
            with RunningSubject(*what, folder / name, cores.server) as served:
                found[name].boots.append(served.boot)
    return found


def check_and_measure_memory(subject: Subject, environment: Environment, folder: Path, cores: Cores) -> Memory:
    """Check the subject's response and access log line, and return its memory after one second of load."""
    with RunningSubject(subject, environment, folder, cores.server) as served:
        served.check()
        measure(served, cores.load, seconds=1)
        return served.memory()


def import_time(subject: Subject, environment: Environment, folder: Path) -> tuple[float, float]:
    """Return the seconds of wall clock and of CPU time in which a new interpreter imports the application."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = environment_variables(subject, environment, folder)
    command = [str(environment.python), "-c", f"import {subject.app}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=variables, cwd=folder)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended - began, used


def write_cost(folder: Path, size: int = 150, count: int = 50_000) -> float:
    """Return the microseconds of CPU time of one `os.write` that appends `size` bytes to a file."""
    line = b"x" * (size - 1) + b"\n"
    descriptor = os.open(folder / "floor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        began = time.process_time()
        for _ in range(count):
            os.write(descriptor, line)
        return (time.process_time() - began) / count * 1e6
    finally:
        os.close(descriptor)
        (folder / "floor.log").unlink()
