"""Valid, invalid and hostile answers: the hooks on their own, and with cookiecutter."""

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
from tests.support.baking import TEMPLATE_DIR, VALID_ANSWERS, bake, bake_by_command, files_below, literal, must

MALFORMED_SLUGS = [
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
]
RESERVED_SLUGS = ["app", "tests", "gun", "con", "nul", "aux", "com1"]
PATH_SLUGS = [
    "",
    "../outside",
    "../../outside/deep",
    "a/b/c",
    "..",
    ".",
    "/",
    "back\\slash",
    "line\n",
    "-rf",
    "~",
    "$(id)",
]
UNPRINTABLE = "\t\n\r\0\x1b\x7f\x85\u2028\u2029\udc80\u202e\u2066"
INVALID = {
    "project_name": ["   ", "x" * 201, "two\nlines", "bell\a", "separator\u2028"],
    "description": ["", "x" * 201, "two\r\nlines"],
    "full_name": ["", *(f"Ada{character}" for character in UNPRINTABLE)],
    "email": ["", "nobody", "a@b@c", "Ada <ada@example.com>", "ada @example.com"],
    "year": ["", "26", "next year", "9" * 10_000],
    "license": ["", "WTFPL"],
    "project_slug": [*MALFORMED_SLUGS, *RESERVED_SLUGS, *PATH_SLUGS],
}


INVALID_ANSWERS = [(key, value) for key, values in INVALID.items() for value in values]


@pytest.mark.parametrize("invalid", INVALID_ANSWERS, ids=lambda invalid: ascii(invalid)[:60])
def test_invalid_answer_is_reported_in_one_sentence(invalid: tuple[str, str]) -> None:
    key, value = invalid
    (sentence,) = pre.find_errors(VALID_ANSWERS | {key: value})
    assert re.match(rf"The (answer to )?{key}\b.+\.$", sentence)
    assert sentence.isascii()
    assert sentence.isprintable()
    assert len(sentence) < 400


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((options()[0], value, f"is {str(value)!r}: write true or false.") for value in ("yes", "", 1, None, ["on"])),
        *(
            (key, 2026, "must be a string: write '2026' in quotation marks.")
            for key in ("year", "full_name", "project_slug")
        ),
    ],
)
def test_answer_of_the_wrong_type_is_an_error(key: str, value: object, message: str) -> None:
    assert f"The answer to {key} {message}" in pre.find_errors(VALID_ANSWERS | {key: value})


def test_every_missing_answer_is_an_error() -> None:
    assert len(pre.find_errors({})) == len(VALID_ANSWERS) - len(options())


def test_every_license_has_a_text_and_every_text_is_a_license() -> None:
    assert set(pre.LICENSES) == {path.stem for path in (TEMPLATE_DIR / "licenses").iterdir()}


SLUGS = ["a", "a1", "trail-service", "x" * 63, "a-1-b"]
EMAILS = ["a@b", "ada.lovelace+x@example.co.uk", "ädä@exämple.com"]


@pytest.mark.parametrize(
    "answer", [*({"project_slug": slug} for slug in SLUGS), *({"email": email} for email in EMAILS)], ids=str
)
def test_valid_answer_is_accepted(answer: dict[str, str]) -> None:
    assert pre.find_errors(VALID_ANSWERS | answer) == []


