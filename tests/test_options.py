"""Combinations of options: a declined option leaves no trace, and what is left is complete."""

import ast
import json
import re
import shutil
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hooks import post_gen_project as post
from scripts.combinations import Row, pairwise
from scripts.snapshot import ROOT, TEMPLATE
from tests.support.baking import GOOD, LEFT_BEHIND, TEMPLATE_DIR, UV, bake, files_below, must, named, run

FEATURES: dict[str, dict[str, Any]] = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))
OPTIONS = list(FEATURES)
QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
MARK = re.compile(r"^\s*(?:#|<!--) (?:>>>|<<<) .+?(?: -->)?$", re.MULTILINE)
# FastAPI's own telemetry, whose switch has names that options have as well.
SWITCHED_OFF = re.compile(r"^ +telemetry=.*$", re.MULTILINE)
# What the smallest service may be at most, and what an option may add to it, its tests aside.
MOST_FILES, MOST_LINES = 68, 4185
MOST_FILES_OF_OPTION, MOST_LINES_OF_OPTION = 4, 150
# These are larger, as they fix what their libraries do when a broker hangs or dies, and what they print of secrets;
# FastStream speaks to four brokers besides. Metrics are exact through each end of a process; traces follow W3C's rules
# to the letter, which OpenTelemetry's own code does not. MCP is two in one: tools for others, and those of
# others; log_control thins, samples and alerts. What several options share
# (`app/common/task_record.py`) counts for none.
QUEUES = {"celery": 235, "saq": 292, "faststream": 300}
MOST_LINES_OF = QUEUES | {"log_control": 390, "mcp": 720, "metrics": 205, "tracing": 380}
MOST_FILES_OF = {"mcp": 9}
# Of an option that is no part of the application but a way to run it, all documents included.
MOST_FILES_TO_RUN = 12


def make(repository: Path, answers: Row, target: Path) -> Path:
    """Make a project as cookiecutter does with files that it only copies: copy them, run the hook's steps."""
    shutil.copytree(repository / TEMPLATE, target)
    for step in post.STEPS:
        step(target, GOOD | answers)
    return target


@pytest.fixture(scope="module", params=pairwise(OPTIONS, each_alone=True), ids=named)
def answers(request: pytest.FixtureRequest) -> Row:
    """One combination of options."""
    row: Row = request.param
    return row


