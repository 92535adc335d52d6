"""What `.ci/run` relies on: make passes on the exit code of pytest, and a skipped test counts as failed."""

import os
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import NO_INTERPRETER, Result, environment, must, run

SKIPS = """
import pytest

def test_promise():
    pytest.skip({reason!r})
"""
EXPECTED_FAILURE = "import pytest\n\n@pytest.mark.xfail\ndef test_x():\n    assert False\n"
NEEDS_A_PROGRAM = """
from tests.support.programs import program

def test_promise():
    program("no-such-program", "its-package")
"""
RECORDS_ITS_PROCESS = """
import os, pathlib

def test_process():
    pathlib.Path(f"{__file__}.{os.environ['PYTEST_XDIST_WORKER']}").touch()
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A test suite with the conftest.py of this one and no tests."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    return tmp_path


def run_suite(suite: Path, **variables: str) -> Result:
    """Run the tests of the suite, with the environment variables."""
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={suite}", "-c", os.devnull]
    return run([*command, suite], suite, environment(PYTHONPATH=str(ROOT), **variables))


@pytest.mark.parametrize(
    ("ci", "text", "code"),
    [
        ("true", SKIPS.format(reason="no server here"), 1),
        ("", SKIPS.format(reason="no server here"), 0),
        ("true", SKIPS.format(reason=f"{NO_INTERPRETER}: 3.99"), 0),
        ("true", 'import pytest\n\npytest.skip("all of it", allow_module_level=True)\n', 2),
        ("true", EXPECTED_FAILURE, 0),
    ],
    ids=["skip in CI", "skip elsewhere", "missing interpreter", "skipped module in CI", "expected failure"],
)
def test_skip_fails_in_ci(suite: Path, ci: str, text: str, code: int) -> None:
    (suite / "test_promise.py").write_text(text)
    assert run_suite(suite, CI=ci).returncode == code


def test_missing_program_is_reported_with_its_package_and_the_skipped_files(suite: Path) -> None:
    for name in ("test_a.py", "test_b.py"):
        (suite / name).write_text(NEEDS_A_PROGRAM)
    output = run_suite(suite, CI="").stdout
    expected = "no-such-program is missing: install the Debian package its-package. Skipped: test_a.py, test_b.py.\n"
    assert expected in output


def test_files_that_share_stacks_run_in_the_same_process(suite: Path) -> None:
    (folder := suite / "tests/compose").mkdir(parents=True)
    for number in range(4):
        (folder / f"test_{number}.py").write_text(RECORDS_ITS_PROCESS)
    run_suite(suite, PYTEST_ADDOPTS="--numprocesses 2 --dist loadscope")
    assert len({path.suffix for path in folder.glob("*.gw*")}) == 1


@pytest.mark.parametrize(("target", "arguments", "code"), [("test", "--version", "0"), ("test-all", "no-test.py", "5")])
def test_make_passes_on_the_exit_code_of_pytest_and_prints_nothing(
    tmp_path: Path, target: str, arguments: str, code: str
) -> None:
    status = tmp_path / "a status"
    result = must(run(["make", target, f"STATUS={status}", f"ARGS={arguments}"], ROOT))
    assert status.read_text().strip() == code
    assert "make:" not in result.stdout + result.stderr
