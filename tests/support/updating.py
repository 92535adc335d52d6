"""Update generated projects with cruft: change the template and the project, and read .cruft.json."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cruft
import pytest

from scripts.snapshot import ROOT, TEMPLATE
from tests.support.baking import UV, files_below, must, run

REMOVED_VARIABLES = ("GIT_", "XDG_", "EMAIL", "PYTHONDONTWRITEBYTECODE")
SETTINGS = """
[init]
defaultBranch = main
[user]
name = Olive Owner
email = olive@example.com
"""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new home folder for all tests of a file: git has a user, and no settings of this machine apply.

    It also has the compiled Python files: without them, imports would take a third of cruft's run time.
    """
    folder = tmp_path_factory.mktemp("home")
    cache = must(run([UV, "cache", "dir"], ROOT)).stdout.strip()
    (folder / ".gitconfig").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(REMOVED_VARIABLES)]:
            patch.delenv(name)
        variables = {"GIT_CONFIG_NOSYSTEM": "1", "UV_CACHE_DIR": cache}
        folders = {"HOME": folder, "USERPROFILE": folder, "PYTHONPYCACHEPREFIX": folder / "compiled"}
        for name, value in (folders | variables).items():
            patch.setenv(name, str(value))
        yield folder


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, and return its output."""
    return must(run(["git", *arguments], folder)).stdout.strip()


def commit(folder: Path) -> str:
    """Commit all files of a repository, and return the ID of the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=A change")
    return git(folder, "rev-parse", "HEAD")


def init_repository(folder: Path) -> Path:
    """Create a git repository in a folder and commit all files, as the owner of a new project does."""
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def update(project: Path, **answers: bool | str) -> None:
    """Run `cruft update --skip-apply-ask` in this process, with changed answers."""
    assert cruft.update(project, skip_apply_ask=True, extra_context=answers)


def cruft_state(project: Path) -> dict[str, Any]:
    """Return the contents of .cruft.json."""
    state: dict[str, Any] = json.loads((project / ".cruft.json").read_text("utf-8"))
    return state


def saved_answers(project: Path) -> dict[str, Any]:
    """Return the answers in .cruft.json, without the private variables of the template."""
    answers = cruft_state(project)["context"]["cookiecutter"]
    return {key: value for key, value in answers.items() if not key.startswith("_")}


def contents(project: Path) -> dict[str, bytes]:
    """Return the contents of every file of a project, except those of git, cruft and uv."""
    names = (name for name in files_below(project) if not name.startswith((".git/", ".cruft.json", ".venv/")))
    return {name: (project / name).read_bytes() for name in names}


def insert(path: Path, number: int, line: str) -> None:
    """Insert a line into a file before line `number`, counted from 0; -1 appends it."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    lines.insert(number if number >= 0 else len(lines), line + "\n")
    path.write_text("".join(lines), "utf-8")


def change_template(template: Path) -> str:
    """Change a file of the service, add one and remove one, in one commit; return its ID."""
    service = template / TEMPLATE
    insert(service / "Makefile", -1, "# A later change of the template.")
    (service / "app" / "services" / "later.py").write_text('"""A later change of the template."""\n')
    (service / "log_config.json").unlink()
    return commit(template)


def fork(template: Path, folder: Path, origin: str) -> Path:
    """Clone a template, and set another URL as the origin of the clone."""
    git(template.parent, "clone", "--quiet", str(template), str(folder))
    git(folder, "remote", "set-url", "origin", origin)
    return folder


# A sitecustomize.py for each Python process that cruft starts. Hooks are the scripts with a random name. An audit hook
# writes their folder, and which files they change and which processes they start, to a file.
AUDIT = """
import os, sys

hook = os.path.basename(sys.orig_argv[-1])
if hook.startswith("tmp") and hook.endswith(".py"):
    seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    home = os.getcwd()

    def note(*parts):
        os.write(seen, (" ".join(map(str, parts)) + "\\n").encode())

    def audit(event, args):
        if event.partition(".")[0] in ("socket", "subprocess") or event in ("os.system", "os.exec", "os.posix_spawn"):
            note("OUTSIDE", event, args)
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            path = os.path.realpath(os.path.join(home, os.fsdecode(args[0])))
            note("INSIDE" if path.startswith(home + os.sep) else "OUTSIDE", event, path)

    note("HOOK", home)
    sys.addaudithook(audit)
"""


def audited_environment(folder: Path, seen: Path) -> dict[str, str]:
    """Return environment variables with which every hook writes its actions to the file `seen`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AUDIT)
    return dict(os.environ) | {"PYTHONPATH": str(folder), "SEEN": str(seen)}