@pytest.mark.parametrize("slug", [*PATH_SLUGS, "<absolute>"], ids=repr)
def test_slug_that_is_a_path_creates_no_files(
    repository: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], slug: str
) -> None:
    slug = slug.replace("<absolute>", str(tmp_path / "elsewhere" / "deep"))
    output = tmp_path / "some" / "output"
    output.mkdir(parents=True)
    with pytest.raises(Exception, match="Hook script failed"):
        bake(repository, output, project_slug=literal(slug))
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("The ")]
    assert sentence.startswith(f"The project_slug {pre.quote(slug)} ")
    assert files_below(tmp_path) <= {"some/cookiecutter.yaml", "some/replay_dir/template.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["some"]
    assert [path.name for path in output.iterdir()] == []


IS_PACKAGE = "is the name of a package that the service needs"
REJECTED = {
    "every answer": (["project_name= ", "project_slug=../No", "description=", "full_name=", "email=no", "year=x"], ""),
    "a needed package": (["project_slug=anyio"], f"'anyio' {IS_PACKAGE}"),
    "a package of a declined option": (["project_slug=pre-commit", "pre_commit=no"], f"'pre-commit' {IS_PACKAGE}"),
}
"""Invalid answers, and text that the output must contain besides a sentence for each."""


@pytest.mark.parametrize("case", REJECTED)
def test_invalid_answers_are_all_reported_and_create_no_project(repository: Path, tmp_path: Path, case: str) -> None:
    """A service with the name of a package could not be locked, or could not get the option later."""
    answers, text = REJECTED[case]
    result = bake_by_command(repository, tmp_path / "output", *answers)
    assert result.returncode == 1
    invalid = [answer for answer in answers if answer != "pre_commit=no"]
    assert sum(line.startswith("The ") for line in result.stderr.splitlines()) == len(invalid)
    assert text in result.stderr
    assert list((tmp_path / "output").iterdir()) == []


def test_edited_replay_file_is_checked(repository: Path, tmp_path: Path) -> None:
    must(bake_by_command(repository, tmp_path / "output"))
    replay = tmp_path / "replay_dir" / f"{repository.name}.json"
    answers = json.loads(replay.read_text("utf-8"))
    answers["cookiecutter"] |= {"project_slug": "../outside", "year": 2026, "core_tests": "yes"}
    replay.write_text(json.dumps(answers), "utf-8")
    before = files_below(tmp_path)
    result = bake_by_command(repository, tmp_path / "output", "--replay")
    assert result.returncode == 1
    for sentence in ("The project_slug ", "The answer to year must be ", "The answer to core_tests is "):
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
    """Return the rendered text and code of each block of a Markdown text."""
    blocks = (token for token in MarkdownIt().enable("strikethrough").parse(markdown) if token.type == "inline")
    return ["".join(child.content for child in block.children or ()) for block in blocks]


def assert_answers(project: Path, name: str, description: str, holder: str) -> None:
    """Check that three answers are unchanged in TOML, Markdown and plain text."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert table["description"] == description
    assert table["authors"] == [{"name": holder, "email": VALID_ANSWERS["email"]}]
    assert holder in (project / "LICENSE").read_text("utf-8")
    heading, paragraph, *_ = plain_text((project / "README.md").read_text("utf-8"))
    assert heading == name
    assert paragraph == f"{VALID_ANSWERS['project_slug']}: {description}"


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_answer_is_written_unchanged(tmp_path: Path, value: str) -> None:
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(TEMPLATE_DIR / name, tmp_path / name)
    shutil.copytree(TEMPLATE_DIR / "licenses", tmp_path / "licenses")
    names = ("project_name", "description", "full_name")
    for step in (post.name_project, post.name_readme, post.choose_license):
        step(tmp_path, VALID_ANSWERS | dict.fromkeys(names, value))
    assert_answers(tmp_path, value, value, value)


@pytest.mark.parametrize("number", range(0, len(HOSTILE), 3))
def test_hostile_answer_reaches_the_hooks_unchanged_and_is_not_executed(
    repository: Path, tmp_path: Path, number: int
) -> None:
    name, description, holder = (HOSTILE + HOSTILE[:2])[number : number + 3]
    answers = {"project_name": name, "description": description, "full_name": holder}
    literals = {key: literal(value) for key, value in answers.items()}
    project = bake(repository, tmp_path / "output", **(VALID_ANSWERS | literals))
    assert_answers(project, name, description, holder)
    assert not any("canary" in path for path in files_below(tmp_path))


def test_answers_can_be_typed_at_the_prompts(repository: Path, tmp_path: Path) -> None:
    """Cookiecutter does not render answers that are typed at the prompts; an empty one means the default."""
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
    assert f"options:      {options()[0]}\n" in result.stdout
    assert f"declined:     {', '.join(sorted(options()[1:]))}\n" in result.stdout


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
def test_default_slug_is_derived_from_the_name(repository: Path, tmp_path: Path, name: str, slug: str) -> None:
    assert bake(repository, tmp_path / "output", project_name=name, year="2026").name == slug


def test_output_shows_the_answers_and_the_next_commands(repository: Path, tmp_path: Path) -> None:
    result = must(bake_by_command(repository, tmp_path / "output", "full_name=Ada", "license=MIT", "year=2031"))
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0] == "Trail Service is ready."
    assert "author:       Ada <you@example.com>" in lines
    assert "licence:      MIT, 2031" in lines
    assert "options:      docker" in lines
    assert any(line.startswith("updates:      not available: git reports: ") for line in lines)
    assert f"declined:     {', '.join(sorted(set(options()) - {'docker'}))}" in lines
    next_steps = ["make run", "make test", "docker compose up --wait"]
    assert lines[-4:] == [f"cd {tmp_path / 'output' / 'trail-service'}", *next_steps]
    assert result.stderr == ""


def test_terminal_that_cannot_encode_a_character_is_not_an_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = bake_by_command(repository, tmp_path / "output", "project_name=Ünïcödé 🛰️", "project_slug=plain")
    assert must(result).stdout.count("is ready.") == 1
