"""The life of a project: it knows where it comes from, follows the template, changes its options, keeps its edits."""

import json
import shutil
import tomllib
from pathlib import Path

import cruft
import pytest

from scripts.combinations import Row, options
from scripts.snapshot import TEMPLATE
from tests.support.baking import TOOLS, UV, bake, bake_by_command, must, run
from tests.support.updating import (
    asked,
    commit,
    contents,
    git,
    home,  # noqa: F401
    insert,
    move_on,
    start,
    state,
    update,
    watched,
)

OPTIONS = options()
YEAR = "2026"
LATER = b"# A later thought of the template.\n"


@pytest.fixture(scope="module")
def template(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a repository with one commit and no remote, to generate from and not to change."""
    return start(Path(shutil.copytree(repository, tmp_path_factory.mktemp("templates") / "template")))


@pytest.fixture(scope="module")
def plain(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every default, committed, to look at and not to change."""
    return start(bake(template, tmp_path_factory.mktemp("plain") / "output", year=YEAR))


@pytest.fixture(scope="module")
def moved(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with one commit more, to generate from and not to change."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("moved") / "template"))
    move_on(folder)
    return folder


@pytest.fixture(scope="module")
def fresh(moved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a project has that is generated after the template has changed."""
    return contents(bake(moved, tmp_path_factory.mktemp("fresh") / "output", year=YEAR))


@pytest.fixture
def moving(template: Path, tmp_path: Path) -> Path:
    """A template to change."""
    return Path(shutil.copytree(template, tmp_path / "template"))


@pytest.fixture
def owned(plain: Path, tmp_path: Path) -> Path:
    """A project that its owner has committed, to change."""
    return Path(shutil.copytree(plain, tmp_path / plain.name))


# Generation


def test_cruft_creates_what_cookiecutter_generates(template: Path, plain: Path, tmp_path: Path) -> None:
    answers = json.dumps({"year": YEAR})
    must(run([TOOLS / "cruft", "create", template, "--no-input", "--extra-context", answers], tmp_path))
    project = start(tmp_path / "trail-service")
    assert contents(project) == contents(plain)
    facts = ("template", "commit", "checkout", "directory")
    assert [state(project)[fact] for fact in facts] == [state(plain)[fact] for fact in facts]
    assert asked(project) == asked(plain)


def test_template_commit_and_answers_are_remembered(template: Path, plain: Path) -> None:
    assert cruft.check(plain)
    assert must(run([TOOLS / "cruft", "diff", "--exit-code"], plain)).stdout == ""
    commit_id = git(template, "rev-parse", "HEAD")
    assert state(plain) == {
        "template": str(template),
        "commit": commit_id,
        "checkout": None,
        "directory": None,
        "context": {"cookiecutter": asked(plain) | {"_template": str(template), "_commit": commit_id}},
    }
    questions = json.loads((template / "cookiecutter.json").read_text("utf-8"))
    assert set(asked(plain)) == {key for key in questions if not key.startswith("_")}
    assert asked(plain)["year"] == YEAR
    assert [asked(plain)[option] for option in OPTIONS] == [questions[option] for option in OPTIONS]


def test_first_commit_has_everything(template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With `git_init`: on main, by the user, with nothing left to commit."""
    project = bake(template, tmp_path / "output", git_init=True, full_name="Ada Answer", email="ada@example.com")
    assert asked(project)["git_init"] is True
    assert git(project, "log", "--format=%an <%ae>", "main") == "Olive Owner <olive@example.com>"
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert git(project, "branch", "--format=%(refname:short)") == "main"
    assert ".cruft.json" in git(project, "ls-files").splitlines()
    assert "\n  git:      yes, with a first commit on main\n" in capfd.readouterr().out


@pytest.mark.full
def test_replay_generates_the_same_bytes(template: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    must(bake_by_command(template, first, "full_name=Ada", "core_tests=yes", "license=BSD-3-Clause"))
    must(bake_by_command(template, second, "--replay"))
    made, replayed = first / "trail-service", second / "trail-service"
    assert contents(replayed) == contents(made)
    assert state(replayed) == state(made)


# Updates


def edit(project: Path) -> dict[str, bytes]:
    """Edit a project as its owner does, in a file that the template changes too; return the edited files."""
    insert(project / "Makefile", 0, "# A thought of the owner.")
    insert(project / "README.md", -1, "\nA thought of the owner.")
    (project / "app" / "services" / "mine.py").write_text('"""A thought of the owner."""\n')
    commit(project)
    return {name: contents(project)[name] for name in ("Makefile", "README.md", "app/services/mine.py")}


def follow(project: Path, fresh: dict[str, bytes], edits: dict[str, bytes]) -> None:
    """Update a project, and compare it with a new one and the edits of its owner."""
    assert not cruft.check(project)
    update(project)
    assert cruft.check(project)
    assert contents(project) == fresh | edits | {"Makefile": edits["Makefile"] + LATER}
    assert "U" not in {line[1] for line in git(project, "status", "--porcelain").splitlines()}


def come_from(project: Path, template: Path) -> Path:
    """Let a project remember a template at another place, which has the commit that it knows, and commit that."""
    text = (project / ".cruft.json").read_text("utf-8")
    (project / ".cruft.json").write_text(text.replace(state(project)["template"], str(template)), "utf-8")
    commit(project)
    return project


def test_update_merges_changes_of_template_and_owner(moved: Path, fresh: dict[str, bytes], owned: Path) -> None:
    follow(come_from(owned, moved), fresh, edit(owned))
    assert state(owned)["commit"] == git(moved, "rev-parse", "HEAD")


@pytest.mark.full
def test_project_of_a_tag_follows_the_branch_of_a_remote(fresh: dict[str, bytes], moving: Path, tmp_path: Path) -> None:
    """The tag is beside all branches; cookiecutter has cloned it, and its clone in the home is not remembered."""
    git(moving, "checkout", "--quiet", "--detach")
    tagged = commit(moving)
    git(moving, "tag", "v1")
    git(moving, "checkout", "--quiet", "main")
    move_on(moving)
    git(tmp_path, "clone", "--quiet", "--bare", str(moving), "trail.git")
    url = (tmp_path / "trail.git").as_uri()
    must(bake_by_command(url, tmp_path / "output", f"year={YEAR}", "--checkout", "v1"))
    project = start(tmp_path / "output" / "trail-service")
    assert [state(project)[fact] for fact in ("template", "commit", "checkout")] == [url, tagged, "v1"]
    follow(project, fresh, edit(project))
    assert [state(project)[fact] for fact in ("template", "commit")] == [url, git(moving, "rev-parse", "HEAD")]


def mark(project: Path, who: str) -> None:
    """Write one's own line where others write theirs, in a file and in the lock."""
    lines = (project / "Makefile").read_text("utf-8").splitlines(keepends=True)
    (project / "Makefile").write_text("".join([f"# This is the {who}'s line.\n", *lines[1:]]), "utf-8")
    lock = (project / "uv.lock").read_text("utf-8")
    (project / "uv.lock").write_text(lock.replace("\n\n[[package]]", f"\n# {who}\n\n[[package]]", 1), "utf-8")


def test_line_that_both_changed_is_a_conflict(moving: Path, owned: Path) -> None:
    """Both versions are in the file, between marks, and git says that somebody has to choose."""
    mark(come_from(owned, moving), "owner")
    commit(owned)
    mine = (owned / "Makefile").read_text("utf-8")
    mark(moving / TEMPLATE, "template")
    move_on(moving)
    update(owned)
    assert {"UU Makefile", "UU uv.lock"} < set(git(owned, "status", "--porcelain").splitlines())
    ours, _, theirs = (owned / "Makefile").read_text("utf-8").partition("=======\n")
    assert ours == "<<<<<<< ours\n# This is the owner's line.\n"
    assert theirs.startswith("# This is the template's line.\n>>>>>>> theirs\n")
    assert theirs.endswith(LATER.decode())
    assert git(owned, "show", ":2:Makefile") == mine.strip()
    assert (owned / "app" / "services" / "later.py").exists()
    lock_again(owned)


def lock_again(project: Path) -> None:
    """Do what an owner does whose lock an update has left unreadable: go on from the committed one."""
    assert run([UV, "lock"], project).returncode != 0
    git(project, "checkout", "HEAD", "--", "uv.lock")
    must(run([UV, "lock"], project))


def test_deleted_files_stay_deleted_when_the_template_changes_them(moving: Path, owned: Path) -> None:
    shutil.rmtree(come_from(owned, moving) / "app" / "api")
    (owned / "tests" / "test_health.py").unlink()
    commit(owned)
    for path in ("app/api/__init__.py", "tests/test_health.py"):
        insert(moving / TEMPLATE / path, -1, "# changed")
    (moving / TEMPLATE / "app" / "api" / "new.py").touch()
    move_on(moving)
    update(owned)
    assert not (owned / "app" / "api").exists()
    assert not (owned / "tests" / "test_health.py").exists()
    assert (owned / "app" / "services" / "later.py").exists()


def test_new_name_in_an_update_is_a_name_from_the_start(template: Path, owned: Path, tmp_path: Path) -> None:
    answers = {"project_slug": "other", "license": "Proprietary", "description": 'Says "hello" & more.'}
    update(owned, **answers)
    assert contents(owned) == contents(bake(template, tmp_path / "fresh", year=YEAR, **answers))


def test_hooks_are_silent_and_stay_in_their_folder_in_an_update(moved: Path, owned: Path, tmp_path: Path) -> None:
    """Both run twice: they start nothing, and write only where they render; nor do they make a repository."""
    come_from(owned, moved)
    seen = tmp_path / "seen"
    variables = watched(tmp_path / "watch", seen)
    git_init = json.dumps({"git_init": True})
    command: list[str | Path] = [TOOLS / "cruft", "update", "-y", "--variables-to-update", git_init]
    result = must(run(command, owned, variables))
    lines = seen.read_text("utf-8").splitlines()
    assert len([line for line in lines if line.startswith("HOOK ")]) == 4
    assert [line for line in lines if line.startswith("OUTSIDE ")] == []
    assert any(line.startswith("INSIDE open ") for line in lines)
    assert result.stdout.startswith("Good work!")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


# Options

EVERY_OTHER: Row = {option: number % 2 == 0 for number, option in enumerate(OPTIONS)}


@pytest.mark.parametrize("answers", [{"pre_commit": True}, EVERY_OTHER], ids=["one option", "each option"])
def test_options_switched_in_an_update_are_as_from_the_start(template: Path, tmp_path: Path, answers: Row) -> None:
    """On becomes off and off becomes on, and back: each time the project is as if it had been generated so."""
    inverted = {option: not value for option, value in answers.items()}
    project = start(bake(template, tmp_path / "output", year=YEAR, **answers))
    before, before_answers = contents(project), asked(project)
    expected = contents(bake(template, tmp_path / "inverted", year=YEAR, **inverted))
    for chosen, wanted in ((inverted, expected), (answers, before)):
        update(project, **chosen)
        assert contents(project) == wanted
        assert asked(project) == before_answers | chosen
        commit(project)


def add_requirement(project: Path, name: str) -> None:
    """Add a requirement as `uv add` does."""
    text = (project / "pyproject.toml").read_text("utf-8")
    (project / "pyproject.toml").write_text(text.replace("dependencies = [\n", f'dependencies = [\n    "{name}",\n', 1))
    must(run([UV, "lock"], project))
    commit(project)


def required(project: Path) -> set[str]:
    """Return what pyproject.toml requires, with names only."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    wanted = [*table["project"]["dependencies"], *table["dependency-groups"]["dev"]]
    return {item.partition(">")[0] for item in wanted}


@pytest.mark.parametrize("slug", ["aaa", "zzz"])
def test_requirement_of_the_owner_is_three_lines(template: Path, tmp_path: Path, slug: str) -> None:
    """One in pyproject.toml and two in the lock, whatever the project's name: no package moves."""
    project = start(bake(template, tmp_path / "output", project_slug=slug))
    add_requirement(project, "click")
    assert git(project, "diff", "--shortstat", "HEAD~") == "2 files changed, 3 insertions(+)"


@pytest.mark.full
def test_option_and_requirement_of_the_owner_do_not_conflict(template: Path, tmp_path: Path) -> None:
    project = start(bake(template, tmp_path / "output", project_slug="aaa"))
    add_requirement(project, "click")
    update(project, pre_commit=True)
    assert {"click", "pre-commit"} < required(project)
    assert "UU" not in git(project, "status", "--porcelain")
    must(run([UV, "lock", "--check"], project))


@pytest.mark.full
def test_requirement_that_a_declined_option_has_too_is_locked_again(template: Path, tmp_path: Path) -> None:
    """What leaves with the option is missing in the lock: uv says so, and locks again from what was committed."""
    project = start(bake(template, tmp_path / "output", pre_commit=True))
    add_requirement(project, "identify")
    update(project, pre_commit=False)
    assert "identify" in required(project)
    assert "pre-commit" not in required(project)
    lock_again(project)
    assert '\nname = "identify"' in (project / "uv.lock").read_text("utf-8")
    assert '"pre-commit"' not in (project / "uv.lock").read_text("utf-8")


# Generated again, over what is there


@pytest.mark.full
def test_overwriting_keeps_what_the_template_does_not_know(
    moving: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    """`--overwrite-if-exists` gives the new answers' project, and neither git's nor uv's files are changed."""
    output = tmp_path / "output"
    project = bake(moving, output, year=YEAR, core_tests=True, git_init=True)
    fenced = "# >>> pre_commit\nkept\n# <<< pre_commit\n"
    mine = {"notes.txt": "kept\n", ".venv/activate.sh": fenced, ".git/description": fenced}
    for name, text in mine.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    newest = move_on(moving)
    must(bake_by_command(moving, output, "--overwrite-if-exists", f"year={YEAR}", "git_init=yes"))
    assert state(project)["commit"] == newest
    assert git(project, "rev-list", "--count", "HEAD") == "1"
    assert {name: (project / name).read_text("utf-8") for name in mine} == mine
    assert {name: contents(project)[name] for name in fresh} == fresh
    assert set(contents(project)) - set(fresh) == {"notes.txt", "log_config.json"}
