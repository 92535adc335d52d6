"""What a new project remembers of its template, and its first commit: the hook's functions, with a small template."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hooks import post_gen_project as post
from scripts.snapshot import TEMPLATE
from tests.support.baking import GOOD
from tests.support.updating import commit, fork, git, home, insert, start, state  # noqa: F401

Patch = pytest.MonkeyPatch
NO_COMMIT = "no, as the template is not a commit of a git repository"
ADA = {"git_init": True, "full_name": "Ada Answer", "email": "ada@example.com"}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A committed template with a file of each kind that is rendered, and one that is not."""
    folder = tmp_path / "template"
    for name in ("cookiecutter.json", "hooks/post_gen_project.py", f"{TEMPLATE}/README.md", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    return start(folder)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A new project."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "README.md").touch()
    return folder


def remember(service: Path, template: Path, **answers: object) -> str:
    """Write .cruft.json, and return what the screen says of it."""
    given = {"_repo_dir": str(template), "_template": str(template), "_output_dir": str(service.parent)}
    return post.remember_template(service, GOOD | given | answers)


def facts(service: Path, template: Path, **answers: object) -> list[Any]:
    """Return which template, commit and checkout are remembered."""
    remember(service, template, **answers)
    return [state(service)[fact] for fact in ("template", "commit", "checkout")]


# The template


CHANGES: dict[str, Callable[[Path], object]] = {
    "file": lambda template: insert(template / TEMPLATE / "README.md", -1, "changed"),
    "hook": lambda template: insert(template / "hooks" / "post_gen_project.py", -1, "# changed"),
    "question": lambda template: insert(template / "cookiecutter.json", -1, ""),
    "new file": lambda template: (template / TEMPLATE / "new.py").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_uncommitted_template_is_not_remembered(template: Path, service: Path, change: str) -> None:
    git(template, "config", "status.showUntrackedFiles", "no")
    CHANGES[change](template)
    assert remember(service, template) == NO_COMMIT
    assert not (service / ".cruft.json").exists()


def test_template_that_is_no_repository_is_not_remembered(template: Path, service: Path) -> None:
    """A subfolder of one, an unpacked archive, a repository without a commit."""
    shutil.copytree(template, template / "inner", ignore=shutil.ignore_patterns(".git"))
    commit(template)
    assert remember(service, template / "inner") == NO_COMMIT
    shutil.rmtree(template / ".git")
    assert remember(service, template).startswith("no, as git says: ")
    git(template, "init", "--quiet")
    (template / ".git" / "info" / "exclude").write_text("*\n")
    assert remember(service, template).startswith("no, as git says: ")
    assert not (service / ".cruft.json").exists()


def test_changes_outside_of_what_is_rendered_do_not_matter(template: Path, service: Path) -> None:
    """Such as a project that is generated within the template's folder."""
    insert(template / "README.md", -1, "changed")
    assert facts(Path(shutil.copytree(service, template / "mine/service")), template)[2] is None


def test_without_git_nothing_is_remembered_or_committed(template: Path, service: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", str(service / "nothing"))
    assert remember(service, template) == "no, as git says: it cannot be run (No such file or directory)"
    assert not (service / ".cruft.json").exists()
    assert post.start_repository(service, ADA).startswith("not finished, as git says: ")


@pytest.mark.parametrize("tag", ["{{ 7 * 7 }}", "{% boats %}", "{# gone #}"])
def test_answers_that_cruft_would_render_are_not_remembered(template: Path, service: Path, tag: str) -> None:
    said = remember(service, template, description=f"Counts {tag}")
    assert said == "no, as cruft would take the braces in your answers for tags of a template"
    assert not (service / ".cruft.json").exists()


SECRETS = {
    "https://olive:s3cret@host.example/trail.git": "https://host.example/trail.git",
    "https://olive:s3cret@word@host.example/trail.git": "https://host.example/trail.git",
    "https://s3cret@host.example/trail.git": "https://host.example/trail.git",
    "http://olive:s3cret@host.example:8080/a@b/trail.git": "http://host.example:8080/a@b/trail.git",
    "https://host.example/trail.git": "https://host.example/trail.git",
    "ssh://git:s3cret@host.example/trail.git": "ssh://git@host.example/trail.git",
    "ssh://git@host.example:22/trail.git": "ssh://git@host.example:22/trail.git",
    "git@host.example:team/trail.git": "git@host.example:team/trail.git",
}


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_are_removed_from_an_address(url: str) -> None:
    assert post.without_secrets(url) == SECRETS[url]


def test_password_of_a_remote_is_neither_remembered_nor_shown(template: Path, service: Path) -> None:
    url = "https://olive:s3cret@host.example/trail.git"
    said = remember(service, fork(template, service.parent / "clone", url))
    assert state(service)["template"] == state(service)["context"]["cookiecutter"]["_template"] == SECRETS[url]
    assert SECRETS[url] in said
    assert "s3cret" not in said + (service / ".cruft.json").read_text("utf-8")


def test_folder_is_remembered_when_no_remote_has_the_commit(template: Path, service: Path) -> None:
    clone = fork(template, service.parent / "clone", "https://host.example/trail.git")
    unpushed = commit(clone)
    said = remember(service, clone)
    assert said == f"uvx cruft update --skip-apply-ask, from {clone} at {unpushed[:12]}"
    assert [state(service)[fact] for fact in ("template", "commit", "checkout")] == [str(clone), unpushed, None]


def test_template_that_cookiecutter_has_cloned_is_remembered_by_its_address(template: Path, service: Path) -> None:
    url = "https://host.example/trail.git"
    clone = fork(template, service.parent / "clone", url)
    tagged = commit(clone)
    assert facts(service, clone, _template=url, _checkout="v1") == [url, tagged, "v1"]


def test_remote_that_has_the_commit_is_remembered(template: Path, service: Path) -> None:
    clone = fork(template, service.parent / "clone", "https://host.example/fork.git")
    git(clone, "remote", "rename", "origin", "fork")
    assert facts(service, clone)[0] == "https://host.example/fork.git"
    git(clone, "remote", "add", "origin", "https://host.example/origin.git")
    assert facts(service, clone)[0] == "https://host.example/fork.git"
    git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert facts(service, clone)[0] == "https://host.example/origin.git"


# The first commit


def commits(project: Path) -> list[str]:
    return git(project, "log", "--format=%an <%ae>", "main").splitlines()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The user's settings of git, to be written: an empty file in another home."""
    folder = tmp_path / "other-home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    (folder / ".gitconfig").touch()
    return folder / ".gitconfig"


EVE = {"GIT_AUTHOR_NAME": "Eve", "GIT_AUTHOR_EMAIL": "ada@example.com"}
ELSA = {"user.name": "Elsa", "user.email": "ada@example.com"}
AUTHORS: dict[str, tuple[str, dict[str, str], str]] = {
    "guess": ("", {"EMAIL": "guessed@example.com"}, "Ada Answer"),
    "no guess": ("[user]\nuseConfigOnly = true\n", {}, "Ada Answer"),
    "half of the settings": ("[user]\nname = Half\n", {}, "Ada Answer"),
    "half of the variables": ("", EVE, "Eve"),
    "variables": ("", EVE | {"GIT_COMMITTER_NAME": "Eve", "GIT_COMMITTER_EMAIL": "ada@example.com"}, "Eve"),
    "settings in variables": ("", {"GIT_CONFIG_PARAMETERS": " ".join(f"'{k}={v}'" for k, v in ELSA.items())}, "Elsa"),
}
"""Settings of git, variables, and who is the author of the first commit."""


@pytest.mark.parametrize("case", AUTHORS)
def test_author_of_the_answers_commits_where_git_knows_no_user(
    settings: Path, service: Path, monkeypatch: Patch, case: str
) -> None:
    """Also where git could guess one; none is left behind. Containers set variables, which go before the answers."""
    text, variables, author = AUTHORS[case]
    settings.write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert post.start_repository(service, ADA) == "yes, with a first commit on main"
    assert commits(service) == [f"{author} <ada@example.com>"]
    assert "Ada" not in (service / ".git" / "config").read_text("utf-8")


def test_no_repository_is_made_unasked(service: Path) -> None:
    assert post.start_repository(service, ADA | {"git_init": False}) == "no, as you have not asked for it"
    assert not (service / ".git").exists()


def test_repository_is_not_committed_to_again(service: Path) -> None:
    start(service)
    assert post.start_repository(service, ADA) == "it is a repository already"
    assert len(commits(service)) == 1


def test_project_within_a_repository_is_not_committed(tmp_path: Path, service: Path) -> None:
    start(tmp_path)
    assert post.start_repository(service, ADA) == f"no, as the folder lies in the repository {tmp_path}"
    assert not (service / ".git").exists()
    assert len(commits(tmp_path)) == 1


REFUSALS = {
    "[core]\nhooksPath = {folder}\n": ("pre-commit", "echo 'Nobody commits today.' >&2", "Nobody commits today."),
    "[commit]\ngpgSign = true\n[gpg]\nprogram = {folder}/gpg\n": ("gpg", "", "failed to sign the data"),
}
"""Settings with which a commit fails, by a program and its line, and what git then says."""


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refused_commit_leaves_everything_staged_and_shows_the_words_of_git(
    settings: Path, service: Path, refusal: str
) -> None:
    name, line, words = REFUSALS[refusal]
    program = settings.with_name(name)
    program.write_text(f"#!/bin/sh\n{line}\nexit 1\n")
    program.chmod(0o755)
    settings.write_text(refusal.format(folder=settings.parent) + "[user]\nname = Olive\nemail = o@example.com\n")
    said = post.start_repository(service, ADA)
    assert said.startswith("not finished, as git says: ")
    assert words in said
    assert git(service, "status", "--porcelain") == "A  README.md"


def test_variables_of_an_enclosing_git_hook_are_ignored(
    template: Path, service: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """They name a repository that is neither the template's nor the project's."""
    other = tmp_path / "other"
    other.mkdir()
    before = git(start(other), "rev-parse", "HEAD")
    newest = git(template, "rev-parse", "HEAD")
    with monkeypatch.context() as patch:
        for name, path in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
            patch.setenv(name, str((other / path).resolve()))
        assert facts(service, template)[1] == newest
        post.start_repository(service, ADA)
    assert commits(service) == ["Olive Owner <olive@example.com>"]
    assert (git(other, "rev-parse", "HEAD"), git(other, "status", "--porcelain")) == (before, "")
