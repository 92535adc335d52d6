"""The template directory is a working project: its linters, type checker and tests pass in place and leave no files."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import MAKE_TEST_SECONDS, TEMPLATE_DIR, TOOL_FOLDERS, UV, environment, must, run

ON_THE_SERVICE = [
    ["ruff", "check"],
    ["ruff", "format", "--check"],
    ["mypy"],
    ["lint-imports", "--no-cache"],
    ["pytest", "-p", "no:cacheprovider", "-q"],
]
ON_THE_REPOSITORY = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]]


def tool_folders() -> set[Path]:
    """Return the caches and environments in the template directory."""
    return {path for path in TEMPLATE_DIR.rglob("*") if path.name in TOOL_FOLDERS}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables with which every tool writes to a temporary folder; checks at the end that all did."""
    folder = tmp_path_factory.mktemp("in_place")
    elsewhere = {"UV_PROJECT_ENVIRONMENT": ".venv", "MYPY_CACHE_DIR": "mypy", "RUFF_CACHE_DIR": "ruff"}
    before = tool_folders()
    yield environment(
        **{name: str(folder / path) for name, path in elsewhere.items()},
        PYTHONPYCACHEPREFIX=str(folder / "bytecode"),
        UV_PYTHON=sys.executable,
    )
    assert tool_folders() - before == set()


@pytest.fixture(scope="module")
def installed(variables: dict[str, str]) -> dict[str, str]:
    """The same variables, after the packages in the service's lock file are installed."""
    must(run([UV, "sync", "--locked", "--quiet"], TEMPLATE_DIR, variables))
    return variables


@pytest.mark.timeout(MAKE_TEST_SECONDS)
@pytest.mark.parametrize("tool", ON_THE_SERVICE, ids=" ".join)
def test_tool_passes_on_the_service_in_place(installed: dict[str, str], tool: list[str]) -> None:
    must(run([UV, "run", "--no-sync", *tool], TEMPLATE_DIR, installed, seconds=MAKE_TEST_SECONDS))


@pytest.mark.parametrize("tool", ON_THE_REPOSITORY, ids=" ".join)
def test_tool_passes_on_the_repository(variables: dict[str, str], tool: list[str]) -> None:
    must(run(tool, ROOT, variables))


def test_mypy_passes_on_the_probes_of_the_live_tests(installed: dict[str, str]) -> None:
    """The probes run inside the service, so mypy checks them with the service's settings and packages."""
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
    repository, service = (
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"] for folder in (ROOT, TEMPLATE_DIR)
    )
    for key in ("line-length", "target-version"):
        assert repository["ruff"][key] == service["ruff"][key]
    assert repository["ruff"]["lint"]["select"] == service["ruff"]["lint"]["select"]
    assert repository["ruff"]["lint"]["ignore"] == service["ruff"]["lint"]["ignore"]
