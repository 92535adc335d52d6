"""Combinations of options: a declined option leaves nothing behind, and the rest of the project is complete."""

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
from tests.support.baking import (
    TEMPLATE_DIR,
    TOOL_FOLDERS,
    UV,
    VALID_ANSWERS,
    bake,
    combination_id,
    files_below,
    must,
    run,
)

FEATURES: dict[str, dict[str, Any]] = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))
OPTIONS = list(FEATURES)
QUESTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
MARK = re.compile(r"^\s*(?:#|<!--) (?:>>>|<<<) .+?(?: -->)?$", re.MULTILINE)
# The line that configures FastAPI's telemetry; its names are also words of the options `metrics` and `tracing`.
FASTAPI_TELEMETRY = re.compile(r"^ +telemetry=.*$", re.MULTILINE)
# Limits of the smallest service, and of what an option adds to it, not counting its tests.
MAX_FILES, MAX_LINES = 68, 4185
MAX_FILES_OF_OPTION, MAX_LINES_OF_OPTION = 4, 150
# Larger options. Celery, SAQ and FastStream correct their libraries: behaviour when a broker hangs or dies, and secrets
# in log records; FastStream also supports four brokers. metrics keeps counts exact when a process ends. tracing follows
# the W3C rules exactly, which OpenTelemetry's own code does not. mcp is a server and a client. log_control has rate
# limits, sampling and alerts. Modules that several options share (`app/common/task_record.py`) are not counted.
QUEUES = {"celery": 235, "saq": 292, "faststream": 300}
MAX_LINES_OF = QUEUES | {"log_control": 390, "mcp": 720, "metrics": 205, "tracing": 380}
MAX_FILES_OF = {"mcp": 9}
# For an option that deploys the application, including its documents.
MAX_FILES_OF_DEPLOYMENT = 12


def make(repository: Path, answers: Row, target: Path) -> Path:
    """Create a project without cookiecutter, which only copies the files: copy them, and run the steps of the hook."""
    shutil.copytree(repository / TEMPLATE, target)
    for step in post.STEPS:
        step(target, VALID_ANSWERS | answers)
    return target


@pytest.fixture(scope="module", params=pairwise(OPTIONS, each_alone=True), ids=combination_id)
def answers(request: pytest.FixtureRequest) -> Row:
    """One combination of options."""
    row: Row = request.param
    return row


