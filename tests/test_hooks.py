"""The functions of the hooks, without cookiecutter."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hooks import post_gen_project as post
from hooks import pre_gen_project as pre
from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.support.baking import NO_INTERPRETER, TEMPLATE_DIR, VALID_ANSWERS, interpreter, must, run
from tests.support.updating import contents

BOTH_HOOKS = pytest.mark.parametrize("hook", ["pre_gen_project.py", "post_gen_project.py"])
CHANGED = ("pyproject.toml", "uv.lock", "README.md", "features.json")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A project before the post-generation hook: the files that the hook changes."""
    for name in CHANGED:
        shutil.copy(TEMPLATE_DIR / name, tmp_path / name)
    shutil.copytree(TEMPLATE_DIR / "licenses", tmp_path / "licenses")
    return tmp_path


def test_toml_string_keeps_every_character() -> None:
    text = "".join(map(chr, [*range(0x500), 0x2028, 0xFFFD, 0x1F6F0])) + '"""\\'
    assert tomllib.loads(f"text = {post.toml_string(text)}")["text"] == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("plain text, my_service", "plain text, my_service"), ("*_a_* <b>", r"\*\_a\_\* \<b\>"), ("__x__", r"\_\_x\_\_")],
)
def test_markdown_text_escapes_markup(text: str, escaped: str) -> None:
    assert post.markdown_text(text) == escaped


def test_answers_change_only_the_project_table(copied: Path) -> None:
    before = tomllib.loads((copied / "pyproject.toml").read_text("utf-8"))
    post.name_project(copied, VALID_ANSWERS)
    after = tomllib.loads((copied / "pyproject.toml").read_text("utf-8"))
    added = {"name": "trail-service", "description": "Follows requests.", "license": "MIT"}
    author = {"authors": [{"name": "Ada Lovelace", "email": "ada@example.com"}]}
    assert after == before | {"project": before["project"] | added | author}


def test_root_package_in_the_lock_is_renamed_and_sorted(copied: Path) -> None:
    before = (copied / "uv.lock").read_text("utf-8").rstrip("\n").split("\n\n[[package]]\n")
    post.name_lock(copied, VALID_ANSWERS)
    after = (copied / "uv.lock").read_text("utf-8").rstrip("\n").split("\n\n[[package]]\n")
    renamed = [block.replace('name = "service"\nversion', 'name = "trail-service"\nversion') for block in before]
    assert after == [renamed[0], *sorted(renamed[1:])]
    assert after != renamed


def test_lock_without_a_root_package_is_reported_as_an_error_in_the_template(copied: Path) -> None:
    (copied / "uv.lock").write_text("version = 1\n")
    with pytest.raises(SystemExit, match="this is an error in the template, not in your answers"):
        post.name_lock(copied, VALID_ANSWERS)


def test_name_of_a_needed_package_is_rejected(copied: Path) -> None:
    with pytest.raises(SystemExit, match="'fastapi' is the name of a package that the service needs"):
        post.name_lock(copied, VALID_ANSWERS | {"project_slug": "fastapi"})


FENCED = """\
all: 1
# >>> nats
nats: 1
# <<< nats
services:
  # >>> celery saq
  redis: 1
  # >>> celery
  worker: 1
  # <<< celery
  # <<< celery saq
end: 1
"""


@pytest.mark.parametrize(
    ("chosen", "remaining"),
    [
        ([], "all services end"),
        (["nats"], "all nats services end"),
        (["saq"], "all services redis end"),
        (["celery"], "all services redis worker end"),
        (["celery", "saq", "nats"], "all nats services redis worker end"),
    ],
)
def test_fenced_lines_stay_if_one_option_of_the_fence_is_chosen(chosen: list[str], remaining: str) -> None:
    text = post.strip_fences(FENCED, ["celery", "nats", "saq"], chosen)
    assert [line.split(":")[0].strip() for line in text.splitlines()] == remaining.split()


@pytest.mark.parametrize(
    "text",
    ["# >>> saq\none\n", "one\n# <<< saq\n", "# >>> saq\none\n# <<< nats\n", "a # >>> saq\n", "# >>> x\n# <<< x\n"],
)
def test_text_that_is_not_a_fence_is_unchanged(text: str) -> None:
    """Such as a fence that is not closed, or one of the owner that does not name an option."""
    assert post.strip_fences(text, ["saq"], []) == text


def test_fences_in_code_and_binary_files_and_in_folders_of_git_and_uv_are_unchanged(tmp_path: Path) -> None:
    """Those folders exist when a project is generated again in the same place."""
    fence = b"# >>> saq\n# <<< saq\n"
    unfenced = ("a.py", "a.json", ".git/description", ".uv/deep/a.yaml", ".venv/activate")
    files = dict.fromkeys(unfenced, fence) | {"a.png": b"\xff\xfe" + fence, "a.yaml": fence}
    for name, raw in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    post.strip_fences_in_files(tmp_path, ["saq"], [])
    assert {name: (tmp_path / name).read_bytes() for name in files} == files | {"a.yaml": b""}