@pytest.fixture(scope="module")
def made(answers: Row, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of this combination, to look at and not to change."""
    return make(repository, answers, tmp_path_factory.mktemp("made") / "trail-service")


def text_files(project: Path) -> dict[str, str]:
    """Give the text of every file, by its path in the project."""
    return {name: (project / name).read_text("utf-8") for name in files_below(project)}


def words_of(option: str) -> set[str]:
    """Give what a service without the option does not contain, unless another option brings it."""
    spellings = {option, option.replace("_", "-"), option.replace("_", " "), option.replace("_", "")}
    return spellings | set(FEATURES[option]["words"]) | set(FEATURES[option]["requirements"])


def is_below(name: str, paths: set[str]) -> bool:
    """Whether a file is one of the paths, or lies in one of them."""
    return any(name == path or name.startswith(f"{path}/") for path in paths)


def test_files_are_those_of_git_without_those_of_declined_options(made: Path, repository: Path, answers: Row) -> None:
    gone = post.owned(FEATURES, [option for option in OPTIONS if answers[option]], "paths")
    gone |= {"features.json", "licenses"}
    kept = {name for name in files_below(repository / TEMPLATE) if not is_below(name, gone)}
    assert files_below(made) == kept | {"LICENSE"}
    assert [path for path in made.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


def test_no_file_names_a_declined_option(made: Path, answers: Row) -> None:
    """Nor its packages, or what it brings; the lock is checked on its own."""
    texts = {name: text.lower() for name, text in text_files(made).items() if name not in {"uv.lock", "LICENSE"}}
    texts["app/main.py"] = SWITCHED_OFF.sub("", texts["app/main.py"])
    kept = {word for option in OPTIONS if answers[option] for word in words_of(option)}
    for option in (option for option in OPTIONS if not answers[option]):
        for word in words_of(option) - kept:
            found = [name for name, text in texts.items() if word.lower() in f"{name}\n{text}"]
            assert found == [], f"{word!r} is left of {option}"


def test_code_is_byte_for_byte_what_is_tested_in_place(made: Path, repository: Path) -> None:
    names = [name for name in files_below(made) if name.endswith((".py", ".json"))]
    assert len(names) > 40
    template = repository / TEMPLATE
    assert [name for name in names if (made / name).read_bytes() != (template / name).read_bytes()] == []


@cache
def imported_by(name: str) -> set[str]:
    """Return the files of the template that one of its modules imports by an absolute name."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((TEMPLATE_DIR / name).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = {module.replace(".", "/") for module in modules}
    files = {f"{place}{end}" for place in places for end in (".py", "/__init__.py")}
    return {file for file in files if (TEMPLATE_DIR / file).is_file()}


def test_no_module_imports_one_that_left_with_another_option(made: Path) -> None:
    """Modules are those of the template, where mypy finds every import."""
    files = files_below(made)
    modules = {name for name in files if name.endswith(".py")}
    assert len(set().union(*map(imported_by, modules))) > 20
    assert {name: gone for name in modules if (gone := imported_by(name) - files)} == {}


def test_every_file_can_be_parsed_and_has_no_fence_tag_or_placeholder(made: Path) -> None:
    toml, yml = tomllib.loads, yaml.safe_load
    readers: dict[str, Callable[[str], object]] = {".py": ast.parse, ".json": json.loads, ".toml": toml, ".lock": toml}
    for name, text in text_files(made).items():
        (readers | {".yaml": yml, ".yml": yml}).get(Path(name).suffix, str)(text)
        assert not text or text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert "\r" not in text, name
        assert "cookiecutter" not in text.replace("cookiecutter=", ""), name
        assert not MARK.search(text), name
        if not name.endswith((".py", ".lock")) and name != "LICENSE":
            assert "\n\n\n" not in text, f"{name}: a gap where a fence was"
        if not name.endswith(".py") and not name.startswith("deploy/prometheus/"):  # which has braces of its own
            assert not re.search(r"(?<!\$)\{\{|\{%|\{#|<year>|<holder>", text), name


def test_lock_is_what_uv_would_write_and_has_no_package_that_no_other_needs(made: Path) -> None:
    lock = (made / "uv.lock").read_bytes()
    must(run([UV, "lock", "--offline"], made))
    assert (made / "uv.lock").read_bytes() == lock
    needed = re.findall(r'\{ name = "([^"]+)"', lock.decode())
    assert set(post.LOCKED_NAMES.findall(lock.decode())) - set(needed) == {GOOD["project_slug"]}


def test_ruff_has_no_findings(made: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    must(run([ruff, "format", "--check", "--no-cache"], made))
    must(run([ruff, "check", "--no-cache"], made))


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes and rights."""
    return one.read_bytes() == other.read_bytes() and one.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("row", pairwise(OPTIONS), ids=named)
def test_project_of_these_tests_is_the_one_of_cookiecutter(repository: Path, tmp_path: Path, row: Row) -> None:
    expected = make(repository, row, tmp_path / "made")
    project = bake(repository, tmp_path / "baked", **{**GOOD, **row})
    assert files_below(project) == files_below(expected)
    assert [file for file in files_below(project) if not same(project / file, expected / file)] == []


def lines_of_code(files: Collection[Path]) -> int:
    """Count the lines of all modules."""
    return sum(len(file.read_text("utf-8").splitlines()) for file in files if file.suffix == ".py")


def test_smallest_service_stays_small(repository: Path, tmp_path: Path) -> None:
    made = make(repository, dict.fromkeys(OPTIONS, False), tmp_path / "smallest")
    files = [made / name for name in files_below(made)]
    assert len(files) <= MOST_FILES
    assert lines_of_code(files) <= MOST_LINES


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "core_tests"])
def test_option_stays_small(repository: Path, option: str) -> None:
    owners = Counter(path for feature in FEATURES.values() for path in feature["paths"])
    owned = {path for path in FEATURES[option]["paths"] if not path.startswith("tests/")}
    owned -= {path for path in owned if path.startswith("app/") and owners[path] > 1}
    template = repository / TEMPLATE
    files = [template / name for name in files_below(template) if is_below(name, owned)]
    runs_it = any(path.startswith("deploy/") for path in owned)
    assert len(files) <= (MOST_FILES_TO_RUN if runs_it else MOST_FILES_OF.get(option, MOST_FILES_OF_OPTION))
    assert lines_of_code(files) <= MOST_LINES_OF.get(option, MOST_LINES_OF_OPTION)


def test_every_option_is_asked_for_described_and_owns_existing_files() -> None:
    asked = [key for key, default in QUESTIONS.items() if isinstance(default, bool) and key != "git_init"]
    assert asked == OPTIONS
    for option, feature in FEATURES.items():
        assert set(feature) == {"about", "paths", "requirements", "words"}, option
        assert [path for path in feature["paths"] if not (TEMPLATE_DIR / path).exists()] == []
        assert feature["paths"] == sorted(feature["paths"])
        assert QUESTIONS["__prompts__"][option] == feature["about"]


def test_every_question_is_asked_in_words() -> None:
    asked = {key for key in QUESTIONS if not key.startswith("_")}
    assert set(QUESTIONS["__prompts__"]) == asked
    assert set(QUESTIONS["__prompts__"]["license"]) == {"__prompt__", *QUESTIONS["license"]}


def test_every_file_is_copied_and_not_rendered(repository: Path) -> None:
    """And no folder is on the list of what is not rendered: it would be replaced as a whole."""
    patterns = QUESTIONS["_copy_without_render"]
    names = files_below(repository / TEMPLATE)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_git_ignores_what_tools_leave_behind() -> None:
    for folder in (ROOT, TEMPLATE_DIR):
        ignored = (folder / ".gitignore").read_text("utf-8").splitlines()
        assert {f"{name}/" for name in LEFT_BEHIND} <= set(ignored)
