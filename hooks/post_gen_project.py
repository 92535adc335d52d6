"""Makes the copied service the user's own: puts the names in, keeps the chosen licence, says what comes next.

Cookiecutter has copied every file byte for byte; the few places that hold a name hold a valid one until now. Each step
takes the project's folder and the answers and leaves the same result when it runs again. Options come as one more step,
before the names: what a refused option owns leaves first.
"""

import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Answers = Mapping[str, str]

# The only tag of this file; why no answer can leave this literal is said in pre_gen_project.py.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

SPDX_OF_PROPRIETARY = "LicenseRef-Proprietary"
ROOT_PACKAGE = re.compile(r'(?m)^name = "(?P<name>[^"]*)"(?=\nversion = "[^"]*"\nsource = \{ virtual = "\." \})')
LOCKED_NAMES = re.compile(r'(?m)^\[\[package\]\]\nname = "([^"]*)"')
# What Markdown reads as markup inside of a line, a `_` between two letters aside.
MARKUP = re.compile(r"[\\`*\[\]<>&~#]|(?<![^\W_])_|_(?![^\W_])")


def read(path: Path) -> str:
    """Read a text file; its line ends stay as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def write(path: Path, text: str) -> None:
    """Write a text file with the line ends that `text` has, on every system."""
    path.write_bytes(text.encode())


def toml_string(text: str) -> str:
    """Write `text` as a TOML basic string, quotation marks included."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def markdown_text(text: str) -> str:
    """Write `text` so that Markdown shows it as it is, anywhere but at the start of a line."""
    return MARKUP.sub(lambda match: "\\" + match[0], text)


def set_value(table: str, key: str, value: str) -> str:
    """Set `key = value` in the lines of a TOML table: where the key stands, else below the description."""
    line = f"{key} = {value}"
    if re.search(rf"^{key} = ", table, re.MULTILINE):
        return re.sub(rf"^{key} = .*$", lambda _: line, table, count=1, flags=re.MULTILINE)
    return re.sub(r"^description = .*$", lambda match: f"{match[0]}\n{line}", table, count=1, flags=re.MULTILINE)


def name_project(project: Path, answers: Answers) -> None:
    """Put name, description, authors and licence into the [project] table of pyproject.toml."""
    author = f"name = {toml_string(answers['full_name'])}, email = {toml_string(answers['email'])}"
    license_id = SPDX_OF_PROPRIETARY if answers["license"] == "Proprietary" else answers["license"]
    table, *others = re.split(r"(?m)(?=^\[)", read(project / "pyproject.toml").removeprefix("[project]"))
    table = set_value(table, "name", toml_string(answers["project_slug"]))
    table = set_value(table, "description", toml_string(answers["description"]))
    table = set_value(table, "license", toml_string(license_id))
    table = set_value(table, "authors", "[{ " + author + " }]")
    write(project / "pyproject.toml", "".join(["[project]", table, *others]))


def name_lock(project: Path, answers: Answers) -> None:
    """Give the root package of uv.lock its new name, so that the lock still holds.

    Raises SystemExit with a sentence when the service would have the name of a package that it needs.
    """
    slug, lock = answers["project_slug"], read(project / "uv.lock")
    root = ROOT_PACKAGE.search(lock)
    if root is None:
        sys.exit("The uv.lock of the template has no root package: the template is broken, not your answers.")
    if slug != root["name"] and slug in LOCKED_NAMES.findall(lock):
        sys.exit(f"The project_slug {slug!r} is the name of a package the service needs: choose another one.")
    write(project / "uv.lock", f'{lock[: root.start()]}name = "{slug}"{lock[root.end() :]}')


def name_readme(project: Path, answers: Answers) -> None:
    """Put name and description into the heading and the first paragraph of README.md, its lines 1 and 3."""
    lines = read(project / "README.md").split("\n")
    lines[0] = f"# {markdown_text(answers['project_name'])}"
    lines[2] = f"**{answers['project_slug']}**: {markdown_text(answers['description'])}"
    write(project / "README.md", "\n".join(lines))


def choose_license(project: Path, answers: Answers) -> None:
    """Make the text of the chosen licence LICENSE, with year and holder, and remove the others."""
    texts = project / "licenses"
    if texts.is_dir():
        text = read(texts / f"{answers['license']}.txt")
        write(project / "LICENSE", text.replace("<year>", answers["year"]).replace("<holder>", answers["full_name"]))
        shutil.rmtree(texts)


STEPS: tuple[Callable[[Path, Answers], None], ...] = (name_project, name_lock, name_readme, choose_license)


def closing(project: Path, answers: Answers) -> str:
    """Say what was made, and the next three commands."""
    return f"""
{answers["project_name"]} is ready.

  what     {answers["description"]}
  package  {answers["project_slug"]}
  author   {answers["full_name"]} <{answers["email"]}>
  licence  {answers["license"]}, {answers["year"]}

Next:

  cd {shlex.quote(str(project))}
  make run
  make test
"""


def main() -> None:
    """Take every step in the current folder, which is the new project, and close with a word to the user."""
    answers = json.loads(ANSWERS)
    for step in STEPS:
        step(Path.cwd(), answers)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a screen that lacks a letter is no reason to delete the project
    if "_output_dir" in answers:  # an update of cruft renders into folders that are gone a moment later
        print(closing(Path.cwd(), answers))


if __name__ == "__main__":
    main()
