"""Good answers, impossible ones, hostile ones."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from scripts.combinations import options
from tests.support.baking import TOOLS, bake, bake_by_command, files_below, literal, must, run

SENTENCES = {
    "project_name": ("The answer to project_name", ["   ", "x" * 201, "two\nlines", "bell\a", "separator\u2028"]),
    "description": ("The answer to description", ["", "x" * 201, "two\r\nlines"]),
    "full_name": ("The answer to full_name", ["", "Ada\tLovelace"]),
    "email": ("email", ["", "nobody", "a@b@c", "Ada <ada@example.com>", "ada @example.com"]),
    "year": ("The year", ["", "26", "next year"]),
    "project_slug": (
        "The project_slug",
        [
            "",
            "Upper",
            "under_score",
            "-dash",
            "dash-",
            "two--dashes",
            "1st",
            "with space",
            "dotted.name",
            "é",
            "x" * 64,
        ],
    ),
}
PATHS = ["../outside", "../../outside/deep", "a/b/c", "..", ".", "/", "back\\slash", "line\n", "-rf", "~", "$(id)"]
TAKEN = ["app", "tests", "gun", "con", "nul", "aux", "com1"]
BAD = [(key, value, words) for key, (words, values) in SENTENCES.items() for value in values]
BAD += [("project_slug", value, "The project_slug") for value in [*PATHS, *TAKEN]]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_refused_alone(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], bad: tuple[str, str, str]
) -> None:
    """One bad answer, one full sentence that names it, and nothing on the disk."""
    key, value, words = bad
    output = tmp_path / "some" / "output"
    output.mkdir(parents=True)
    with pytest.raises(Exception, match="Hook script failed"):
        bake(repository, output, **{"project_slug": "fine", key: literal(value)})
    sentences = [line for line in capfd.readouterr().err.splitlines() if line.startswith("The ")]
    assert len(sentences) == 1
    assert words in sentences[0]
    assert sentences[0].endswith(".")
    assert files_below(tmp_path) <= {"some/cookiecutter.yaml", "some/replay_dir/template.json"}
    assert [path.name for path in output.iterdir()] == []


def test_refused_with_absolute_slug(repository: Path, tmp_path: Path) -> None:
    """A slug that is a path elsewhere does not even make a folder there."""
    elsewhere = tmp_path / "elsewhere" / "deep"
    result = bake_by_command(repository, tmp_path / "output", f"project_slug={elsewhere}")
    assert result.returncode == 1
    assert "The project_slug" in result.stderr
    assert not elsewhere.parent.exists()
    assert list((tmp_path / "output").iterdir()) == []


def test_refused_all_at_once(repository: Path, tmp_path: Path) -> None:
    """Whoever answers everything wrong reads of everything in one go."""
    bad = ["project_name= ", "project_slug=../No", "description=", "full_name=", "email=nobody", "year=soon"]
    result = bake_by_command(repository, tmp_path / "output", *bad)
    assert result.returncode == 1
    assert sum(line.startswith("The ") for line in result.stderr.splitlines()) == len(bad)
    assert list((tmp_path / "output").iterdir()) == []


def test_unknown_license(repository: Path, tmp_path: Path) -> None:
    """Cookiecutter itself refuses what is not among the choices."""
    result = bake_by_command(repository, tmp_path / "output", "license=WTFPL")
    assert result.returncode != 0
    assert list((tmp_path / "output").iterdir()) == []


def test_option_that_is_neither_on_nor_off(repository: Path, tmp_path: Path) -> None:
    """Cookiecutter itself refuses a word; our hook what an edited file of answers may hold."""
    result = bake_by_command(repository, tmp_path / "output", "core_tests=maybe")
    assert result.returncode == 1
    assert "core_tests could not be converted to a boolean" in result.stderr
    with pytest.raises(Exception, match="Hook script failed"):
        bake(repository, tmp_path / "output", core_tests=7)
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.parametrize("edit", [{"project_slug": "../outside"}, {"year": 2026}, {"core_tests": "yes"}], ids=str)
def test_edited_replay(repository: Path, tmp_path: Path, edit: dict[str, object]) -> None:
    """Answers that were changed in the file of a replay are checked as if they had been typed."""
    must(bake_by_command(repository, tmp_path / "output"))
    replay = tmp_path / "replay_dir" / f"{repository.name}.json"
    answers = json.loads(replay.read_text("utf-8"))
    answers["cookiecutter"] |= edit
    replay.write_text(json.dumps(answers), "utf-8")
    before = files_below(tmp_path)
    result = run(
        [
            TOOLS / "cookiecutter",
            repository,
            "--config-file",
            tmp_path / "cookiecutter.yaml",
            "-o",
            tmp_path / "deep" / "output",
            "--replay",
        ],
        tmp_path,
    )
    assert result.returncode == 1
    assert f"The {'' if 'project_slug' in edit else 'answer to '}{next(iter(edit))}" in result.stderr
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("slug", ["pre-commit", "identify"])
def test_slug_of_a_package_of_an_option(repository: Path, tmp_path: Path, slug: str) -> None:
    """Nor could the option be switched on later."""
    result = bake_by_command(repository, tmp_path / "output", f"project_slug={slug}", "pre_commit=no")
    assert result.returncode == 1
    assert f"'{slug}' is the name of a package the service needs" in result.stderr


def test_slug_of_a_needed_package(repository: Path, tmp_path: Path) -> None:
    """A service named as a package that it installs could not be locked."""
    result = bake_by_command(repository, tmp_path / "output", "project_slug=anyio")
    assert result.returncode == 1
    assert "'anyio' is the name of a package the service needs" in result.stderr
    assert list((tmp_path / "output").iterdir()) == []


HOSTILE = [
    """it's "quoted" and `ticked`""",
    '"""',
    '""""',
    "'''",
    "ends with a backslash \\",
    'backslash and quote \\" \\\\" \\',
    r"\g<0> \1 \n \u0041 C:\new\table",
    "{{ cookiecutter.email }} {% raw %} {# no #}",
    "{ } {{ }} }}{{ %} {%",
    "<b>bold</b> & <script>alert(1)</script> &amp; <!-- gone",
    "*bold* _thin_ __init__ snake_case ~~gone~~ # hash #",
    "[link](https://example.com) ![picture](x.png)",
    "- 1. > + | = ---",
    "#",
    "🛰️ ünïcödé 漢字 👩‍👩‍👧 <year> <holder>",
    '""")\n'.strip() + ';__import__("pathlib").Path("canary").touch()#',
    '\'"); __import__("os").abort() #',
    "$(touch canary) `touch canary` ; touch canary",
    "[project]",
    "x" * 200,
]


