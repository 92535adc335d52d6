"""What goes in: the files that git knows, copied and not rendered, and questions in words."""

import json
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.support.baking import bake, files_below

LEFT_BEHIND = {".venv", ".uv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"}


@pytest.fixture(scope="module")
def template(repository: Path) -> Path:
    """The template directory, as it would be committed."""
    return repository / TEMPLATE


def test_everything_is_copied_not_rendered(template: Path) -> None:
    """Each file is on the list of what is not rendered, and no folder is: those would be replaced as a whole."""
    patterns = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))["_copy_without_render"]
    names = files_below(template)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_no_caches(project: Path) -> None:
    """Nothing of the machine on which the template was worked at."""
    assert {path for path in project.rglob("*") if path.name in LEFT_BEHIND} == set()


def test_what_tools_leave_behind_is_ignored(template: Path) -> None:
    """Nobody commits an environment, a cache or a uv, in the template or in a service."""
    for folder in (ROOT, template):
        ignored = (folder / ".gitignore").read_text("utf-8").splitlines()
        assert {f"{name}/" for name in LEFT_BEHIND} <= set(ignored)


def test_prompts() -> None:
    """Every question is asked in words, every default is one that a hook accepts."""
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    asked = {key for key in questions if not key.startswith("_")}
    assert set(questions["__prompts__"]) == asked
    assert set(questions["__prompts__"]["license"]) == {"__prompt__", *questions["license"]}


def test_only_known_files_are_baked(repository: Path) -> None:
    """The copy that is baked has what git lists, and the folder in which one works may hold what it wants."""
    assert files_below(repository) == {file.as_posix() for file in known_files()} or not known_files()


def test_time(repository: Path, tmp_path: Path) -> None:
    """Generating takes a moment; how long is printed, machines differ."""
    start = time.perf_counter()
    bake(repository, tmp_path / "output")
    print(f"generated in {time.perf_counter() - start:.2f} s")  # noqa: T201
