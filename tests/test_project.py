"""A generated project on its own: its lock holds, it installs, and its own tests pass, on every Python it promises."""

import shutil
from pathlib import Path

import pytest

from tests.baking import NO_INTERPRETER, UV, bake, environment, interpreter, literal, must, run

VERSIONS = ["3.11", "3.12", "3.13"]


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


@pytest.mark.parametrize("version", VERSIONS)
def test_make_test(fresh: Path, version: str) -> None:
    """`make test` passes in a project that was generated a moment ago."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"{NO_INTERPRETER}: Python {version}.")
    result = must(run(["make", "test"], fresh, environment(UV_PYTHON=str(python))))
    assert "passed" in result.stdout
    assert (fresh / ".venv" / "bin" / f"python{version}").exists()


def test_versions_are_the_promised_ones(fresh: Path) -> None:
    """The lowest Python of the tests is the lowest that the project admits."""
    assert f'requires-python = ">={VERSIONS[0]}"' in (fresh / "pyproject.toml").read_text("utf-8")
