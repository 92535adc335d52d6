"""The hooks' functions, without a template around them."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hooks import post_gen_project as post
from hooks import pre_gen_project as pre
from scripts.snapshot import ROOT
from tests.baking import NO_INTERPRETER, TEMPLATE_DIR, files_below, interpreter, must, run

OPTIONS = list(json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8")))
GOOD: dict[str, Any] = {
    "project_name": "Trail Service",
    "project_slug": "trail-service",
    "description": "Follows requests.",
    "full_name": "Ada Lovelace",
    "email": "ada@example.com",
    "license": "MIT",
    "year": "2026",
    **dict.fromkeys(OPTIONS, True),
}
Capture = pytest.CaptureFixture[str]
CHANGED = ("pyproject.toml", "uv.lock", "README.md", "features.json")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A project as it is before the last hook: the files that a hook changes."""
    for name in CHANGED:
        shutil.copy(TEMPLATE_DIR / name, tmp_path / name)
    shutil.copytree(TEMPLATE_DIR / "licenses", tmp_path / "licenses")
    return tmp_path


def test_good_answers() -> None:
    assert pre.faults(GOOD) == []


@pytest.mark.parametrize("slug", ["a", "a1", "trail-service", "x" * 63, "a-1-b"])
def test_good_slugs(slug: str) -> None:
    assert pre.faults(GOOD | {"project_slug": slug}) == []


@pytest.mark.parametrize("email", ["a@b", "ada.lovelace+x@example.co.uk", "ädä@exämple.com"])
def test_good_emails(email: str) -> None:
    assert pre.faults(GOOD | {"email": email}) == []


def test_no_answers() -> None:
    """Every answer that is not there is a fault of its own."""
    assert len(pre.faults({})) == len(GOOD) - len(OPTIONS)


def test_the_answered_slug_counts() -> None:
    """Not the harmless one that cookiecutter has put in its place."""
    (fault,) = pre.faults(GOOD | {"project_slug": "refused-project-slug", "__project_slug": "../up"})
    assert "'../up'" in fault


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\udc80"])
def test_unprintable(character: str) -> None:
    """The sentence shows the character, and cannot do harm to the terminal."""
    (fault,) = pre.faults(GOOD | {"full_name": f"Ada{character}"})
    assert fault.isascii()
    assert fault.isprintable()


def test_license_of_the_choices() -> None:
    """What is asked, what is checked and what lies there are the same licences."""
    assert set(pre.LICENSES) == {path.stem for path in (TEMPLATE_DIR / "licenses").iterdir()}
    (fault,) = pre.faults(GOOD | {"license": "WTFPL"})
    assert fault.startswith("The license 'WTFPL'")


def test_long_values_are_cut() -> None:
    (fault,) = pre.faults(GOOD | {"year": "9" * 10_000})
    assert len(fault) < 200


def test_toml_string() -> None:
    """Every character that TOML can hold comes back."""
    text = "".join(map(chr, [*range(0x500), 0x2028, 0xFFFD, 0x1F6F0])) + '"""\\'
    assert tomllib.loads(f"text = {post.toml_string(text)}")["text"] == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain text, my_service", "plain text, my_service"), ("*_a_* <b>", r"\*\_a\_\* \<b\>"), ("__x__", r"\_\_x\_\_")],
)
def test_markdown_text(text: str, shown: str) -> None:
    assert post.markdown_text(text) == shown


def test_set_value() -> None:
    table = '\nname = "a"\ndescription = "b"\nreadme = "c"\n'
    assert post.set_value(table, "name", r'"\1"') == '\nname = "\\1"\ndescription = "b"\nreadme = "c"\n'
    assert post.set_value(table, "license", '"MIT"').splitlines()[3] == 'license = "MIT"'


