"""The programs that a benchmark requires, and the description of the machine for the results pages."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def require_program(name: str, package: str) -> None:
    """Raise SystemExit if a program is not on PATH; `package` is the Debian package that provides it."""
    if shutil.which(name) is None:
        raise SystemExit(f"This benchmark needs {name}, which is not on PATH. Install it: apt-get install {package}")


def processor_name() -> str:
    """Return the model name of the processor, or its architecture if the kernel does not report a name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def describe_machine(python: str) -> str:
    """Return Python's version, the processor and the kernel in one line, without a host name."""
    kernel = ".".join(platform.release().split(".")[:2])
    return f"Python {python}, {processor_name()}, {os.cpu_count()} processors, Linux {kernel}"


def versions(project: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of `python` and of packages in the environment of a generated service."""
    code = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(project / ".venv/bin/python"), "-c", code, *packages]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def format_versions(found: dict[str, str]) -> str:
    """Return the versions of packages in one line, sorted by name."""
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()) if name != "python")
