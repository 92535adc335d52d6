"""Updates of a project with cruft: changes of the template, switched options, and edits of the project's owner."""

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
    audited_environment,
    change_template,
    commit,
    contents,
    cruft_state,
    git,
    home,  # noqa: F401
    init_repository,
    insert,
    saved_answers,
    update,
)

OPTIONS = options()
YEAR = "2026"
LATER = b"# A later change of the template.\n"


@pytest.fixture(scope="module")
def template(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a git repository with one commit and no remote; read-only."""
    return init_repository(Path(shutil.copytree(repository, tmp_path_factory.mktemp("templates") / "template")))


@pytest.fixture(scope="module")
def plain(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project with the default answers; read-only."""
    return init_repository(bake(template, tmp_path_factory.mktemp("plain") / "output", year=YEAR))


@pytest.fixture(scope="module")
def changed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with another commit; read-only."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("changed") / "template"))
    change_template(folder)
    return folder


@pytest.fixture(scope="module")
def fresh(changed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a project that is generated from the changed template."""
    return contents(bake(changed, tmp_path_factory.mktemp("fresh") / "output", year=YEAR))


@pytest.fixture
def mutable_template(template: Path, tmp_path: Path) -> Path:
    """A template that the test may change."""
    return Path(shutil.copytree(template, tmp_path / "template"))


@pytest.fixture
def owned(plain: Path, tmp_path: Path) -> Path:
    """A committed project that the test may change, as its owner."""
    return Path(shutil.copytree(plain, tmp_path / plain.name))


# Generation


def test_cruft_creates_what_cookiecutter_generates(template: Path, plain: Path, tmp_path: Path) -> None:
    answers = json.dumps({"year": YEAR})
    must(run([TOOLS / "cruft", "create", template, "--no-input", "--extra-context", answers], tmp_path))
    project = init_repository(tmp_path / "trail-service")
    assert contents(project) == contents(plain)
    keys = ("template", "commit", "checkout", "directory")
    assert [cruft_state(project)[key] for key in keys] == [cruft_state(plain)[key] for key in keys]
    assert saved_answers(project) == saved_answers(plain)


def test_template_commit_and_answers_are_recorded(template: Path, plain: Path) -> None:
    assert cruft.check(plain)
    assert must(run([TOOLS / "cruft", "diff", "--exit-code"], plain)).stdout == ""
    commit_id = git(template, "rev-parse", "HEAD")
    assert cruft_state(plain) == {
        "template": str(template),
        "commit": commit_id,
        "checkout": None,
        "directory": None,
        "context": {"cookiecutter": saved_answers(plain) | {"_template": str(template), "_commit": commit_id}},
    }
    questions = json.loads((template / "cookiecutter.json").read_text("utf-8"))
    assert set(saved_answers(plain)) == {key for key in questions if not key.startswith("_")}
    assert saved_answers(plain)["year"] == YEAR
    assert [saved_answers(plain)[option] for option in OPTIONS] == [questions[option] for option in OPTIONS]


def test_first_commit_has_all_files(template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With `git_init`, the commit is on main, its author is the user of git, and no file is left uncommitted."""
    project = bake(template, tmp_path / "output", git_init=True, full_name="Ada Answer", email="ada@example.com")
    assert saved_answers(project)["git_init"] is True
    assert git(project, "log", "--format=%an <%ae>", "main") == "Olive Owner <olive@example.com>"
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert git(project, "branch", "--format=%(refname:short)") == "main"
    assert ".cruft.json" in git(project, "ls-files").splitlines()
    assert "\n  repository:   created, with a first commit on main\n" in capfd.readouterr().out


@pytest.mark.full
def test_replay_generates_identical_files(template: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    must(bake_by_command(template, first, "full_name=Ada", "core_tests=yes", "license=BSD-3-Clause"))
    must(bake_by_command(template, second, "--replay"))
    generated, replayed = first / "trail-service", second / "trail-service"
    assert contents(replayed) == contents(generated)
    assert cruft_state(replayed) == cruft_state(generated)


# Updates


def edit(project: Path) -> dict[str, bytes]:
    """Edit a project as its owner, also in a file that the template changes; return the edited files."""
    insert(project / "Makefile", 0, "# A change of the owner.")
    insert(project / "README.md", -1, "\nA change of the owner.")
    (project / "app" / "services" / "mine.py").write_text('"""A change of the owner."""\n')
    commit(project)
    return {name: contents(project)[name] for name in ("Makefile", "README.md", "app/services/mine.py")}


def check_update(project: Path, fresh: dict[str, bytes], edits: dict[str, bytes]) -> None:
    """Update a project, and check that it is a new project plus the edits of its owner."""
    assert not cruft.check(project)
    update(project)
    assert cruft.check(project)
    assert contents(project) == fresh | edits | {"Makefile": edits["Makefile"] + LATER}
    assert "U" not in {line[1] for line in git(project, "status", "--porcelain").splitlines()}


def set_template(project: Path, template: Path) -> Path:
    """Change the template's folder in .cruft.json to a copy with the same commit, and commit the change."""
    text = (project / ".cruft.json").read_text("utf-8")
    (project / ".cruft.json").write_text(text.replace(cruft_state(project)["template"], str(template)), "utf-8")
    commit(project)
    return project


def test_update_merges_changes_of_template_and_owner(changed: Path, fresh: dict[str, bytes], owned: Path) -> None:
    check_update(set_template(owned, changed), fresh, edit(owned))
    assert cruft_state(owned)["commit"] == git(changed, "rev-parse", "HEAD")


@pytest.mark.full
def test_project_generated_from_a_tag_is_updated_to_the_remote_branch(
    fresh: dict[str, bytes], mutable_template: Path, tmp_path: Path
) -> None:
    """The commit of the tag is on no branch. .cruft.json has the URL, not cookiecutter's clone in the home folder."""
    git(mutable_template, "checkout", "--quiet", "--detach")
    tagged = commit(mutable_template)
    git(mutable_template, "tag", "v1")
    git(mutable_template, "checkout", "--quiet", "main")
    change_template(mutable_template)
    git(tmp_path, "clone", "--quiet", "--bare", str(mutable_template), "trail.git")
    url = (tmp_path / "trail.git").as_uri()
    must(bake_by_command(url, tmp_path / "output", f"year={YEAR}", "--checkout", "v1"))
    project = init_repository(tmp_path / "output" / "trail-service")
    assert [cruft_state(project)[key] for key in ("template", "commit", "checkout")] == [url, tagged, "v1"]
    check_update(project, fresh, edit(project))
    assert [cruft_state(project)[key] for key in ("template", "commit")] == [
        url,
        git(mutable_template, "rev-parse", "HEAD"),
    ]


def mark(project: Path, author: str) -> None:
    """Change the same place of the Makefile and of the lock file, for each author in another way."""
    lines = (project / "Makefile").read_text("utf-8").splitlines(keepends=True)
    (project / "Makefile").write_text("".join([f"# This is the {author}'s line.\n", *lines[1:]]), "utf-8")
    lock = (project / "uv.lock").read_text("utf-8")
    (project / "uv.lock").write_text(lock.replace("\n\n[[package]]", f"\n# {author}\n\n[[package]]", 1), "utf-8")


def test_line_that_both_changed_is_a_conflict(mutable_template: Path, owned: Path) -> None:
    """The file has both versions, between conflict markers, and git reports it as unmerged."""
    mark(set_template(owned, mutable_template), "owner")
    commit(owned)
    makefile = (owned / "Makefile").read_text("utf-8")
    mark(mutable_template / TEMPLATE, "template")
    change_template(mutable_template)
    update(owned)
    assert {"UU Makefile", "UU uv.lock"} < set(git(owned, "status", "--porcelain").splitlines())
    ours, _, theirs = (owned / "Makefile").read_text("utf-8").partition("=======\n")
    assert ours == "<<<<<<< ours\n# This is the owner's line.\n"
    assert theirs.startswith("# This is the template's line.\n>>>>>>> theirs\n")
    assert theirs.endswith(LATER.decode())
    assert git(owned, "show", ":2:Makefile") == makefile.strip()
    assert (owned / "app" / "services" / "later.py").exists()
    lock_again(owned)


def lock_again(project: Path) -> None:
    """Resolve a conflict in the lock file like the owner: restore the committed one, and lock again."""
    assert run([UV, "lock"], project).returncode != 0
    git(project, "checkout", "HEAD", "--", "uv.lock")
    must(run([UV, "lock"], project))


def test_deleted_files_stay_deleted_when_the_template_changes_them(mutable_template: Path, owned: Path) -> None:
    shutil.rmtree(set_template(owned, mutable_template) / "app" / "api")
    (owned / "tests" / "test_health.py").unlink()
    commit(owned)
    for path in ("app/api/__init__.py", "tests/test_health.py"):
        insert(mutable_template / TEMPLATE / path, -1, "# changed")
    (mutable_template / TEMPLATE / "app" / "api" / "new.py").touch()
    change_template(mutable_template)
    update(owned)
    assert not (owned / "app" / "api").exists()
    assert not (owned / "tests" / "test_health.py").exists()
    assert (owned / "app" / "services" / "later.py").exists()


def test_update_with_a_new_name_is_identical_to_a_new_project(template: Path, owned: Path, tmp_path: Path) -> None:
    answers = {"project_slug": "other", "license": "Proprietary", "description": 'Says "hello" & more.'}
    update(owned, **answers)
    assert contents(owned) == contents(bake(template, tmp_path / "fresh", year=YEAR, **answers))


def test_hooks_print_nothing_and_stay_in_their_folder_in_an_update(changed: Path, owned: Path, tmp_path: Path) -> None:
    """Both hooks run twice. They start no process, write only in the new project, and create no repository."""
    set_template(owned, changed)
    actions = tmp_path / "actions"
    variables = audited_environment(tmp_path / "audit", actions)
    git_init = json.dumps({"git_init": True})
    command: list[str | Path] = [TOOLS / "cruft", "update", "-y", "--variables-to-update", git_init]
    result = must(run(command, owned, variables))
    lines = actions.read_text("utf-8").splitlines()
    assert len([line for line in lines if line.startswith("HOOK ")]) == 4
    assert [line for line in lines if line.startswith("OUTSIDE ")] == []
    assert any(line.startswith("INSIDE open ") for line in lines)
    assert result.stdout.startswith("Good work!")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


# Options

EVERY_OTHER: Row = {option: number % 2 == 0 for number, option in enumerate(OPTIONS)}


@pytest.mark.parametrize("answers", [{"pre_commit": True}, EVERY_OTHER], ids=["one option", "each option"])
def test_update_that_switches_options_is_identical_to_a_new_project(
    template: Path, tmp_path: Path, answers: Row
) -> None:
    """Invert the options, and invert them again: each time the project equals one generated with these answers."""
    inverted = {option: not value for option, value in answers.items()}
    project = init_repository(bake(template, tmp_path / "output", year=YEAR, **answers))
    before, before_answers = contents(project), saved_answers(project)
    expected = contents(bake(template, tmp_path / "inverted", year=YEAR, **inverted))
    for chosen, target in ((inverted, expected), (answers, before)):
        update(project, **chosen)
        assert contents(project) == target
        assert saved_answers(project) == before_answers | chosen
        commit(project)


def add_requirement(project: Path, name: str) -> None:
    """Add a requirement like `uv add`."""
    text = (project / "pyproject.toml").read_text("utf-8")
    (project / "pyproject.toml").write_text(text.replace("dependencies = [\n", f'dependencies = [\n    "{name}",\n', 1))
    must(run([UV, "lock"], project))
    commit(project)


def required(project: Path) -> set[str]:
    """Return the names of the requirements in pyproject.toml."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    requirements = [*table["project"]["dependencies"], *table["dependency-groups"]["dev"]]
    return {item.partition(">")[0] for item in requirements}


@pytest.mark.parametrize("slug", ["aaa", "zzz"])
def test_requirement_of_the_owner_adds_three_lines(template: Path, tmp_path: Path, slug: str) -> None:
    """One in pyproject.toml and two in the lock file: the root package keeps its place, independent of its name."""
    project = init_repository(bake(template, tmp_path / "output", project_slug=slug))
    add_requirement(project, "click")
    assert git(project, "diff", "--shortstat", "HEAD~") == "2 files changed, 3 insertions(+)"


@pytest.mark.full
def test_option_and_requirement_of_the_owner_do_not_conflict(template: Path, tmp_path: Path) -> None:
    project = init_repository(bake(template, tmp_path / "output", project_slug="aaa"))
    add_requirement(project, "click")
    update(project, pre_commit=True)
    assert {"click", "pre-commit"} < required(project)
    assert "UU" not in git(project, "status", "--porcelain")
    must(run([UV, "lock", "--check"], project))


@pytest.mark.full
def test_requirement_shared_with_a_declined_option_can_be_locked_again(template: Path, tmp_path: Path) -> None:
    """The update removes the package of the option from the lock file, so the owner must lock again."""
    project = init_repository(bake(template, tmp_path / "output", pre_commit=True))
    add_requirement(project, "identify")
    update(project, pre_commit=False)
    assert "identify" in required(project)
    assert "pre-commit" not in required(project)
    lock_again(project)
    assert '\nname = "identify"' in (project / "uv.lock").read_text("utf-8")
    assert '"pre-commit"' not in (project / "uv.lock").read_text("utf-8")


# Generation over an existing project


@pytest.mark.full
def test_overwriting_keeps_files_that_are_not_of_the_template(
    mutable_template: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    """`--overwrite-if-exists` generates the project with the new answers; files of git, uv and the owner stay."""
    output = tmp_path / "output"
    project = bake(mutable_template, output, year=YEAR, core_tests=True, git_init=True)
    fenced = "# >>> pre_commit\nkept\n# <<< pre_commit\n"
    own_files = {"notes.txt": "kept\n", ".venv/activate.sh": fenced, ".git/description": fenced}
    for name, text in own_files.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    newest = change_template(mutable_template)
    must(bake_by_command(mutable_template, output, "--overwrite-if-exists", f"year={YEAR}", "git_init=yes"))
    assert cruft_state(project)["commit"] == newest
    assert git(project, "rev-list", "--count", "HEAD") == "1"
    assert {name: (project / name).read_text("utf-8") for name in own_files} == own_files
    assert {name: contents(project)[name] for name in fresh} == fresh
    assert set(contents(project)) - set(fresh) == {"notes.txt", "log_config.json"}