def plain_text(markdown: str) -> list[str]:
    """Give what a reader sees of each block of a Markdown text, as far as it is text or code."""
    blocks = (token for token in MarkdownIt().enable("strikethrough").parse(markdown) if token.type == "inline")
    return ["".join(child.content for child in block.children or ()) for block in blocks]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_answers_survive(repository: Path, tmp_path: Path, value: str) -> None:
    """An answer comes out as it went in, in TOML, Markdown and plain text, and is never executed."""
    names = dict.fromkeys(("project_name", "description", "full_name"), literal(value))
    project = bake(repository, tmp_path / "output", project_slug="fine", **names)
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert table["description"] == value
    assert table["authors"] == [{"name": value, "email": "you@example.com"}]
    assert value in (project / "LICENSE").read_text("utf-8")
    heading, paragraph, *_ = plain_text((project / "README.md").read_text("utf-8"))
    assert heading == value
    assert paragraph == f"fine: {value}"
    assert not any("canary" in path for path in files_below(tmp_path))


def test_typed_answers(repository: Path, tmp_path: Path) -> None:
    """Answers typed at the prompts, of which cookiecutter renders none; the empty ones take the default."""
    answers = ["y", *[""] * (len(options()) - 2), "no", ""]
    names = ["Grace Hopper", "grace@example.com", "3", "1999"]
    lines = ["Fleet & {{ Co }}", "", 'Counts "ships" \\ {% boats %}', *answers, *names]
    result = must(bake_by_command(repository, tmp_path / "output", typed="\n".join(lines) + "\n"))
    project = tmp_path / "output" / "fleet-co"
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert table["description"] == lines[2]
    assert table["license"] == "BSD-3-Clause"
    assert "Copyright (c) 1999, Grace Hopper" in (project / "LICENSE").read_text("utf-8")
    assert "Name of the service" in result.stdout
    assert f"with:     {options()[0]}\n" in result.stdout
    assert f"without:  {', '.join(sorted(options()[1:]))}\n" in result.stdout


@pytest.mark.parametrize("license_id", ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"])
def test_licenses(repository: Path, tmp_path: Path, license_id: str) -> None:
    """One text stays, with year and holder in it."""
    project = bake(repository, tmp_path / "output", license=license_id, year="2031", full_name="Ada")
    text = (project / "LICENSE").read_text("utf-8")
    assert "2031" in text
    assert "Ada" in text
    assert "<" not in text
    assert not (project / "licenses").exists()


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Trail Service", "trail-service"), ("  Été  2026! ", "ete-2026"), ("a_b.c", "a-b-c"), ("🛰️", "service")],
)
def test_slug_from_name(repository: Path, tmp_path: Path, name: str, slug: str) -> None:
    """The slug follows from the name, also where little of the name can be kept."""
    assert bake(repository, tmp_path / "output", project_name=name, year="2026").name == slug


def test_screen(repository: Path, tmp_path: Path) -> None:
    """The last word: what was made, and the next three commands; nothing on standard error."""
    result = must(bake_by_command(repository, tmp_path / "output", "full_name=Ada", "license=MIT", "year=2031"))
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == "Trail Service is ready."
    assert "author:   Ada <you@example.com>" in lines
    assert "licence:  MIT, 2031" in lines
    assert "with:     docker" in lines
    assert f"without:  {', '.join(sorted(set(options()) - {'docker'}))}" in lines
    next_steps = ["make run", "make test", "docker compose up --wait"]
    assert lines[-4:] == [f"cd {tmp_path / 'output' / 'trail-service'}", *next_steps]
    assert result.stderr == ""


def test_screen_without_letters(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot show a name is no reason to fail."""
    monkeypatch.setitem(os.environ, "PYTHONIOENCODING", "ascii")
    result = bake_by_command(repository, tmp_path / "output", "project_name=Ünïcödé 🛰️", "project_slug=plain")
    assert must(result).stdout.count("is ready.") == 1
