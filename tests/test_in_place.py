"""The template directory is a working project: it is linted, typed and tested where it lies, and left as clean."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import LEFT_BEHIND, MAKE_TEST_SECONDS, TEMPLATE_DIR, UV, environment, must, run

ON_THE_SERVICE = [
    ["ruff", "check"],
    ["ruff", "format", "--check"],
    ["mypy"],
    ["lint-imports", "--no-cache"],
    ["pytest", "-p", "no:cacheprovider", "-q"],
]
ON_THE_REPOSITORY = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]


def left_behind() -> set[Path]:
    """Caches and environments in the template directory."""
    return {path for path in TEMPLATE_DIR.rglob("*") if path.name in LEFT_BEHIND}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which every tool of the service writes somewhere else; checked at the end."""
    folder = tmp_path_factory.mktemp("in_place")
    elsewhere = {"UV_PROJECT_ENVIRONMENT": ".venv", "MYPY_CACHE_DIR": "mypy", "RUFF_CACHE_DIR": "ruff"}
    before = left_behind()
    yield environment(
        **{name: str(folder / path) for name, path in elsewhere.items()},
        PYTHONPYCACHEPREFIX=str(folder / "bytecode"),
        UV_PYTHON=sys.executable,
    )
    assert left_behind() - before == set()


@pytest.fixture(scope="module")
def installed(variables: dict[str, str]) -> dict[str, str]:
    """The same, with everything installed that the service's lock names."""
    must(run([UV, "sync", "--locked", "--quiet"], TEMPLATE_DIR, variables))
    return variables


@pytest.mark.timeout(MAKE_TEST_SECONDS)
@pytest.mark.parametrize("tool", ON_THE_SERVICE, ids=" ".join)
def test_tool_passes_on_the_service_in_place(installed: dict[str, str], tool: list[str]) -> None:
    must(run([UV, "run", "--no-sync", *tool], TEMPLATE_DIR, installed, seconds=MAKE_TEST_SECONDS))


@pytest.mark.parametrize("tool", ON_THE_REPOSITORY, ids=" ".join)
def test_tool_passes_on_the_repository(variables: dict[str, str], tool: list[str]) -> None:
    must(run(tool, ROOT, variables))


def test_probes_of_the_live_tests_are_typed_with_the_service(installed: dict[str, str]) -> None:
    """The parts of the live tests that run inside of the service are typed together with it."""
    live = ROOT / "tests" / "live"
    modules = [path.stem for pattern in ("*_probe.py", "*_gun.py") for path in sorted(live.glob(pattern))]
    options = [option for module in modules for option in ("-m", module)]
    packages = [option for path in live.glob("probe/__init__.py") for option in ("-p", path.parent.name)]
    variables = installed | {"MYPYPATH": str(live)}
    must(run([UV, "run", "--no-sync", "mypy", *packages, *options], TEMPLATE_DIR, variables))


def test_both_locks_match_their_pyproject(variables: dict[str, str]) -> None:
    for folder in (ROOT, TEMPLATE_DIR):
        must(run([UV, "lock", "--check", "--offline"], folder, variables))


def test_repository_and_service_have_the_same_ruff_rules() -> None:
    ours, theirs = (
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"] for folder in (ROOT, TEMPLATE_DIR)
    )
    for key in ("line-length", "target-version"):
        assert ours["ruff"][key] == theirs["ruff"][key]
    assert ours["ruff"]["lint"]["select"] == theirs["ruff"]["lint"]["select"]
    assert ours["ruff"]["lint"]["ignore"] == theirs["ruff"]["lint"]["ignore"]
