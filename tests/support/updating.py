"""Follows generated projects through their life: a template that moves on, owners with changes of their own, cruft."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cruft
import pytest

from scripts.snapshot import ROOT, TEMPLATE
from tests.support.baking import UV, files_below, must, run

STRANGE = ("GIT_", "XDG_", "EMAIL", "PYTHONDONTWRITEBYTECODE")
SETTINGS = """
[init]
defaultBranch = main
[user]
name = Olive Owner
email = olive@example.com
"""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another home, with an owner whom git knows, and no settings of this machine, for all tests of a file.

    Compiled Python is kept there: importing its packages is a third of the time of cruft.
    """
    folder = tmp_path_factory.mktemp("home")
    cache = must(run([UV, "cache", "dir"], ROOT)).stdout.strip()
    (folder / ".gitconfig").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(STRANGE)]:
            patch.delenv(name)
        variables = {"GIT_CONFIG_NOSYSTEM": "1", "UV_CACHE_DIR": cache}
        folders = {"HOME": folder, "USERPROFILE": folder, "PYTHONPYCACHEPREFIX": folder / "compiled"}
        for name, value in (folders | variables).items():
            patch.setenv(name, str(value))
        yield folder


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, and give what it says."""
    return must(run(["git", *words], folder)).stdout.strip()


def commit(folder: Path) -> str:
    """Commit everything that lies in a repository, and give the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=A change")
    return git(folder, "rev-parse", "HEAD")


def start(folder: Path) -> Path:
    """Make a folder a repository with everything in it committed, as an owner does with a new project."""
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def update(project: Path, **answers: bool | str) -> None:
    """Do what `cruft update --skip-apply-ask` does, within this process; with new answers to some questions."""
    assert cruft.update(project, skip_apply_ask=True, extra_context=answers)


def state(project: Path) -> dict[str, Any]:
    """Read .cruft.json."""
    read: dict[str, Any] = json.loads((project / ".cruft.json").read_text("utf-8"))
    return read


def asked(project: Path) -> dict[str, Any]:
    """Give the answers that .cruft.json holds, without what is private to the template."""
    answers = state(project)["context"]["cookiecutter"]
    return {key: value for key, value in answers.items() if not key.startswith("_")}


def contents(project: Path) -> dict[str, bytes]:
    """Give every file of a project with its bytes, but for what git, cruft and uv keep for themselves."""
    kept = (name for name in files_below(project) if not name.startswith((".git/", ".cruft.json", ".venv/")))
    return {name: (project / name).read_bytes() for name in kept}


def insert(path: Path, number: int, line: str) -> None:
    """Insert a line into a file; -1 is behind the last one."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    lines.insert(number if number >= 0 else len(lines), line + "\n")
    path.write_text("".join(lines), "utf-8")


def move_on(template: Path) -> str:
    """Change a file of the service, add one, remove one, in a commit of the template."""
    service = template / TEMPLATE
    insert(service / "Makefile", -1, "# A later thought of the template.")
    (service / "app" / "services" / "later.py").write_text('"""A later thought of the template."""\n')
    (service / "log_config.json").unlink()
    return commit(template)


def fork(template: Path, folder: Path, origin: str) -> Path:
    """Clone a template, and let the clone believe that it came from elsewhere."""
    git(template.parent, "clone", "--quiet", str(template), str(folder))
    git(folder, "remote", "set-url", "origin", origin)
    return folder


# Put into each Python that cruft starts: hooks are the scripts with a random name. What they do that can be seen from
# outside goes into a file; paths are relative to their folder, which is written first.
WATCH = """
import os, sys

hook = os.path.basename(sys.orig_argv[-1])
if hook.startswith("tmp") and hook.endswith(".py"):
    seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    home = os.getcwd()

    def note(*words):
        os.write(seen, (" ".join(map(str, words)) + "\\n").encode())

    def watch(event, args):
        if event.partition(".")[0] in ("socket", "subprocess") or event in ("os.system", "os.exec", "os.posix_spawn"):
            note("OUTSIDE", event, args)
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            path = os.path.realpath(os.path.join(home, os.fsdecode(args[0])))
            note("INSIDE" if path.startswith(home + os.sep) else "OUTSIDE", event, path)

    note("HOOK", home)
    sys.addaudithook(watch)
"""


def watched(folder: Path, seen: Path) -> dict[str, str]:
    """Give an environment in which every hook tells in the file `seen` what it does."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    return dict(os.environ) | {"PYTHONPATH": str(folder), "SEEN": str(seen)}
