"""A generated project: its lock file is valid, it installs, and its tests pass on every supported Python version."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.combinations import Row, options, pairwise
from tests.support.baking import (
    MAKE_TEST_SECONDS,
    NO_INTERPRETER,
    TEMPLATE_DIR,
    UV,
    VERSIONS,
    bake,
    combination_id,
    environment,
    files_below,
    interpreter,
    literal,
    must,
    run,
)

FEATURES: dict[str, dict[str, Any]] = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def has_code(option: str) -> bool:
    """Whether the option changes what a service's tests import or run: a package, a module, or tests."""
    places = [TEMPLATE_DIR / path for path in FEATURES[option]["paths"]]
    return bool(FEATURES[option]["requirements"]) or any(
        place.suffix == ".py" or any(place.rglob("*.py")) for place in places
    )


# tests/test_in_place.py tests the row with all options on.
ROWS = [row for row in pairwise([one for one in options() if has_code(one)]) if not all(row.values())]


@pytest.fixture
def fresh(project: Path, tmp_path: Path) -> Path:
    """A copy of the default project that the test may change."""
    return Path(shutil.copytree(project, tmp_path / project.name))


@pytest.mark.parametrize("slug", ["trail-service", "a", "zzz", "fast-api", "x" * 63])
def test_lock_is_what_uv_would_write(repository: Path, tmp_path: Path, slug: str) -> None:
    """The hook changes uv.lock offline; it is valid for a name at any place in the order, and for hostile answers."""
    hostile = literal('it\'s "quoted" \\ {{ and }} 🛰️')
    project = bake(repository, tmp_path / "output", project_slug=slug, description=hostile, full_name=hostile)
    before = (project / "uv.lock").read_bytes()
    must(run([UV, "lock", "--check", "--offline"], project))
    must(run([UV, "lock", "--offline"], project))
    assert (project / "uv.lock").read_bytes() == before


def test_uv_detects_a_requirement_missing_from_the_lock(fresh: Path) -> None:
    text = (fresh / "pyproject.toml").read_text("utf-8")
    (fresh / "pyproject.toml").write_text(text.replace('"fastapi>=', '"colorama",\n    "fastapi>='), "utf-8")
    assert run([UV, "lock", "--check", "--offline"], fresh).returncode != 0


def test_requires_python_is_the_oldest_supported_version(fresh: Path) -> None:
    assert f'requires-python = ">={VERSIONS[0]}"' in (fresh / "pyproject.toml").read_text("utf-8")


def make_test(project: Path, version: str) -> None:
    """Run `make test` with a Python version, and check that it changes no file; skip if the version is missing."""
    if (python := interpreter(version)) is None:
        pytest.skip(f"{NO_INTERPRETER}: Python {version}.")
    before = {name: (project / name).read_bytes() for name in files_below(project)}
    result = must(run(["make", "test"], project, environment(UV_PYTHON=str(python)), seconds=MAKE_TEST_SECONDS))
    assert (project / ".venv" / "bin" / f"python{version}").exists()
    assert " passed" in result.stdout
    assert {name: (project / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    "version", [pytest.param(one, marks=[] if one == HERE else pytest.mark.full) for one in VERSIONS]
)
def test_make_test_passes_with_defaults(fresh: Path, version: str) -> None:
    make_test(fresh, version)


@pytest.mark.full
@pytest.mark.timeout(MAKE_TEST_SECONDS)
def test_make_test_passes_with_every_option_on_the_newest_python(repository: Path, tmp_path: Path) -> None:
    make_test(bake(repository, tmp_path / "output", **dict.fromkeys(options(), True)), VERSIONS[-1])


@pytest.mark.full
@pytest.mark.parametrize("row", ROWS, ids=combination_id)
def test_combination_installs_offline_and_serves(repository: Path, tmp_path: Path, row: Row) -> None:
    """In pairwise combinations the locked packages are enough, and the smoke tests pass."""
    project = bake(repository, tmp_path / "output", **dict.fromkeys(options(), False) | row | {"core_tests": False})
    variables = environment(UV_OFFLINE="true")
    must(run([UV, "sync", "--quiet", "--locked"], project, variables))
    assert " passed" in must(run([UV, "run", "--no-sync", "pytest", "-q", *SMOKE], project, variables)).stdout


SMOKE = [f"tests/test_{name}.py" for name in ("api_demo", "health", "live", "documents")]