def test_only_the_project_table_is_named(copied: Path) -> None:
    """Other tables keep their names: contracts of the import linter have some."""
    before = tomllib.loads((copied / "pyproject.toml").read_text("utf-8"))
    post.name_project(copied, GOOD)
    after = tomllib.loads((copied / "pyproject.toml").read_text("utf-8"))
    added = {"name": "trail-service", "description": "Follows requests.", "license": "MIT"}
    author = {"authors": [{"name": "Ada Lovelace", "email": "ada@example.com"}]}
    assert after == before | {"project": before["project"] | added | author}


def test_only_one_name_changes_in_the_lock(copied: Path) -> None:
    before = (copied / "uv.lock").read_text("utf-8").splitlines()
    post.name_lock(copied, GOOD)
    after = (copied / "uv.lock").read_text("utf-8").splitlines()
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [('name = "service"', 'name = "trail-service"')]


def test_no_root_package(copied: Path) -> None:
    (copied / "uv.lock").write_text("version = 1\n")
    with pytest.raises(SystemExit, match="the template is broken, not your answers"):
        post.name_lock(copied, GOOD)


def test_name_of_a_needed_package(copied: Path) -> None:
    with pytest.raises(SystemExit, match="'fastapi' is the name of a package the service needs"):
        post.name_lock(copied, GOOD | {"project_slug": "fastapi"})


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(files_below(folder))}


def test_twice_is_once(copied: Path) -> None:
    """An update runs the hooks again; what was done stays as it is."""
    for step in post.STEPS:
        step(copied, GOOD)
    once = contents(copied)
    assert set(once) == {*CHANGED, "LICENSE"} - {"features.json"}
    for step in post.STEPS:
        step(copied, GOOD)
    assert contents(copied) == once


def test_closing_quotes_the_folder(tmp_path: Path) -> None:
    """The command can be pasted also where the folder has a space."""
    folder = tmp_path / "my service"
    assert f"cd '{folder}'" in post.closing(folder, GOOD, "", "")


@pytest.mark.parametrize("hook", ["pre_gen_project.py", "post_gen_project.py"])
def test_standard_library_only(hook: str) -> None:
    """Whatever Python runs cookiecutter runs the hooks, with no package of ours."""
    code = f"import sys; sys.path.insert(0, '.'); import {hook.removesuffix('.py')}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    modules = subprocess.run(command, cwd=ROOT / "hooks", check=True, capture_output=True, text=True).stdout.split()
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"__main__", hook[:-3]}
    assert not {name for name in foreign if not name.startswith("_")}


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_old_and_new_python(copied: Path, version: str) -> None:
    """Whatever Python cookiecutter runs with: the hooks run, and do the same."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"{NO_INTERPRETER}: Python {version}.")
    answers = json.dumps(GOOD | {"_output_dir": ".", "_repo_dir": "."})
    for hook in ("pre_gen_project.py", "post_gen_project.py"):
        script = copied.parent / hook
        script.write_text((ROOT / "hooks" / hook).read_text("utf-8").replace("{{ cookiecutter | tojson }}", answers))
        must(run([python, "-W", "error", script], copied))
    assert "Copyright (c) 2026 Ada Lovelace" in (copied / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("number", [0, 1])
def test_silent_in_an_update(copied: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Only cookiecutter itself tells where the template lies; cruft does not, and there is nothing to say."""
    folders = {"_output_dir": str(copied.parent), "_repo_dir": str(copied.parent)}
    answers = GOOD | (folders if number else {})
    monkeypatch.setattr(post, "ANSWERS", json.dumps(answers))
    monkeypatch.chdir(copied)
    post.main()
    assert capsys.readouterr().out.count("make run") == number


@pytest.mark.parametrize("hook", ["pre_gen_project.py", "post_gen_project.py"])
def test_one_tag(hook: str) -> None:
    """Nothing but the answers is rendered into a hook."""
    text = (ROOT / "hooks" / hook).read_text("utf-8")
    assert text.count("{{") == text.count("}}") == 1
    assert "{%" not in text
    assert "{#" not in text
