"""Copy the files of the repository without caches, which would become part of a generated service."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "{{cookiecutter.project_slug}}"
MARK = Path("cookiecutter.json")
IGNORED = shutil.ignore_patterns(".git", ".uv", ".venv", "build", "__pycache__", ".*_cache", ".env", "*.log")


def known_files(root: Path = ROOT) -> list[Path]:
    """List the files that git tracks or does not ignore, relative to `root`; none if `root` is not a git checkout."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    files = {Path(os.fsdecode(name)) for name in listing.split(b"\0") if name}
    return sorted(file for file in files if (root / file).is_file()) if MARK in files else []


def copy_repository(target: Path, root: Path = ROOT) -> Path:
    """Copy the files of the repository to the new folder `target`, and return it.

    If `root` is not a git checkout, such as an unpacked archive, copy all files except caches, environments and logs.
    """
    files = known_files(root)
    if not files:
        shutil.copytree(root, target, ignore=IGNORED)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, target / file)
    return target
