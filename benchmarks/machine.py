"""What a benchmark needs of the machine, and what it says of it beside its figures."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def require_program(name: str, package: str) -> None:
    """Raise SystemExit with a sentence when a program is not on PATH; `package` is Debian's that brings it."""
    if shutil.which(name) is None:
        raise SystemExit(f"This benchmark needs {name}, which is not on PATH: install it (apt-get install {package}).")


def processor() -> str:
    """Give the processor's name, or its architecture where the kernel does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def about(python: str) -> str:
    """Give Python's version and the machine's facts in a line, without what would tell whose machine it is."""
    kernel = ".".join(platform.release().split(".")[:2])
    return f"Python {python}, {processor()}, {os.cpu_count()} processors, Linux {kernel}"


def versions(project: Path, packages: Sequence[str]) -> dict[str, str]:
    """Give the versions of `python` and of packages in the environment of a generated service."""
    code = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(project / ".venv/bin/python"), "-c", code, *packages]
    found: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def as_text(found: dict[str, str]) -> str:
    """Give the versions of packages in a line."""
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()) if name != "python")