@pytest.fixture(scope="module")
def generated(answers: Row, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of this combination; read-only."""
    return make(repository, answers, tmp_path_factory.mktemp("generated") / "trail-service")


def text_files(project: Path) -> dict[str, str]:
    """Return the text of every file, by its path in the project."""
    return {name: (project / name).read_text("utf-8") for name in files_below(project)}


def words_of(option: str) -> set[str]:
    """Return the words that a service without the option must not contain, unless another option has them."""
    spellings = {option, option.replace("_", "-"), option.replace("_", " "), option.replace("_", "")}
    return spellings | set(FEATURES[option]["words"]) | set(FEATURES[option]["requirements"])


def is_below(name: str, paths: set[str]) -> bool:
    """Whether a file is one of the paths, or is in one of them."""
    return any(name == path or name.startswith(f"{path}/") for path in paths)


def test_project_has_the_files_of_the_template_without_those_of_declined_options(
    generated: Path, repository: Path, answers: Row
) -> None:
    removed = post.declined_items(FEATURES, [option for option in OPTIONS if answers[option]], "paths")
    removed |= {"features.json", "licenses"}
    expected = {name for name in files_below(repository / TEMPLATE) if not is_below(name, removed)}
    assert files_below(generated) == expected | {"LICENSE"}
    assert [path for path in generated.rglob("*") if path.is_dir() and not any(path.iterdir())] == []


def test_no_file_mentions_a_declined_option(generated: Path, answers: Row) -> None:
    """Neither its name nor its packages or its `words` in features.json; another test checks the lock file."""
    texts = {name: text.lower() for name, text in text_files(generated).items() if name not in {"uv.lock", "LICENSE"}}
    texts["app/main.py"] = FASTAPI_TELEMETRY.sub("", texts["app/main.py"])
    allowed = {word for option in OPTIONS if answers[option] for word in words_of(option)}
    for option in (option for option in OPTIONS if not answers[option]):
        for word in words_of(option) - allowed:
            found = [name for name, text in texts.items() if word.lower() in f"{name}\n{text}"]
            assert found == [], f"{word!r} of the declined option {option} is in these files"


def test_code_is_identical_to_the_template(generated: Path, repository: Path) -> None:
    names = [name for name in files_below(generated) if name.endswith((".py", ".json"))]
    assert len(names) > 40
    template = repository / TEMPLATE
    assert [name for name in names if (generated / name).read_bytes() != (template / name).read_bytes()] == []


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


def test_no_module_imports_a_module_of_a_declined_option(generated: Path) -> None:
    """In the template mypy checks that all imports exist; here only the files of declined options can be missing."""
    files = files_below(generated)
    modules = {name for name in files if name.endswith(".py")}
    assert len(set().union(*map(imported_by, modules))) > 20
    assert {name: missing for name in modules if (missing := imported_by(name) - files)} == {}


def test_every_file_can_be_parsed_and_has_no_fence_tag_or_placeholder(generated: Path) -> None:
    toml, yml = tomllib.loads, yaml.safe_load
    readers: dict[str, Callable[[str], object]] = {".py": ast.parse, ".json": json.loads, ".toml": toml, ".lock": toml}
    for name, text in text_files(generated).items():
        (readers | {".yaml": yml, ".yml": yml}).get(Path(name).suffix, str)(text)
        assert not text or text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert "\r" not in text, name
        assert "cookiecutter" not in text.replace("cookiecutter=", ""), name
        assert not MARK.search(text), name
        if not name.endswith((".py", ".lock")) and name != "LICENSE":
            assert "\n\n\n" not in text, f"{name}: two empty lines where a fence was"
        if not name.endswith(".py") and not name.startswith("deploy/prometheus/"):  # Prometheus templates have braces
            assert not re.search(r"(?<!\$)\{\{|\{%|\{#|<year>|<holder>", text), name


def test_lock_is_what_uv_would_write_and_has_no_unneeded_package(generated: Path) -> None:
    lock = (generated / "uv.lock").read_bytes()
    must(run([UV, "lock", "--offline"], generated))
    assert (generated / "uv.lock").read_bytes() == lock
    needed = re.findall(r'\{ name = "([^"]+)"', lock.decode())
    assert set(post.LOCKED_NAMES.findall(lock.decode())) - set(needed) == {VALID_ANSWERS["project_slug"]}


def test_ruff_has_no_findings(generated: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    must(run([ruff, "format", "--check", "--no-cache"], generated))
    must(run([ruff, "check", "--no-cache"], generated))


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two files have the same contents and mode."""
    return one.read_bytes() == other.read_bytes() and one.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("row", pairwise(OPTIONS), ids=combination_id)
def test_project_of_these_tests_is_identical_to_that_of_cookiecutter(
    repository: Path, tmp_path: Path, row: Row
) -> None:
    expected = make(repository, row, tmp_path / "generated")
    project = bake(repository, tmp_path / "baked", **{**VALID_ANSWERS, **row})
    assert files_below(project) == files_below(expected)
    assert [file for file in files_below(project) if not is_same_file(project / file, expected / file)] == []


def lines_of_code(files: Collection[Path]) -> int:
    """Count the lines of the Python files, with comments and empty lines."""
    return sum(len(file.read_text("utf-8").splitlines()) for file in files if file.suffix == ".py")


def test_smallest_service_is_below_its_size_limits(repository: Path, tmp_path: Path) -> None:
    generated = make(repository, dict.fromkeys(OPTIONS, False), tmp_path / "smallest")
    files = [generated / name for name in files_below(generated)]
    assert len(files) <= MAX_FILES
    assert lines_of_code(files) <= MAX_LINES


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != "core_tests"])
def test_option_is_below_its_size_limits(repository: Path, option: str) -> None:
    owners = Counter(path for feature in FEATURES.values() for path in feature["paths"])
    owned = {path for path in FEATURES[option]["paths"] if not path.startswith("tests/")}
    owned -= {path for path in owned if path.startswith("app/") and owners[path] > 1}
    template = repository / TEMPLATE
    files = [template / name for name in files_below(template) if is_below(name, owned)]
    is_deployment = any(path.startswith("deploy/") for path in owned)
    assert len(files) <= (MAX_FILES_OF_DEPLOYMENT if is_deployment else MAX_FILES_OF.get(option, MAX_FILES_OF_OPTION))
    assert lines_of_code(files) <= MAX_LINES_OF.get(option, MAX_LINES_OF_OPTION)


def test_every_option_has_a_question_a_description_and_existing_files() -> None:
    asked = [key for key, default in QUESTIONS.items() if isinstance(default, bool) and key != "git_init"]
    assert asked == OPTIONS
    for option, feature in FEATURES.items():
        assert set(feature) == {"about", "paths", "requirements", "words"}, option
        assert [path for path in feature["paths"] if not (TEMPLATE_DIR / path).exists()] == []
        assert feature["paths"] == sorted(feature["paths"])
        assert QUESTIONS["__prompts__"][option] == feature["about"]


def test_every_question_has_a_prompt() -> None:
    asked = {key for key in QUESTIONS if not key.startswith("_")}
    assert set(QUESTIONS["__prompts__"]) == asked
    assert set(QUESTIONS["__prompts__"]["license"]) == {"__prompt__", *QUESTIONS["license"]}


def test_every_file_is_copied_and_not_rendered(repository: Path) -> None:
    """No pattern matches a folder: cookiecutter would replace an existing folder as a whole."""
    patterns = QUESTIONS["_copy_without_render"]
    names = files_below(repository / TEMPLATE)
    folders = {parent.as_posix() for name in names for parent in Path(name).parents} - {"."}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {name for name in folders if any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_git_ignores_the_folders_of_tools() -> None:
    for folder in (ROOT, TEMPLATE_DIR):
        ignored = (folder / ".gitignore").read_text("utf-8").splitlines()
        assert {f"{name}/" for name in TOOL_FOLDERS} <= set(ignored)
