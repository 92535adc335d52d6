"""What `.ci/run` leans on: pytest's exit code comes through make, and a skip counts."""

import os
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import NO_INTERPRETER, environment, must, run

SKIPS = """
import pytest

def test_promise():
    pytest.skip({reason!r})
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A test suite with the rules of this one, and no test yet."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    return tmp_path


def run_suite(suite: Path, **variables: str) -> int:
    """Run it; give pytest's exit code."""
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={suite}", "-c", os.devnull]
    here = environment(PYTHONPATH=str(ROOT), **variables)
    return run([*command, suite], suite, here).returncode


@pytest.mark.parametrize(
    ("ci", "reason", "code"),
    [("true", "no server here", 1), ("true", f"{NO_INTERPRETER}: 3.99", 0), ("", "no server here", 0)],
)
def test_skips(suite: Path, ci: str, reason: str, code: int) -> None:
    """In CI nothing is skipped but for want of an interpreter; elsewhere people may lack what they like."""
    (suite / "test_skips.py").write_text(SKIPS.format(reason=reason))
    assert run_suite(suite, CI=ci) == code


@pytest.mark.parametrize(("ci", "code"), [("true", 2), ("", 5)])
def test_skipped_module(suite: Path, ci: str, code: int) -> None:
    """A module that skips itself as a whole is no way around."""
    (suite / "test_module.py").write_text('import pytest\n\npytest.skip("all of it", allow_module_level=True)\n')
    assert run_suite(suite, CI=ci) == code


def test_expected_failure(suite: Path) -> None:
    """An xfail is not a skip."""
    (suite / "test_xfail.py").write_text("import pytest\n\n@pytest.mark.xfail\ndef test_x():\n    assert False\n")
    assert run_suite(suite, CI="true") == 0


@pytest.mark.parametrize(("arguments", "code"), [("--version", "0"), ("no-such-test.py", "4")])
def test_exit_code(tmp_path: Path, arguments: str, code: str) -> None:
    """With STATUS, make hands on pytest's exit code and stays silent, so that pytest has the last word."""
    status = tmp_path / "a status"
    result = must(run(["make", "test", f"STATUS={status}", f"ARGS={arguments}"], ROOT))
    assert status.read_text().strip() == code
    assert "make:" not in result.stdout + result.stderr
