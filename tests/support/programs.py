"""Programs that tests need and no Python package brings: in CI they are installed, elsewhere their absence skips."""

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import gettempdir

import pytest


@cache
def program(name: str, package: str) -> Path:
    """Give the path of a program; `package` is the Debian package that brings it.

    In CI, as root on Debian, the package is installed; else the test that asks is skipped, with a sentence.
    """
    if shutil.which(name) is None and os.environ.get("CI") == "true" and _may_install():
        _install(package)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: install the Debian package {package}.")
    return Path(found)


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(package: str) -> None:
    """Install a Debian package; one process at a time, and after what else installs packages at that moment."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
    with Path(gettempdir(), "fastapi-trail-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", package]):
            subprocess.run([*command, *words], env=environment, check=False, timeout=600)  # pytest shows what it says
