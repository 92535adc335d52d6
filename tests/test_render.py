"""What is generated from: the files that git knows, copied and not rendered, and questions in words."""

import json
from fnmatch import fnmatch
from pathlib import Path

import pytest

from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.support.baking import LEFT_BEHIND, files_below


@pytest.fixture(scope="module")
def template(repository: Path) -> Path:
    """The template directory, as it would be committed."""
    return repository / TEMPLATE


def test_every_file_is_copied_and_not_rendered(template: Path) -> None:
    """And no folder is on the list of what is not rendered: it would be replaced as a whole."""
    patterns = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))["_copy_without_render"]
    names = files_below(template)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_project_has_no_caches(project: Path) -> None:
    assert {path for path in project.rglob("*") if path.name in LEFT_BEHIND} == set()


def test_git_ignores_what_tools_leave_behind(template: Path) -> None:
    for folder in (ROOT, template):
        ignored = (folder / ".gitignore").read_text("utf-8").splitlines()
        assert {f"{name}/" for name in LEFT_BEHIND} <= set(ignored)


def test_every_question_is_asked_in_words() -> None:
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    asked = {key for key in questions if not key.startswith("_")}
    assert set(questions["__prompts__"]) == asked
    assert set(questions["__prompts__"]["license"]) == {"__prompt__", *questions["license"]}


def test_copy_of_the_repository_has_what_git_lists(repository: Path) -> None:
    assert files_below(repository) == {file.as_posix() for file in known_files()} or not known_files()