def test_removing_paths_removes_empty_folders(tmp_path: Path) -> None:
    for name in ("deploy/k8s/a.yaml", "deploy/nginx/b.conf", "tests/test_a.py", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    post.remove_paths(tmp_path, ["deploy/k8s", "tests/test_a.py", "gone", "gone/as/well"])
    remaining = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert remaining == {"deploy", "deploy/nginx", "deploy/nginx/b.conf", "c"}


def test_path_of_two_options_is_removed_if_both_are_declined() -> None:
    features = {"saq": {"paths": ["a", "shared"]}, "celery": {"paths": ["b", "shared"]}}
    assert post.declined_items(features, ["saq"], "paths") == {"b"}
    assert post.declined_items(features, [], "paths") == {"a", "b", "shared"}
    assert post.declined_items(features, ["saq", "celery"], "paths") == set()


@BOTH_HOOKS
def test_hook_has_one_jinja_tag_and_uses_no_shell_and_no_unix_only_function(hook: str) -> None:
    text = (ROOT / "hooks" / hook).read_text("utf-8")
    assert text.count("{{") == text.count("}}") == 1
    assert not re.search(r"\{%|\{#|shell=|os\.system|os\.popen|symlink|chmod|import (pwd|fcntl|grp)", text)


def test_template_has_no_file_name_that_windows_reserves_and_no_symbolic_link() -> None:
    paths = [path.relative_to(TEMPLATE).as_posix() for path in known_files() if path.parts[0] == TEMPLATE]
    assert paths
    for path in paths:
        for part in Path(path).parts:
            assert not set(part) & set('<>:"|?*\\'), path
            assert part == part.rstrip(". "), path
            assert part.split(".")[0].lower() not in pre.DEVICE_NAMES, path
    assert len({path.lower() for path in paths}) == len(paths)
    assert [path for path in paths if (TEMPLATE_DIR / path).is_symlink()] == []


@pytest.mark.parametrize(
    ("path", "start", "found"),
    [("templates/trail", "PWD", True), ("templates/trail", "_output_dir", True), ("nowhere", "PWD", False)],
)
def test_relative_path_of_the_template_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, start: str, found: bool
) -> None:
    folder = tmp_path / "templates" / "trail"
    folder.mkdir(parents=True)
    (folder / "cookiecutter.json").touch()
    starts = {"PWD": str(tmp_path / "elsewhere"), "_output_dir": str(tmp_path / "out")} | {start: str(tmp_path)}
    monkeypatch.setenv("PWD", starts["PWD"])
    answers = {"_repo_dir": path, "_output_dir": starts["_output_dir"]}
    assert (post.template_folder(answers) == folder.resolve()) is found
    assert post.template_folder(answers | {"_repo_dir": str(folder)}) == folder.resolve()


def test_second_run_of_the_steps_changes_nothing(copied: Path) -> None:
    for step in post.STEPS:
        step(copied, VALID_ANSWERS)
    once = contents(copied)
    assert set(once) == {*CHANGED, "LICENSE"} - {"features.json"}
    for step in post.STEPS:
        step(copied, VALID_ANSWERS)
    assert contents(copied) == once


def test_folder_with_a_space_is_quoted_in_the_output(tmp_path: Path) -> None:
    folder = tmp_path / "my service"
    assert f"cd '{folder}'" in post.closing_message(folder, VALID_ANSWERS, "", "")


@BOTH_HOOKS
def test_hook_imports_only_the_standard_library(hook: str) -> None:
    code = f"import sys; sys.path.insert(0, '.'); import {hook.removesuffix('.py')}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    modules = subprocess.run(command, cwd=ROOT / "hooks", check=True, capture_output=True, text=True).stdout.split()
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"__main__", hook[:-3]}
    assert not {name for name in foreign if not name.startswith("_")}


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_hooks_run_on_each_python_version(copied: Path, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"{NO_INTERPRETER}: Python {version}.")
    answers = json.dumps(VALID_ANSWERS | {"_output_dir": ".", "_repo_dir": "."})
    for hook in ("pre_gen_project.py", "post_gen_project.py"):
        script = copied.parent / hook
        script.write_text((ROOT / "hooks" / hook).read_text("utf-8").replace("{{ cookiecutter | tojson }}", answers))
        must(run([python, "-W", "error", script], copied))
    assert "Copyright (c) 2026 Ada Lovelace" in (copied / "LICENSE").read_text("utf-8")
