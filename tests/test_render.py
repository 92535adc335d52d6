"""What comes out: these files and only these, unchanged but for the names."""

import json
import re
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.baking import bake, files_below

NAMED = {"README.md", "pyproject.toml", "uv.lock"}
LEFT_BEHIND = {".venv", ".uv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"}


@pytest.fixture(scope="module")
def template(repository: Path) -> Path:
    """The template directory, as it would be committed."""
    return repository / TEMPLATE


def test_exact_files(template: Path, project: Path) -> None:
    """Everything that git knows, except that one licence takes the place of all."""
    kept = {name for name in files_below(template) if not name.startswith("licenses/")}
    assert files_below(project) == kept | {"LICENSE"}


def test_copied_byte_for_byte(template: Path, project: Path) -> None:
    """What was tested in place is what the user gets."""
    names = files_below(project) - NAMED - {"LICENSE"}
    assert any(name.endswith(".py") for name in names)
    assert [name for name in names if (project / name).read_bytes() != (template / name).read_bytes()] == []
    assert [name for name in names if (project / name).stat().st_mode != (template / name).stat().st_mode] == []


def test_everything_is_copied_not_rendered(template: Path) -> None:
    """Each file is on the list of what is not rendered, and no folder is: those would be replaced as a whole."""
    patterns = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))["_copy_without_render"]
    names = files_below(template)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_no_template_left(project: Path) -> None:
    """No tag, no word of the template engine, no placeholder."""
    for name in files_below(project):
        text = (project / name).read_text("utf-8")
        assert "cookiecutter" not in text, name
        if not name.endswith(".py"):
            assert not re.search(r"(?<!\$)\{\{|\{%|\{#|<year>|<holder>", text), name


def test_parses(project: Path) -> None:
    """Every file that has a grammar keeps to it, and every file ends its last line, with LF."""
    readers = {".toml": tomllib.loads, ".lock": tomllib.loads, ".json": json.loads}
    for name in files_below(project):
        raw = (project / name).read_bytes()
        assert b"\r" not in raw, name
        assert not raw or raw.endswith(b"\n"), name
        text = raw.decode()
        if Path(name).suffix in readers:
            readers[Path(name).suffix](text)
        elif Path(name).suffix in {".yaml", ".yml"}:
            yaml.safe_load(text)


def test_deterministic(repository: Path, tmp_path: Path) -> None:
    """The same answers give the same bytes."""
    first, second = (bake(repository, tmp_path / name, year="2026") for name in ("first", "second"))
    assert files_below(first) == files_below(second)
    assert [name for name in files_below(first) if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_no_caches(project: Path) -> None:
    """Nothing of the machine on which the template was worked at."""
    assert {path for path in project.rglob("*") if path.name in LEFT_BEHIND} == set()


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
