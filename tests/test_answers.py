"""Good answers, impossible ones, hostile ones: what the hooks make of them, and cookiecutter with them."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hooks import post_gen_project as post
from hooks import pre_gen_project as pre
from scripts.combinations import options
from tests.support.baking import GOOD, TEMPLATE_DIR, bake, bake_by_command, files_below, literal, must

BAD_SLUGS = ["Upper", "under_score", "-dash", "dash-", "two--dashes", "1st", "with space", "dotted.name", "é", "x" * 64]
TAKEN = ["app", "tests", "gun", "con", "nul", "aux", "com1"]
PATHS = ["", "../outside", "../../outside/deep", "a/b/c", "..", ".", "/", "back\\slash", "line\n", "-rf", "~", "$(id)"]
UNPRINTABLE = "\t\n\r\0\x1b\x7f\x85\u2028\u2029\udc80\u202e\u2066"
BAD = {
    "project_name": ["   ", "x" * 201, "two\nlines", "bell\a", "separator\u2028"],
    "description": ["", "x" * 201, "two\r\nlines"],
    "full_name": ["", *(f"Ada{character}" for character in UNPRINTABLE)],
    "email": ["", "nobody", "a@b@c", "Ada <ada@example.com>", "ada @example.com"],
    "year": ["", "26", "next year", "9" * 10_000],
    "license": ["", "WTFPL"],
    "project_slug": [*BAD_SLUGS, *TAKEN, *PATHS],
}


EACH_BAD = [(key, value) for key, values in BAD.items() for value in values]


@pytest.mark.parametrize("bad", EACH_BAD, ids=lambda bad: ascii(bad)[:60])
def test_impossible_answer_is_named_in_one_sentence(bad: tuple[str, str]) -> None:
    key, value = bad
    (sentence,) = pre.faults(GOOD | {key: value})
    assert re.match(rf"The (answer to )?{key}\b.+\.$", sentence)
    assert sentence.isascii()
    assert sentence.isprintable()
    assert len(sentence) < 400


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        *((options()[0], value, ": write true or false.") for value in ("yes", "", 1, None, ["on"])),
        *((key, 2026, ", and no text: write it in quotation marks.") for key in ("year", "full_name", "project_slug")),
    ],
)
def test_answer_of_another_kind_is_a_fault(key: str, value: object, hint: str) -> None:
    assert f"The answer to {key} is {str(value)!r}{hint}" in pre.faults(GOOD | {key: value})


def test_every_missing_answer_is_a_fault() -> None:
    assert len(pre.faults({})) == len(GOOD) - len(options())


def test_known_licenses_are_those_that_have_a_text() -> None:
    assert set(pre.LICENSES) == {path.stem for path in (TEMPLATE_DIR / "licenses").iterdir()}


SLUGS = ["a", "a1", "trail-service", "x" * 63, "a-1-b"]
EMAILS = ["a@b", "ada.lovelace+x@example.co.uk", "ädä@exämple.com"]


@pytest.mark.parametrize(
    "answer", [*({"project_slug": slug} for slug in SLUGS), *({"email": email} for email in EMAILS)], ids=str
)
def test_good_answer_is_accepted(answer: dict[str, str]) -> None:
    assert pre.faults(GOOD | answer) == []


@pytest.mark.parametrize("slug", [*PATHS, "<absolute>"], ids=repr)
def test_slug_that_is_a_path_leaves_nothing_on_the_disk(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], slug: str
) -> None:
    slug = slug.replace("<absolute>", str(tmp_path / "elsewhere" / "deep"))
    output = tmp_path / "some" / "output"
    output.mkdir(parents=True)
    with pytest.raises(Exception, match="Hook script failed"):
        bake(repository, output, project_slug=literal(slug))
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("The ")]
    assert sentence.startswith(f"The project_slug {pre.shown(slug)} ")
    assert files_below(tmp_path) <= {"some/cookiecutter.yaml", "some/replay_dir/template.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["some"]
    assert [path.name for path in output.iterdir()] == []


NEEDED = "is the name of a package the service needs"
REFUSED = {
    "every answer": (["project_name= ", "project_slug=../No", "description=", "full_name=", "email=no", "year=x"], ""),
    "a needed package": (["project_slug=anyio"], f"'anyio' {NEEDED}"),
    "a package of a declined option": (["project_slug=pre-commit", "pre_commit=no"], f"'pre-commit' {NEEDED}"),
}
"""Impossible answers, and what is said of them beside a sentence for each."""


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_answers_are_named_at_once_and_leave_no_project(repository: Path, tmp_path: Path, case: str) -> None:
    """Under the name of a package the service could not be locked, or not be given the option later."""
    answers, words = REFUSED[case]
    result = bake_by_command(repository, tmp_path / "output", *answers)
    assert result.returncode == 1
    faults = [answer for answer in answers if answer != "pre_commit=no"]
    assert sum(line.startswith("The ") for line in result.stderr.splitlines()) == len(faults)
    assert words in result.stderr
    assert list((tmp_path / "output").iterdir()) == []


def test_edited_answers_of_a_replay_are_checked(repository: Path, tmp_path: Path) -> None:
    must(bake_by_command(repository, tmp_path / "output"))
    replay = tmp_path / "replay_dir" / f"{repository.name}.json"
    answers = json.loads(replay.read_text("utf-8"))
    answers["cookiecutter"] |= {"project_slug": "../outside", "year": 2026, "core_tests": "yes"}
    replay.write_text(json.dumps(answers), "utf-8")
    before = files_below(tmp_path)
    result = bake_by_command(repository, tmp_path / "output", "--replay")
    assert result.returncode == 1
    for sentence in ("The project_slug ", "The answer to year is ", "The answer to core_tests is "):
        assert f"\n{sentence}" in f"\n{result.stderr}"
    assert files_below(tmp_path) == before


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


def assert_answers(project: Path, name: str, description: str, holder: str) -> None:
    """Check that three answers are in TOML, Markdown and plain text as they were given."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert table["description"] == description
    assert table["authors"] == [{"name": holder, "email": GOOD["email"]}]
    assert holder in (project / "LICENSE").read_text("utf-8")
    heading, paragraph, *_ = plain_text((project / "README.md").read_text("utf-8"))
    assert heading == name
    assert paragraph == f"{GOOD['project_slug']}: {description}"


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_answer_is_written_unchanged(tmp_path: Path, value: str) -> None:
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(TEMPLATE_DIR / name, tmp_path / name)
    shutil.copytree(TEMPLATE_DIR / "licenses", tmp_path / "licenses")
    names = ("project_name", "description", "full_name")
    for step in (post.name_project, post.name_readme, post.choose_license):
        step(tmp_path, GOOD | dict.fromkeys(names, value))
    assert_answers(tmp_path, value, value, value)


