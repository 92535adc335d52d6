"""Programs that tests need and that are not Python packages. CI installs them; elsewhere the tests are skipped."""

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
    """Return the path of a program; `package` is the Debian package that has it.

    In CI, as root on Debian, install the package if the program is missing; otherwise skip the calling test.
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
    """Install a Debian package; one process at a time, and wait for other installations to release the dpkg lock."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]
    with Path(gettempdir(), "fastapi-trail-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", package]):
            # If it fails, its output is in pytest's report of the test.
            subprocess.run([*command, *arguments], env=environment, check=False, timeout=600)
