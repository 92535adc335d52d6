"""A generated project on its own: its lock holds, it installs, and its own tests pass, on every Python it promises."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.combinations import Row, options, pairwise
from tests.support.baking import (
    MAKE_TEST_SECONDS,
    NO_INTERPRETER,
    TEMPLATE_DIR,
    UV,
    Result,
    bake,
    environment,
    interpreter,
    literal,
    must,
    named,
    run,
)

VERSIONS = ["3.11", "3.12", "3.13"]
# tests/test_in_place.py tests every option on the Python that runs us.
OTHERS = [version for version in VERSIONS if version != f"{sys.version_info[0]}.{sys.version_info[1]}"]
FEATURES: dict[str, dict[str, Any]] = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))


def has_code(option: str) -> bool:
    """Whether `make test` of a service can tell that the option is there: by a package, a module, or tests."""
    places = [TEMPLATE_DIR / path for path in FEATURES[option]["paths"]]
    return bool(FEATURES[option]["requirements"]) or any(
        place.suffix == ".py" or any(place.rglob("*.py")) for place in places
    )


WITH_CODE = [option for option in options() if has_code(option)]
ROWS = [row for row in pairwise(WITH_CODE, each_alone=True) if not all(row.values())]


@pytest.fixture
def fresh(project: Path, tmp_path: Path) -> Path:
    """A copy of the default project, to work in."""
    return Path(shutil.copytree(project, tmp_path / project.name))


def test_lock_holds(fresh: Path) -> None:
    """The lock is as uv would write it, though only a hook has touched it, and no network is there."""
    before = (fresh / "uv.lock").read_bytes()
    must(run([UV, "lock", "--check", "--offline"], fresh))
    must(run([UV, "lock", "--offline"], fresh))
    assert (fresh / "uv.lock").read_bytes() == before


@pytest.mark.parametrize("slug", ["a", "zzz", "fast-api", "x" * 63])
def test_lock_holds_for_every_name(repository: Path, tmp_path: Path, slug: str) -> None:
    """The name's place in the lock does not matter, nor what people write about themselves."""
    hostile = literal('it\'s "quoted" \\ {{ and }} 🛰️')
    project = bake(repository, tmp_path / "output", project_slug=slug, description=hostile, full_name=hostile)
    before = (project / "uv.lock").read_bytes()
    must(run([UV, "lock", "--check", "--offline"], project))
    must(run([UV, "lock", "--offline"], project))
    assert (project / "uv.lock").read_bytes() == before


def test_a_wrong_lock_is_noticed(fresh: Path) -> None:
    """The check above can fail."""
    text = (fresh / "pyproject.toml").read_text("utf-8")
    (fresh / "pyproject.toml").write_text(text.replace('"fastapi>=', '"colorama",\n    "fastapi>='), "utf-8")
    assert run([UV, "lock", "--check", "--offline"], fresh).returncode != 0


@pytest.fixture(scope="module")
def whole(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every option, to look at and not to change."""
    return bake(repository, tmp_path_factory.mktemp("whole") / "output", **dict.fromkeys(options(), True))


@pytest.fixture(scope="module")
def made(
    repository: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Result]]]:
    """What `make test` says in a project of each combination, and of all options on other Pythons, two at a time."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("warm") / whole.name))
    must(run([UV, "sync", "--quiet", "--locked"], folder))  # now every package is in uv's cache
    with ThreadPoolExecutor(2) as threads:
        results = {}
        for version, python in zip(OTHERS, map(interpreter, OTHERS), strict=True):
            if python is not None:
                target = tmp_path_factory.mktemp("made") / whole.name
                results[version] = threads.submit(make_test_on, version, python, Path(shutil.copytree(whole, target)))
        for row in ROWS:
            answers = dict.fromkeys(options(), False) | row
            fresh = bake(repository, tmp_path_factory.mktemp("made") / "output", **answers)
            results[named(row)] = threads.submit(
                run, ["make", "test"], fresh, environment(UV_OFFLINE="true"), seconds=MAKE_TEST_SECONDS
            )
        yield results


def make_test_on(version: str, python: Path, project: Path) -> Result:
    """Run `make test` with an interpreter, and see that it was taken."""
    result = must(run(["make", "test"], project, environment(UV_PYTHON=str(python)), seconds=MAKE_TEST_SECONDS))
    assert (project / ".venv" / "bin" / f"python{version}").exists()
    return result


@pytest.mark.timeout(MAKE_TEST_SECONDS)
@pytest.mark.parametrize("version", OTHERS)
def test_make_test(made: dict[str, Future[Result]], version: str) -> None:
    """With every option, `make test` passes on each other Python in a project that was generated a moment ago."""
    if version not in made:
        pytest.skip(f"{NO_INTERPRETER}: Python {version}.")
    assert "passed" in made[version].result().stdout


@pytest.mark.timeout(MAKE_TEST_SECONDS)
@pytest.mark.parametrize("row", ROWS, ids=named)
def test_make_test_of_combinations(made: dict[str, Future[Result]], row: Row) -> None:
    """Any two options with and without each other, each alone, none: installed without a network, and as sound."""
    assert "passed" in must(made[named(row)].result()).stdout


def test_versions_are_the_promised_ones(fresh: Path) -> None:
    """The lowest Python of the tests is the lowest that the project admits."""
    assert f'requires-python = ">={VERSIONS[0]}"' in (fresh / "pyproject.toml").read_text("utf-8")
