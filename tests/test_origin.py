"""The functions of the hook that write .cruft.json and the first commit, with a small template."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hooks import post_gen_project as post
from scripts.snapshot import TEMPLATE
from tests.support.baking import VALID_ANSWERS
from tests.support.updating import commit, cruft_state, fork, git, home, init_repository, insert  # noqa: F401

Patch = pytest.MonkeyPatch
NO_COMMIT = "not available: the template is not a git repository, or has uncommitted changes"
ADA = {"git_init": True, "full_name": "Ada Answer", "email": "ada@example.com"}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A committed template: a file of each kind that the project depends on, and a README, which it does not."""
    folder = tmp_path / "template"
    for name in ("cookiecutter.json", "hooks/post_gen_project.py", f"{TEMPLATE}/README.md", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    return init_repository(folder)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A new project."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "README.md").touch()
    return folder


def record(service: Path, template: Path, **answers: object) -> str:
    """Write .cruft.json, and return the description that is printed."""
    private = {"_repo_dir": str(template), "_template": str(template), "_output_dir": str(service.parent)}
    return post.record_template(service, VALID_ANSWERS | private | answers)


def recorded_template(service: Path, template: Path, **answers: object) -> list[Any]:
    """Write .cruft.json, and return the recorded template, commit and checkout."""
    record(service, template, **answers)
    return [cruft_state(service)[key] for key in ("template", "commit", "checkout")]


# The template


CHANGES: dict[str, Callable[[Path], object]] = {
    "file": lambda template: insert(template / TEMPLATE / "README.md", -1, "changed"),
    "hook": lambda template: insert(template / "hooks" / "post_gen_project.py", -1, "# changed"),
    "question": lambda template: insert(template / "cookiecutter.json", -1, ""),
    "new file": lambda template: (template / TEMPLATE / "new.py").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_uncommitted_template_is_not_recorded(template: Path, service: Path, change: str) -> None:
    git(template, "config", "status.showUntrackedFiles", "no")
    CHANGES[change](template)
    assert record(service, template) == NO_COMMIT
    assert not (service / ".cruft.json").exists()


def test_template_outside_of_a_repository_is_not_recorded(template: Path, service: Path) -> None:
    """A subfolder of a repository, an unpacked archive, a repository without a commit."""
    shutil.copytree(template, template / "inner", ignore=shutil.ignore_patterns(".git"))
    commit(template)
    assert record(service, template / "inner") == NO_COMMIT
    shutil.rmtree(template / ".git")
    assert record(service, template).startswith("not available: git reports: ")
    git(template, "init", "--quiet")
    (template / ".git" / "info" / "exclude").write_text("*\n")
    assert record(service, template).startswith("not available: git reports: ")
    assert not (service / ".cruft.json").exists()


def test_uncommitted_changes_that_do_not_affect_the_project_are_ignored(template: Path, service: Path) -> None:
    """Such as a project that is generated inside the template's folder."""
    insert(template / "README.md", -1, "changed")
    assert recorded_template(Path(shutil.copytree(service, template / "mine/service")), template)[2] is None


def test_without_git_nothing_is_recorded_or_committed(template: Path, service: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", str(service / "nothing"))
    assert record(service, template) == "not available: git cannot be run (No such file or directory)"
    assert not (service / ".cruft.json").exists()
    assert post.start_repository(service, ADA) == "not finished: git cannot be run (No such file or directory)"


@pytest.mark.parametrize("tag", ["{{ 7 * 7 }}", "{% boats %}", "{# gone #}"])
def test_answers_that_cruft_would_render_are_not_recorded(template: Path, service: Path, tag: str) -> None:
    message = record(service, template, description=f"Counts {tag}")
    assert message == "not available: cruft would render the braces in your answers as Jinja tags"
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
def test_credentials_are_removed_from_a_url(url: str) -> None:
    assert post.remove_credentials(url) == SECRETS[url]


def test_password_of_a_remote_is_neither_recorded_nor_printed(template: Path, service: Path) -> None:
    url = "https://olive:s3cret@host.example/trail.git"
    message = record(service, fork(template, service.parent / "clone", url))
    assert (
        cruft_state(service)["template"] == cruft_state(service)["context"]["cookiecutter"]["_template"] == SECRETS[url]
    )
    assert SECRETS[url] in message
    assert "s3cret" not in message + (service / ".cruft.json").read_text("utf-8")


def test_folder_is_recorded_if_no_remote_has_the_commit(template: Path, service: Path) -> None:
    clone = fork(template, service.parent / "clone", "https://host.example/trail.git")
    unpushed = commit(clone)
    message = record(service, clone)
    assert message == f"uvx cruft update --skip-apply-ask (template {clone}, commit {unpushed[:12]})"
    assert [cruft_state(service)[key] for key in ("template", "commit", "checkout")] == [str(clone), unpushed, None]


def test_url_is_recorded_if_cookiecutter_has_cloned_the_template(template: Path, service: Path) -> None:
    url = "https://host.example/trail.git"
    clone = fork(template, service.parent / "clone", url)
    tagged = commit(clone)
    assert recorded_template(service, clone, _template=url, _checkout="v1") == [url, tagged, "v1"]


def test_remote_that_has_the_commit_is_recorded(template: Path, service: Path) -> None:
    clone = fork(template, service.parent / "clone", "https://host.example/fork.git")
    git(clone, "remote", "rename", "origin", "fork")
    assert recorded_template(service, clone)[0] == "https://host.example/fork.git"
    git(clone, "remote", "add", "origin", "https://host.example/origin.git")
    assert recorded_template(service, clone)[0] == "https://host.example/fork.git"
    git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert recorded_template(service, clone)[0] == "https://host.example/origin.git"


# The first commit


def commits(project: Path) -> list[str]:
    return git(project, "log", "--format=%an <%ae>", "main").splitlines()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The user's git configuration: an empty file in another home folder, which the test may write."""
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
"""The git configuration, environment variables, and the expected author of the first commit."""


@pytest.mark.parametrize("case", AUTHORS)
def test_author_of_the_answers_commits_if_git_has_no_user(
    settings: Path, service: Path, monkeypatch: Patch, case: str
) -> None:
    """Git must not guess a user, and the repository's configuration stays without one. Variables have precedence."""
    text, variables, author = AUTHORS[case]
    settings.write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert post.start_repository(service, ADA) == "created, with a first commit on main"
    assert commits(service) == [f"{author} <ada@example.com>"]
    assert "Ada" not in (service / ".git" / "config").read_text("utf-8")


def test_no_repository_is_created_without_git_init(service: Path) -> None:
    assert post.start_repository(service, ADA | {"git_init": False}) == "not created (git_init is off)"
    assert not (service / ".git").exists()


def test_existing_repository_gets_no_commit(service: Path) -> None:
    init_repository(service)
    assert post.start_repository(service, ADA) == "exists already"
    assert len(commits(service)) == 1


def test_project_inside_a_repository_is_not_committed(tmp_path: Path, service: Path) -> None:
    init_repository(tmp_path)
    message = f"not created: the folder is inside the git repository {tmp_path}"
    assert post.start_repository(service, ADA) == message
    assert not (service / ".git").exists()
    assert len(commits(tmp_path)) == 1


FAILURES = {
    "[core]\nhooksPath = {folder}\n": ("pre-commit", "echo 'No commits today.' >&2", "No commits today."),
    "[commit]\ngpgSign = true\n[gpg]\nprogram = {folder}/gpg\n": ("gpg", "", "failed to sign the data"),
}
"""Git configurations with which a commit fails: the program that git runs, a line of it, and the error message."""


@pytest.mark.parametrize("configuration", FAILURES)
def test_failed_commit_leaves_all_files_staged_and_shows_the_message_of_git(
    settings: Path, service: Path, configuration: str
) -> None:
    name, line, error = FAILURES[configuration]
    program = settings.with_name(name)
    program.write_text(f"#!/bin/sh\n{line}\nexit 1\n")
    program.chmod(0o755)
    settings.write_text(configuration.format(folder=settings.parent) + "[user]\nname = Olive\nemail = o@example.com\n")
    message = post.start_repository(service, ADA)
    assert message.startswith("not finished: git reports: ")
    assert error in message
    assert git(service, "status", "--porcelain") == "A  README.md"


def test_variables_of_an_enclosing_git_hook_are_ignored(
    template: Path, service: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """They name the repository of the git hook, which is neither the template's nor the project's."""
    other = tmp_path / "other"
    other.mkdir()
    before = git(init_repository(other), "rev-parse", "HEAD")
    newest = git(template, "rev-parse", "HEAD")
    with monkeypatch.context() as patch:
        for name, path in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
            patch.setenv(name, str((other / path).resolve()))
        assert recorded_template(service, template)[1] == newest
        post.start_repository(service, ADA)
    assert commits(service) == ["Olive Owner <olive@example.com>"]
    assert (git(other, "rev-parse", "HEAD"), git(other, "status", "--porcelain")) == (before, "")