@pytest.mark.parametrize("number", range(0, len(HOSTILE), 3))
def test_hostile_answer_reaches_the_hooks_unchanged_and_is_not_executed(
    repository: Path, tmp_path: Path, number: int
) -> None:
    name, description, holder = (HOSTILE + HOSTILE[:2])[number : number + 3]
    answers = {"project_name": name, "description": description, "full_name": holder}
    given = {key: literal(value) for key, value in answers.items()}
    project = bake(repository, tmp_path / "output", **(GOOD | given))
    assert_answers(project, name, description, holder)
    assert not any("canary" in path for path in files_below(tmp_path))


def test_answers_can_be_typed(repository: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("license_id", pre.LICENSES)
def test_license_has_year_and_holder(tmp_path: Path, license_id: str) -> None:
    shutil.copytree(TEMPLATE_DIR / "licenses", tmp_path / "licenses")
    post.choose_license(tmp_path, {"license": license_id, "year": "2031", "full_name": "Ada"})
    text = (tmp_path / "LICENSE").read_text("utf-8")
    assert "2031" in text
    assert "Ada" in text
    assert "<" not in text
    assert files_below(tmp_path) == {"LICENSE"}


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Trail Service", "trail-service"), ("  Été  2026! ", "ete-2026"), ("a_b.c", "a-b-c"), ("🛰️", "service")],
)
def test_slug_follows_from_the_name(repository: Path, tmp_path: Path, name: str, slug: str) -> None:
    assert bake(repository, tmp_path / "output", project_name=name, year="2026").name == slug


def test_screen_shows_what_was_made_and_the_next_commands(repository: Path, tmp_path: Path) -> None:
    result = must(bake_by_command(repository, tmp_path / "output", "full_name=Ada", "license=MIT", "year=2031"))
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == "Trail Service is ready."
    assert "author:   Ada <you@example.com>" in lines
    assert "licence:  MIT, 2031" in lines
    assert "with:     docker" in lines
    assert any(line.startswith("updates:  no, as git says: ") for line in lines)
    assert f"without:  {', '.join(sorted(set(options()) - {'docker'}))}" in lines
    next_steps = ["make run", "make test", "docker compose up --wait"]
    assert lines[-4:] == [f"cd {tmp_path / 'output' / 'trail-service'}", *next_steps]
    assert result.stderr == ""


def test_terminal_that_lacks_a_letter_is_no_failure(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = bake_by_command(repository, tmp_path / "output", "project_name=Ünïcödé 🛰️", "project_slug=plain")
    assert must(result).stdout.count("is ready.") == 1
