"""`make drift` finds what no longer works: with the newest packages and a real server."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.combinations import options
from scripts.drift import DriftError, fault_of, serve
from scripts.drift import run as run_for_drift
from scripts.snapshot import ROOT, TEMPLATE
from scripts.trail import Step, Trail
from tests.support.baking import UV, Result, bake, environment, must, run

ID = "order-4711"
GOOD = Trail(Step("an answer", "/there", given=ID), 200, request_id=ID, header=ID, body=ID, log=ID, access=ID)


def drift(*words: str | Path) -> Result:
    """Run what `make drift` runs."""
    return run([sys.executable, "-m", "scripts.drift", UV, *words], ROOT, environment())


@pytest.fixture
def template(repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository, to be changed."""
    return Path(shutil.copytree(repository, tmp_path / "template"))


def replace(file: Path, old: str, new: str) -> None:
    """Replace what a pattern finds in a file, just once."""
    text, count = re.subn(old, new, file.read_text("utf-8"))
    assert count == 1, f"{old} is found {count} times in {file}"
    file.write_text(text, "utf-8")


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service without options and with its packages."""
    answers = dict.fromkeys(options(), False)
    project = bake(repository, tmp_path_factory.mktemp("installed") / "output", **answers)
    must(run([UV, "sync", "--quiet", "--locked"], project))
    must(run(["git", "init", "--quiet"], project))
    must(run(["git", "add", "--all"], project))
    return project


@pytest.fixture
def service(installed: Path) -> Iterator[Path]:
    """The same, to be broken; it is repaired afterwards."""
    yield installed
    must(run(["git", "checkout", "--quiet", "--", "."], installed))


@pytest.mark.full
def test_working_combination_passes_and_packages_that_our_ranges_hold_back_are_listed(template: Path) -> None:
    service, older = template / TEMPLATE, "25.3.0.20260408"
    replace(service / "pyproject.toml", '"types-gunicorn[^"]*"', '"types-gunicorn>=25,<26"')
    (service / "Makefile").write_text("test:\n\ttrue\n", "utf-8")
    must(run([UV, "lock", "--quiet", "--upgrade-package", f"types-gunicorn=={older}"], service, environment()))
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^ +1 +\d+ s  no option: works$", result.stdout, re.MULTILINE)
    moved, held = result.stdout.split("Moved up:")[1].split("Newer than pyproject.toml allows:")
    assert re.search(rf"^  types-gunicorn v{older} -> v25\.\S+$", moved, re.MULTILINE)
    assert re.search(r"^  types-gunicorn v25\.\S+ -> v(?!25)\S+$", held, re.MULTILINE)


@pytest.mark.full
def test_broken_combination_fails_with_a_sentence_and_all_output(template: Path) -> None:
    replace(template / TEMPLATE / "pyproject.toml", r'"httptools>=[^"]*",', r'\g<0> "colorama",')
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 1, result.stdout + result.stderr
    sentence = f"`{UV} lock --check` ends with 1"
    assert re.search(rf"^ +1 +\d+ s  no option: {re.escape(sentence)}$", result.stdout, re.MULTILINE), result.stdout
    assert "The lockfile" in result.stdout.split(f"\n{sentence}. Everything that was said:\n")[1]
    assert result.stderr == ""


@pytest.mark.full
def test_fault_in_code_is_found_by_the_tests_of_the_service(service: Path) -> None:
    (service / "gun.py").write_text("import os\n", "utf-8")
    with pytest.raises(DriftError) as caught:
        run_for_drift(service, UV, "make", "test")
    assert caught.value.args[0] == "`make test` ends with 2"
    assert "F401" in caught.value.args[1]


ALWAYS_FAILS = r"\g<0>dependencies=[__import__('fastapi').Depends(demo.fail)], "
NO_START = 'raise SystemExit("no server today")\n'
NO_ID = "return value if current == NO_REQUEST_ID else current"
FAULTS = {
    "GET /api/demo (an answer) lacks its ID in: body": ("app/common/response.py", NO_ID, 'return ""', "GET /api/demo"),
    "GET /api/demo (an answer) is answered with 500, not with 200": (
        "app/api/demo.py",
        r"APIRouter\(",
        ALWAYS_FAILS,
        "Traceback",
    ),
    "gunicorn does not come up, or writes no access line with the ID": ("gun.py", r"\A", NO_START, "no server today"),
}
"""What is reported of a service with a change: a pattern, its replacement, and a word of the output."""


@pytest.mark.full
@pytest.mark.parametrize("sentence", FAULTS)
def test_fault_of_a_running_service_is_reported_with_its_output(service: Path, sentence: str) -> None:
    file, old, new, said = FAULTS[sentence]
    replace(service / file, old, new)
    with pytest.raises(DriftError) as caught:
        serve(service)
    assert caught.value.args[0] == sentence
    assert said in caught.value.args[1]


def test_missing_id_other_status_or_replaced_id_is_a_fault() -> None:
    assert fault_of(GOOD, {200}) == ""
    assert fault_of(GOOD, {503, 404}) == "GET /there (an answer) is answered with 200, not with 404 or 503"
    for place, name in {"header": "header", "body": "body", "access": "access line", "log": "log"}.items():
        trail = Trail(**vars(GOOD) | {place: "another-id"})
        assert fault_of(trail, {200}) == f"GET /there (an answer) lacks its ID in: {name}"
    another = Trail(**vars(GOOD) | {"request_id": "another-id"})
    assert fault_of(another, {200}) == "GET /there (an answer) does not keep the ID that it brings along"
    nothing = Trail(Step("an answer", "/there", logs=False), 200, "", "", "", "", "")
    assert fault_of(nothing, {200, 503}) == "GET /there (an answer) lacks its ID in: header, body, access line"
