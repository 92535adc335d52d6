"""`make drift` reports failures with the newest packages, and of a running server."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.combinations import options
from scripts.drift import DriftError, describe_error, serve
from scripts.drift import run as run_for_drift
from scripts.snapshot import ROOT, TEMPLATE
from scripts.trail import Step, StepResult
from tests.support.baking import UV, Result, bake, environment, must, run

ID = "order-4711"
COMPLETE = StepResult(
    Step("a response", "/found", sent_id=ID), 200, request_id=ID, header=ID, body=ID, log=ID, access=ID
)


def drift(*arguments: str | Path) -> Result:
    """Run the command of `make drift`."""
    return run([sys.executable, "-m", "scripts.drift", UV, *arguments], ROOT, environment())


@pytest.fixture
def template(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository that the test may change."""
    return Path(shutil.copytree(repository, tmp_path / "template"))


def replace(file: Path, old: str, new: str) -> None:
    """Replace the only match of a pattern in a file."""
    text, count = re.subn(old, new, file.read_text("utf-8"))
    assert count == 1, f"{old} has {count} matches in {file}"
    file.write_text(text, "utf-8")


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service without options, with its packages installed, in a git repository."""
    answers = dict.fromkeys(options(), False)
    project = bake(repository, tmp_path_factory.mktemp("installed") / "output", **answers)
    must(run([UV, "sync", "--quiet", "--locked"], project))
    must(run(["git", "init", "--quiet"], project))
    must(run(["git", "add", "--all"], project))
    return project


@pytest.fixture
def service(installed: Path) -> Iterator[Path]:
    """The same service, which the test may break; its files are restored afterwards."""
    yield installed
    must(run(["git", "checkout", "--quiet", "--", "."], installed))


@pytest.mark.full
def test_working_combination_passes_and_held_back_packages_are_listed(template: Path) -> None:
    service, older = template / TEMPLATE, "25.3.0.20260408"
    replace(service / "pyproject.toml", '"types-gunicorn[^"]*"', '"types-gunicorn>=25,<26"')
    (service / "Makefile").write_text("test:\n\ttrue\n", "utf-8")
    must(run([UV, "lock", "--quiet", "--upgrade-package", f"types-gunicorn=={older}"], service, environment()))
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^ +1 +\d+ s  no option: works$", result.stdout, re.MULTILINE)
    title = "Newer versions that pyproject.toml does not allow:"
    upgraded, held_back = result.stdout.split("Upgraded:")[1].split(title)
    assert re.search(rf"^  types-gunicorn v{older} -> v25\.\S+$", upgraded, re.MULTILINE)
    assert re.search(r"^  types-gunicorn v25\.\S+ -> v(?!25)\S+$", held_back, re.MULTILINE)


@pytest.mark.full
def test_broken_combination_is_reported_with_all_output(template: Path) -> None:
    replace(template / TEMPLATE / "pyproject.toml", r'"httptools>=[^"]*",', r'\g<0> "colorama",')
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 1, result.stdout + result.stderr
    sentence = f"`{UV} lock --check` exits with 1"
    assert re.search(rf"^ +1 +\d+ s  no option: {re.escape(sentence)}$", result.stdout, re.MULTILINE), result.stdout
    assert "The lockfile" in result.stdout.split(f"\n{sentence}. Output:\n")[1]
    assert result.stderr == ""


@pytest.mark.full
def test_error_in_the_code_is_found_by_the_tests_of_the_service(service: Path) -> None:
    (service / "gun.py").write_text("import os\n", "utf-8")
    with pytest.raises(DriftError) as caught:
        run_for_drift(service, UV, "make", "test")
    assert caught.value.args[0] == "`make test` exits with 2"
    assert "F401" in caught.value.args[1]


ALWAYS_FAILS = r"\g<0>dependencies=[__import__('fastapi').Depends(demo.fail)], "
NO_START = 'raise SystemExit("no server today")\n'
NO_ID = "return value if current == NO_REQUEST_ID else current"
ERRORS = {
    "GET /api/demo (a response) does not have its ID in: body": (
        "app/common/response.py",
        NO_ID,
        'return ""',
        "GET /api/demo",
    ),
    "GET /api/demo (a response) returns 500 instead of 200": (
        "app/api/demo.py",
        r"APIRouter\(",
        ALWAYS_FAILS,
        "Traceback",
    ),
    "gunicorn does not start, or writes no access log line with the ID": (
        "gun.py",
        r"\A",
        NO_START,
        "no server today",
    ),
}
"""The message for a service with a change: file, pattern, replacement, and text in the service's output."""


@pytest.mark.full
@pytest.mark.parametrize("sentence", ERRORS)
def test_error_of_a_running_service_is_reported_with_its_output(service: Path, sentence: str) -> None:
    file, old, new, text = ERRORS[sentence]
    replace(service / file, old, new)
    with pytest.raises(DriftError) as caught:
        serve(service)
    assert caught.value.args[0] == sentence
    assert text in caught.value.args[1]


def test_missing_id_unexpected_status_or_replaced_id_is_an_error() -> None:
    assert describe_error(COMPLETE, {200}) == ""
    assert describe_error(COMPLETE, {503, 404}) == "GET /found (a response) returns 200 instead of 404 or 503"
    for place, name in {"header": "header", "body": "body", "access": "access log", "log": "log"}.items():
        result = StepResult(**vars(COMPLETE) | {place: "another-id"})
        assert describe_error(result, {200}) == f"GET /found (a response) does not have its ID in: {name}"
    replaced = StepResult(**vars(COMPLETE) | {"request_id": "another-id"})
    assert describe_error(replaced, {200}) == "GET /found (a response) does not keep the ID that was sent"
    empty = StepResult(Step("a response", "/found", logs=False), 200, "", "", "", "", "")
    message = "GET /found (a response) does not have its ID in: header, body, access log"
    assert describe_error(empty, {200, 503}) == message
