"""The life of a project: it knows where it comes from, follows the template, changes its options, keeps its edits."""

import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.snapshot import TEMPLATE
from tests.support.baking import TEMPLATE_DIR, TOOLS, UV, bake, literal, must, run
from tests.support.updating import (
    GONE,
    alone,
    asked,
    commit,
    contents,
    cookiecutter,
    cruft,
    environment_of,
    fork,
    git,
    insert,
    local_copy,
    move_on,
    said,
    start,
    state,
    up_to_date,
    update,
    watched,
)

OPTIONS = list(json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8")))
YEAR = "2026"
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own for all tests of this file."""
    folder = tmp_path_factory.mktemp("home")
    with alone(folder):
        yield folder


@pytest.fixture(scope="module")
def template(repository: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a repository with one commit and no remote, to generate from and not to change."""
    assert home.is_dir()
    return start(Path(shutil.copytree(repository, tmp_path_factory.mktemp("templates") / "template")))


@pytest.fixture(scope="module")
def plain(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every default, to look at and not to change."""
    return bake(template, tmp_path_factory.mktemp("plain") / "output", year=YEAR)


@pytest.fixture
def moving(template: Path, tmp_path: Path) -> Path:
    """A template to change."""
    return local_copy(template, tmp_path / "template")


@pytest.fixture
def owned(moving: Path, tmp_path: Path) -> Path:
    """A project of that template, which its owner has committed."""
    return start(bake(moving, tmp_path / "output", year=YEAR))


def lock_holds(project: Path) -> bool:
    return run([UV, "lock", "--check"], project).returncode == 0


# Birth


def test_created_by_cruft(template: Path, plain: Path, tmp_path: Path) -> None:
    """`cruft create` and cookiecutter make the same project, and remember the same."""
    answers = json.dumps({"year": YEAR})
    must(run([TOOLS / "cruft", "create", template, "--no-input", "--extra-context", answers], tmp_path))
    project = start(tmp_path / "trail-service")
    assert up_to_date(project)
    assert must(cruft(project, "diff", "--exit-code")).stdout == ""
    assert contents(project) == contents(plain)
    facts = ("template", "commit", "checkout", "directory")
    assert [state(project)[fact] for fact in facts] == [state(plain)[fact] for fact in facts]
    assert asked(project) == asked(plain)


def test_what_is_remembered(template: Path, plain: Path) -> None:
    """The commit that was rendered, where it lies, and the answer to every question: no more."""
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


def test_replay(moving: Path, tmp_path: Path) -> None:
    """`--replay` gives the same bytes, the memory of the template among them."""
    first, second = tmp_path / "first", tmp_path / "second"
    must(cookiecutter(moving, first, "full_name=Ada", "core_tests=yes", "license=BSD-3-Clause"))
    must(cookiecutter(moving, second, "--replay", no_input=False))
    made, replayed = first / "trail-service", second / "trail-service"
    assert contents(replayed) == contents(made)
    assert state(replayed) == state(made)


def test_relative_path(moving: Path, tmp_path: Path) -> None:
    """A template that is named from where one stands is remembered by its whole path."""
    command = [str(TOOLS / "cookiecutter"), moving.name, "--no-input", "-o", "output"]
    result = must(run(command, tmp_path, environment_of(tmp_path)))
    assert state(tmp_path / "output" / "trail-service")["template"] == str(moving)
    origin = f"{moving} at {git(moving, 'rev-parse', 'HEAD')[:12]}"
    assert said(result.stdout, "updates") == f"uvx cruft update --skip-apply-ask, from {origin}"


def make_archive(template: Path) -> Path:
    shutil.rmtree(template / ".git")
    return template


def make_dirty(template: Path) -> Path:
    insert(template / TEMPLATE / "README.md", -1, "Nobody has committed this.")
    return template


def make_dirty_by_a_new_file(template: Path) -> Path:
    (template / TEMPLATE / "app" / "new.py").touch()
    return template


def make_dirty_by_a_hook(template: Path) -> Path:
    insert(template / "hooks" / "post_gen_project.py", -1, "# Nobody has committed this.")
    return template


def make_dirty_by_a_question(template: Path) -> Path:
    insert(template / "cookiecutter.json", -1, "")
    return template


def make_subfolder(template: Path) -> Path:
    inner = template / "inner"
    shutil.copytree(template, inner, ignore=shutil.ignore_patterns(".git"))
    commit(template)
    return inner


def make_without_commit(template: Path) -> Path:
    git(make_archive(template), "init", "--quiet")
    (template / ".git" / "info" / "exclude").write_text("*\n")
    return template


@pytest.mark.parametrize(
    "make",
    [
        make_archive,
        make_dirty,
        make_dirty_by_a_new_file,
        make_dirty_by_a_hook,
        make_dirty_by_a_question,
        make_subfolder,
        make_without_commit,
    ],
)
def test_nothing_to_come_back_to(moving: Path, tmp_path: Path, capfd: Capture, make: Callable[[Path], Path]) -> None:
    """What was rendered is no commit of the template: nothing is remembered, and the screen says so."""
    project = bake(make(moving), tmp_path / "output", year=YEAR)
    assert not (project / ".cruft.json").exists()
    assert said(capfd.readouterr().out, "updates").startswith(GONE)


def test_without_git(template: Path, plain: Path, tmp_path: Path, capfd: Capture, monkeypatch: Patch) -> None:
    """Who has no git gets the project, and reads what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    project = bake(template, tmp_path / "output", year=YEAR, git_init=True)
    assert contents(project) == contents(plain)
    assert not (project / ".cruft.json").exists()
    screen = capfd.readouterr().out
    assert said(screen, "updates") == "no, as git says: it cannot be run (No such file or directory)"
    assert said(screen, "git").startswith("not finished, as git says: ")


@pytest.mark.parametrize("tag", ["{{ 7 * 7 }}", "{% boats %}", "{# gone #}"])
def test_answers_that_cruft_would_render(template: Path, tmp_path: Path, capfd: Capture, tag: str) -> None:
    """cruft renders answers: it would fail, or change them. So they come out as typed, and nothing is remembered."""
    project = bake(template, tmp_path / "output", description=literal(f"Counts {tag}"))
    assert tag in tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["description"]
    assert not (project / ".cruft.json").exists()
    expected = "no, as cruft would take the braces in your answers for tags of a template"
    assert said(capfd.readouterr().out, "updates") == expected


def remembered_of(template: Path, folder: Path, url: str) -> str:
    """Give what a project remembers of a template that came from `url`; it is the same in both places."""
    project = bake(fork(template, folder / "clone", url), folder / "output")
    remembered: str = state(project)["template"]
    assert state(project)["context"]["cookiecutter"]["_template"] == remembered
    assert "s3cret" not in (project / ".cruft.json").read_text("utf-8")
    return remembered


SECRETS = {
    "https://olive:s3cret@host.example/trail.git": "https://host.example/trail.git",
    "https://s3cret@host.example/trail.git": "https://host.example/trail.git",
    "http://olive:s3cret@host.example:8080/a@b/trail.git": "http://host.example:8080/a@b/trail.git",
    "https://host.example/trail.git": "https://host.example/trail.git",
    "ssh://git@host.example:22/trail.git": "ssh://git@host.example:22/trail.git",
    "git@host.example:team/trail.git": "git@host.example:team/trail.git",
}
RARE_SECRETS = {
    "https://olive:s3cret@word@host.example/trail.git": "https://host.example/trail.git",
    "ssh://git:s3cret@host.example/trail.git": "ssh://git@host.example/trail.git",
}


@pytest.mark.parametrize("url", SECRETS)
def test_no_secret_is_remembered(template: Path, tmp_path: Path, capfd: Capture, url: str) -> None:
    """A password in the address of the template goes neither into the project nor on the screen."""
    assert remembered_of(template, tmp_path, url) == SECRETS[url]
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("url", RARE_SECRETS)
def test_no_rare_secret_is_remembered(template: Path, tmp_path: Path, url: str) -> None:
    """Nor one with an @ in it, nor one for another protocol."""
    assert remembered_of(template, tmp_path, url) == RARE_SECRETS[url]


def test_commit_that_is_not_pushed(template: Path, tmp_path: Path) -> None:
    """The remote does not have it, the folder does."""
    clone = fork(template, tmp_path / "clone", "https://host.example/trail.git")
    unpushed = commit(clone)
    remembered = state(bake(clone, tmp_path / "output"))
    assert (remembered["template"], remembered["commit"]) == (str(clone), unpushed)


def test_commit_that_another_remote_has(template: Path, tmp_path: Path) -> None:
    """The remote that has the commit counts, whatever it is called; of two that have it, origin."""
    clone = fork(template, tmp_path / "clone", "https://host.example/fork.git")
    git(clone, "remote", "rename", "origin", "upstream")
    assert state(bake(clone, tmp_path / "first"))["template"] == "https://host.example/fork.git"
    git(clone, "remote", "add", "origin", "https://host.example/origin.git")
    assert state(bake(clone, tmp_path / "second"))["template"] == "https://host.example/fork.git"
    git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert state(bake(clone, tmp_path / "third"))["template"] == "https://host.example/origin.git"


def test_settings_that_hide_new_files(moving: Path, tmp_path: Path) -> None:
    """A file that is rendered and not committed counts, also for who does not want to see such files."""
    git(make_dirty_by_a_new_file(moving), "config", "status.showUntrackedFiles", "no")
    assert not (bake(moving, tmp_path / "output") / ".cruft.json").exists()


def test_generated_within_the_template(moving: Path) -> None:
    """The new project itself, below the template's folder, is no change of the template."""
    must(cookiecutter(moving, moving / "mine"))
    assert state(moving / "mine" / "trail-service")["commit"] == git(moving, "rev-parse", "HEAD")


def test_tag_beside_all_branches(moving: Path, tmp_path: Path) -> None:
    """What cookiecutter has cloned itself is remembered by its address, not by the clone in the user's home."""
    git(moving, "checkout", "--quiet", "--detach")
    tagged = commit(moving)
    git(moving, "tag", "v1")
    git(moving, "checkout", "--quiet", "main")
    git(tmp_path, "clone", "--quiet", "--bare", str(moving), "trail.git")
    url = (tmp_path / "trail.git").as_uri()
    must(cookiecutter(url, tmp_path / "output", "--checkout", "v1"))
    remembered = state(tmp_path / "output" / "trail-service")
    assert [remembered[fact] for fact in ("template", "commit", "checkout")] == [url, tagged, "v1"]


# Updates


def edit(project: Path) -> dict[str, bytes]:
    """Edit a project as its owner does, in a file that the template changes too; give the edited files."""
    insert(project / "Makefile", 0, "# A thought of the owner.")
    insert(project / "README.md", -1, "\nA thought of the owner.")
    (project / "app" / "services" / "mine.py").write_text('"""A thought of the owner."""\n')
    commit(project)
    return {name: contents(project)[name] for name in ("Makefile", "README.md", "app/services/mine.py")}


def follow(project: Path, fresh: Path, edits: dict[str, bytes]) -> None:
    """Update a project, and compare it with a fresh one and the edits of its owner."""
    assert not up_to_date(project)
    update(project)
    assert up_to_date(project)
    later = b"# A later thought of the template.\n"
    assert contents(project) == contents(fresh) | edits | {"Makefile": edits["Makefile"] + later}
    assert "U" not in {line[1] for line in git(project, "status", "--porcelain").splitlines()}


def test_update_from_a_folder(moving: Path, owned: Path, tmp_path: Path) -> None:
    """The template's change arrives, the owner's edits stay, and the project is as new but for them."""
    assert up_to_date(owned)
    edits = edit(owned)
    moved = move_on(moving)
    follow(owned, bake(moving, tmp_path / "fresh", year=YEAR), edits)
    assert state(owned)["commit"] == moved


def test_update_from_a_remote(moving: Path, tmp_path: Path) -> None:
    """The same with a template that cookiecutter has cloned, at a tag, while the remote has gone on."""
    git(tmp_path, "clone", "--quiet", "--bare", str(moving), "trail.git")
    url = (tmp_path / "trail.git").as_uri()
    git(moving, "tag", "v1")
    tagged, moved = git(moving, "rev-parse", "v1"), move_on(moving)
    git(moving, "push", "--quiet", url, "main", "v1")
    must(cookiecutter(url, tmp_path / "output", f"year={YEAR}", "--checkout", "v1"))
    project = start(tmp_path / "output" / "trail-service")
    assert [state(project)[fact] for fact in ("template", "commit", "checkout")] == [url, tagged, "v1"]
    follow(project, bake(moving, tmp_path / "fresh", year=YEAR), edit(project))
    assert [state(project)[fact] for fact in ("template", "commit")] == [url, moved]


def test_remote_at_its_newest(template: Path, plain: Path, tmp_path: Path) -> None:
    """Without a checkout there is nothing to update in a new project."""
    git(tmp_path, "clone", "--quiet", "--bare", str(template), "trail.git")
    url = (tmp_path / "trail.git").as_uri()
    must(cookiecutter(url, tmp_path / "output", f"year={YEAR}"))
    project = tmp_path / "output" / "trail-service"
    assert contents(project) == contents(plain)
    assert state(project)["checkout"] is None
    assert up_to_date(project)


def mark(project: Path, who: str) -> None:
    """Write one's own line where others write theirs, in a file and in the lock."""
    lines = (project / "Makefile").read_text("utf-8").splitlines(keepends=True)
    (project / "Makefile").write_text("".join([f"# This is the {who}'s line.\n", *lines[1:]]), "utf-8")
    lock = (project / "uv.lock").read_text("utf-8")
    (project / "uv.lock").write_text(lock.replace("\n\n[[package]]", f"\n# {who}\n\n[[package]]", 1), "utf-8")


def test_conflict(moving: Path, owned: Path) -> None:
    """Both changed one line: both are in the file, between marks, and git says that somebody has to choose."""
    mark(owned, "owner")
    commit(owned)
    mine = (owned / "Makefile").read_text("utf-8")
    mark(moving / TEMPLATE, "template")
    move_on(moving)
    update(owned)
    assert {"UU Makefile", "UU uv.lock"} < set(git(owned, "status", "--porcelain").splitlines())
    ours, _, theirs = (owned / "Makefile").read_text("utf-8").partition("=======\n")
    assert ours == "<<<<<<< ours\n# This is the owner's line.\n"
    assert theirs.startswith("# This is the template's line.\n>>>>>>> theirs\n")
    assert theirs.endswith("# A later thought of the template.\n")
    assert git(owned, "show", ":2:Makefile") == mine.strip()
    assert (owned / "app" / "services" / "later.py").exists()
    lock_again(owned)


def lock_again(project: Path) -> None:
    """Do what an owner does whose lock an update has left unreadable: go on from the committed one."""
    assert run([UV, "lock"], project).returncode != 0
    git(project, "checkout", "HEAD", "--", "uv.lock")
    must(run([UV, "lock"], project))
    assert lock_holds(project)


def test_deleted_stays_deleted(moving: Path, owned: Path) -> None:
    """A folder and a file that the owner does not want do not come back when the template changes them."""
    shutil.rmtree(owned / "app" / "api")
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


def test_edits_and_names_survive_a_new_name(owned: Path, tmp_path: Path) -> None:
    """Identity is an answer like others: the project gets its new name, and is as if it had always had it."""
    answers = {"project_slug": "other", "license": "Proprietary", "description": 'Says "hello" & more.'}
    update(owned, **answers)
    template = Path(state(owned)["template"])
    assert contents(owned) == contents(bake(template, tmp_path / "fresh", year=YEAR, **answers))
    assert lock_holds(owned)


# Options


@pytest.mark.parametrize("option", OPTIONS)
def test_option_off_and_on(template: Path, plain: Path, tmp_path: Path, option: str) -> None:
    """An option goes and comes without a trace: each time the project is as if it had been generated so."""
    without = contents(bake(template, tmp_path / "without", year=YEAR, **{option: False}))
    project = start(bake(template, tmp_path / "output", year=YEAR, **{option: True}))
    with_it = contents(project)
    for chosen, fresh in ((False, without), (True, with_it)):
        update(project, **{option: chosen})
        assert contents(project) == fresh
        assert asked(project) == asked(plain) | {option: chosen}
        assert lock_holds(project)
        commit(project)


def test_all_options_in_one_environment(template: Path, tmp_path: Path) -> None:
    """The environment that lies in the project follows its options, and its tests pass with it."""
    project = start(bake(template, tmp_path / "output", year=YEAR))
    for chosen in (True, False):
        update(project, **dict.fromkeys(OPTIONS, chosen))
        must(run([UV, "sync", "--locked", "--quiet", "--python", sys.executable], project))
        assert (project / ".venv" / "bin" / "pre-commit").exists() == chosen
        tests = [project / "tests" / "test_api_demo.py", *sorted(project.glob("tests/core/test_request*.py"))]
        assert (len(tests) > 1) == chosen
        must(run([".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], project))
        commit(project)
    assert git(project, "status", "--porcelain", "--ignored").count(".venv") == 1


def add_requirement(project: Path, name: str) -> None:
    """Add a requirement as `uv add` does."""
    text = (project / "pyproject.toml").read_text("utf-8")
    (project / "pyproject.toml").write_text(text.replace("dependencies = [\n", f'dependencies = [\n    "{name}",\n', 1))
    must(run([UV, "lock"], project))
    commit(project)


def required(project: Path) -> set[str]:
    """Give what pyproject.toml requires, with names only."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    wanted = [*table["project"]["dependencies"], *table["dependency-groups"]["dev"]]
    return {item.partition(">")[0] for item in wanted}


@pytest.mark.parametrize("slug", ["trail-service", "zzz"])
def test_requirement_of_the_owner(template: Path, tmp_path: Path, slug: str) -> None:
    """It is one line in pyproject.toml and two in the lock, whatever the project's name: no package moves."""
    project = start(bake(template, tmp_path / "output", project_slug=slug))
    add_requirement(project, "click")
    assert git(project, "diff", "--shortstat", "HEAD~") == "2 files changed, 3 insertions(+)"


def test_option_beside_a_requirement_of_the_owner(template: Path, tmp_path: Path) -> None:
    """Both the owner and the option change the lists and the lock, and neither is in the other's way."""
    project = start(bake(template, tmp_path / "output", project_slug="aaa"))
    add_requirement(project, "click")
    update(project, pre_commit=True)
    assert {"click", "pre-commit"} < required(project)
    assert "UU" not in git(project, "status", "--porcelain")
    assert lock_holds(project)


def test_requirement_that_an_option_has_too(template: Path, tmp_path: Path) -> None:
    """What leaves with the option is missing in the lock: uv says so, and locks again from what was committed."""
    project = start(bake(template, tmp_path / "output", pre_commit=True))
    add_requirement(project, "identify")
    update(project, pre_commit=False)
    assert "identify" in required(project)
    assert "pre-commit" not in required(project)
    lock_again(project)
    assert '\nname = "identify"' in (project / "uv.lock").read_text("utf-8")
    assert '"pre-commit"' not in (project / "uv.lock").read_text("utf-8")


# Hooks


def make_repository(template: Path, output: Path, **answers: str) -> Path:
    return bake(template, output, git_init=True, full_name="Ada Answer", email="ada@example.com", **answers)


def test_hooks_are_quiet_in_an_update(moving: Path, tmp_path: Path) -> None:
    """An update runs both hooks twice: they say nothing, start nothing, and write only where they render."""
    project = make_repository(moving, tmp_path / "output")
    assert asked(project)["git_init"] is True
    move_on(moving)
    seen = tmp_path / "seen"
    variables = watched(tmp_path / "watch", seen)
    result = must(run([TOOLS / "cruft", "update", "-y"], project, variables))
    lines = seen.read_text("utf-8").splitlines()
    assert len([line for line in lines if line.startswith("HOOK ")]) == 4
    assert [line for line in lines if line.startswith("OUTSIDE ")] == []
    assert any(line.startswith("INSIDE open ") for line in lines)
    assert result.stdout.startswith("Good work!")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def commits(project: Path) -> list[str]:
    return git(project, "log", "--format=%an <%ae>", "main").splitlines()


def another_home(folder: Path, patch: Patch, settings: str) -> None:
    """Live in a home with other settings of git."""
    folder.mkdir()
    (folder / ".gitconfig").write_text(settings)
    patch.setenv("HOME", str(folder))


def test_git_init(template: Path, tmp_path: Path, capfd: Capture) -> None:
    """A repository on main with one commit by the user, in which nothing is left to commit."""
    project = make_repository(template, tmp_path / "output")
    assert commits(project) == ["Olive Owner <olive@example.com>"]
    assert git(project, "status", "--porcelain", "--ignored") == ""
    assert git(project, "branch", "--format=%(refname:short)") == "main"
    assert ".cruft.json" in git(project, "ls-files").splitlines()
    assert said(capfd.readouterr().out, "git") == "yes, with a first commit on main"


def test_no_git_init(plain: Path) -> None:
    assert not (plain / ".git").exists()


@pytest.mark.parametrize("settings", ["", "[user]\nuseConfigOnly = true\n", "[user]\nname = Half\n"])
def test_git_init_without_identity(template: Path, tmp_path: Path, monkeypatch: Patch, settings: str) -> None:
    """Where git does not know its user, the answers' author has made the commit, and no setting is left behind."""
    another_home(tmp_path / "home", monkeypatch, settings)
    project = make_repository(template, tmp_path / "output")
    assert commits(project) == ["Ada Answer <ada@example.com>"]
    assert "Ada" not in (project / ".git" / "config").read_text("utf-8")


@pytest.mark.parametrize("roles", [("AUTHOR", "COMMITTER"), ("AUTHOR",)])
def test_git_init_with_identity_of_the_environment(
    template: Path, tmp_path: Path, monkeypatch: Patch, roles: tuple[str, ...]
) -> None:
    """Containers say by variables who commits; the answers are for what they leave open."""
    another_home(tmp_path / "home", monkeypatch, "")
    for role in roles:
        monkeypatch.setenv(f"GIT_{role}_NAME", "Eve Environment")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "eve@example.com")
    assert commits(make_repository(template, tmp_path / "output")) == ["Eve Environment <eve@example.com>"]


def test_git_init_with_settings_elsewhere(template: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Some keep the settings of git in a place that only a variable names."""
    another_home(tmp_path / "home", monkeypatch, "")
    (tmp_path / "settings").write_text("[user]\nname = Elsa Elsewhere\nemail = elsa@example.com\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    assert commits(make_repository(template, tmp_path / "output")) == ["Elsa Elsewhere <elsa@example.com>"]


def test_git_init_again(template: Path, tmp_path: Path, capfd: Capture) -> None:
    """Generated once more, a repository stays what it is."""
    project = make_repository(template, tmp_path / "output")
    bake_again = {"git_init": "yes", "full_name": "Ada Answer", "email": "ada@example.com", "year": YEAR}
    must(cookiecutter(template, tmp_path / "output", "-f", *(f"{key}={value}" for key, value in bake_again.items())))
    assert len(commits(project)) == 1
    capfd.readouterr()


def test_git_init_within_a_repository(template: Path, tmp_path: Path, capfd: Capture) -> None:
    """A service in the repository of others is theirs to commit."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(start(outer), "status")
    project = make_repository(template, outer / "services")
    assert not (project / ".git").exists()
    assert said(capfd.readouterr().out, "git") == f"no, as the folder lies in the repository {outer}"
    assert commits(outer) == ["Olive Owner <olive@example.com>"]


def refuse_by_hook(folder: Path) -> tuple[str, str]:
    """Give settings with which a hook refuses every commit, and what git then says."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\necho 'Nobody commits today.' >&2\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    return f"[core]\nhooksPath = {hooks}\n", "Nobody commits today."


def refuse_by_signature(folder: Path) -> tuple[str, str]:
    """Give settings with which no commit can be signed, and what git then says."""
    program = folder / "gpg"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return f"[commit]\ngpgSign = true\n[gpg]\nprogram = {program}\n", "failed to sign the data"


@pytest.mark.parametrize("refuse", [refuse_by_hook, refuse_by_signature])
def test_commit_refused(
    template: Path, tmp_path: Path, monkeypatch: Patch, capfd: Capture, refuse: Callable[[Path], tuple[str, str]]
) -> None:
    """The project is there, all of it waits for a commit, and the screen shows what git has said."""
    settings, words = refuse(tmp_path)
    another_home(tmp_path / "home", monkeypatch, settings + "[user]\nname = Olive\nemail = o@example.com\n")
    project = make_repository(template, tmp_path / "output")
    assert (project / "LICENSE").exists()
    waiting = git(project, "status", "--porcelain").splitlines()
    assert {line[3:] for line in waiting} == {*contents(project), ".cruft.json"}
    screen = capfd.readouterr().out
    assert said(screen, "git").startswith("not finished, as git says: ")
    assert words in screen
    assert screen.rstrip().endswith("docker compose up --wait")


def test_within_a_hook_of_git(template: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Git tells its hooks of a repository by variables; it is neither the template's nor the project's."""
    other = tmp_path / "other"
    other.mkdir()
    before = git(start(other), "rev-parse", "HEAD")
    for name, path in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(name, str((other / path).resolve()))
    project = make_repository(template, tmp_path / "output")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name)
    assert state(project)["commit"] == git(template, "rev-parse", "HEAD")
    assert commits(project) == ["Olive Owner <olive@example.com>"]
    assert git(other, "rev-parse", "HEAD") == before
    assert git(other, "status", "--porcelain") == ""


# Generated again, over what is there


def test_overwritten(moving: Path, tmp_path: Path) -> None:
    """`--overwrite-if-exists` gives the new answers' project, and leaves alone what the template does not know."""
    output = tmp_path / "output"
    project = start(bake(moving, output, year=YEAR, core_tests=True))
    fenced = "# >>> pre_commit\nkept\n# <<< pre_commit\n"
    mine = {"notes.txt": "kept\n", ".venv/activate.sh": fenced, ".git/description": fenced}
    for name, text in mine.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    moved = move_on(moving)
    must(cookiecutter(moving, output, "--overwrite-if-exists", f"year={YEAR}"))
    assert state(project)["commit"] == moved
    assert {name: (project / name).read_text("utf-8") for name in mine} == mine
    fresh = contents(bake(moving, tmp_path / "fresh", year=YEAR))
    assert {name: contents(project)[name] for name in fresh} == fresh
    assert set(contents(project)) - set(fresh) == {"notes.txt", "log_config.json"}
