"""`make drift` finds what drifted: real packages of today, a real server; a broken service is one that it refuses."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.drift import fault_of
from scripts.snapshot import ROOT, TEMPLATE
from scripts.trail import Step, Trail
from tests.support.baking import UV, Result, environment, must, run

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


def passes_its_tests(service: Path) -> None:
    """Take the tests away, so that only the running service can tell what is wrong."""
    (service / "Makefile").write_text("test:\n\ttrue\n", "utf-8")


def lock_is_stale(service: Path) -> None:
    """Ask for something that uv.lock does not know; `uv lock --upgrade` would mend that."""
    replace(service / "pyproject.toml", r'"httptools>=[^"]*",', r'\g<0> "colorama",')


def has_a_fault_in_code(service: Path) -> None:
    (service / "gun.py").write_text("import os\n", "utf-8")


def drops_the_id(service: Path) -> None:
    passes_its_tests(service)
    replace(service / "app/common/response.py", "return value if current == NO_REQUEST_ID else current", 'return ""')


def fails_always(service: Path) -> None:
    passes_its_tests(service)
    replace(service / "app/api/demo.py", r"from fastapi import", "from fastapi import Depends,")
    replace(service / "app/api/demo.py", r"APIRouter\(", "APIRouter(dependencies=[Depends(demo.fail)], ")


def does_not_start(service: Path) -> None:
    passes_its_tests(service)
    (service / "gun.py").write_text('raise SystemExit("no server today")\n', "utf-8")


def test_one_row(template: Path) -> None:
    """A combination works; what is held back by our own ranges is told, and is no failure."""
    service, older = template / TEMPLATE, "25.3.0.20260408"
    replace(service / "pyproject.toml", '"types-gunicorn[^"]*"', '"types-gunicorn>=25,<26"')
    must(run([UV, "lock", "--quiet", "--upgrade-package", f"types-gunicorn=={older}"], service, environment()))
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^ +1 +\d+ s  no option: works$", result.stdout, re.MULTILINE)
    moved, held = result.stdout.split("Moved up:")[1].split("Newer than pyproject.toml allows:")
    assert re.search(rf"^  types-gunicorn v{older} -> v25\.\S+$", moved, re.MULTILINE)
    assert re.search(r"^  types-gunicorn v25\.\S+ -> v(?!25)\S+$", held, re.MULTILINE)


@pytest.mark.parametrize(
    ("breaks", "sentence", "said"),
    [
        (lock_is_stale, f"`{UV} lock --check` ends with 1", "The lockfile"),
        (has_a_fault_in_code, "`make test` ends with 2", "F401"),
        (drops_the_id, "GET /api/demo (an answer) lacks its ID in: body", '"GET /api/demo HTTP/1.1"'),
        (fails_always, "GET /api/demo (an answer) is answered with 500, not with 200", "Traceback"),
        (does_not_start, "gunicorn does not come up, or writes no access line with the ID", "no server today"),
    ],
)
def test_broken_service(template: Path, breaks: Callable[[Path], None], sentence: str, said: str) -> None:
    """What does not work is told in a sentence, with everything that was said, and the exit code is 1."""
    breaks(template / TEMPLATE)
    result = drift("--only", "1", "--template", template)
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(rf"^ +1 +\d+ s  no option: {re.escape(sentence)}$", result.stdout, re.MULTILINE), result.stdout
    assert said in result.stdout.split(f"\n{sentence}. Everything that was said:\n")[1]
    assert result.stderr == ""


def test_fault_of() -> None:
    """Each place, the status and the ID that was brought along count."""
    assert fault_of(GOOD, {200}) == ""
    assert fault_of(GOOD, {503, 404}) == "GET /there (an answer) is answered with 200, not with 404 or 503"
    for place, name in {"header": "header", "body": "body", "access": "access line", "log": "log"}.items():
        trail = Trail(**vars(GOOD) | {place: "another-id"})
        assert fault_of(trail, {200}) == f"GET /there (an answer) lacks its ID in: {name}"
    another = Trail(**vars(GOOD) | {"request_id": "another-id"})
    assert fault_of(another, {200}) == "GET /there (an answer) does not keep the ID that it brings along"
    nothing = Trail(Step("an answer", "/there", logs=False), 200, "", "", "", "", "")
    assert fault_of(nothing, {200, 503}) == "GET /there (an answer) lacks its ID in: header, body, access line"


def test_no_such_row() -> None:
    """A number that no combination has is refused before anything is made."""
    result = drift("--only", "0")
    assert result.returncode == 2
    assert "invalid choice: 0" in result.stderr
    assert result.stdout == ""
