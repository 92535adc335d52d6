"""What a subject costs before its first request: memory, time to boot, time to import; each measured alone."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import Environment, variables_of
from benchmarks.load import Cores, measure
from benchmarks.process import Memory, Served
from benchmarks.subject import Subject

TIMES = 5


class Footprint(NamedTuple):
    """Seconds, one figure for each of TIMES; bytes, after a second of load."""

    boots: list[float]
    walls: list[float]
    cpus: list[float]
    memory: Memory

    @property
    def boot(self) -> float:
        """Seconds from the start of gunicorn to the first answer."""
        return statistics.median(self.boots)

    @property
    def import_wall(self) -> float:
        """Seconds of the clock to import the application."""
        return statistics.median(self.walls)

    @property
    def import_cpu(self) -> float:
        """Seconds of the processor to import the application."""
        return statistics.median(self.cpus)


Subjects = Mapping[str, tuple[Subject, Environment]]


def all_footprints(subjects: Subjects, folder: Path, cores: Cores) -> dict[str, Footprint]:
    """Measure in turns, while no other subject runs: pages that other processes share would count in part."""
    found = {}
    for name, what in subjects.items():
        import_time(*what, folder / name)  # writes the bytecode
        found[name] = Footprint([], [], [], check_alone(*what, folder / name, cores))
        print(f"checked: {what[0].title}", file=sys.stderr)
    for _ in range(TIMES):
        for name, what in subjects.items():
            wall, cpu = import_time(*what, folder / name)
            found[name].walls.append(wall)
            found[name].cpus.append(cpu)
            with Served(*what, folder / name, cores.server) as served:
                found[name].boots.append(served.boot)
    return found


def check_alone(subject: Subject, environment: Environment, folder: Path, cores: Cores) -> Memory:
    """Check that a subject does what it claims, and give its memory after a second of load."""
    with Served(subject, environment, folder, cores.server) as served:
        served.check()
        measure(served, cores.load, seconds=1)
        return served.memory()


def import_time(subject: Subject, environment: Environment, folder: Path) -> tuple[float, float]:
    """Give the seconds, of the clock and of the processor, of a fresh interpreter that imports the application."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = variables_of(subject, environment, folder)
    command = [str(environment.python), "-c", f"import {subject.app}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=variables, cwd=folder)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended - began, used


def write_cost(folder: Path, size: int = 150, count: int = 50_000) -> float:
    """Give the microseconds of processor time of one `os.write` that appends `size` bytes to a file."""
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
