"""Workflows, commit hooks and development container: valid, with least privilege, and run here."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.combinations import options
from scripts.snapshot import ROOT
from tests.support.baking import TEMPLATE_DIR, TOOLS, UV, VERSIONS, Result, bake, environment, must, run

BOTH = pytest.mark.parametrize("folder", [ROOT, TEMPLATE_DIR], ids=["repository", "service"])
WORKFLOWS = [path for folder in (ROOT, TEMPLATE_DIR) for path in sorted(folder.glob(".github/workflows/*.yml"))]
PINNED = re.compile(r"uses: (?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # v\d+\.\d+\.\d+")
MANIFESTS = {"uv": "uv.lock", "docker": "Dockerfile", "docker-compose": "compose.yaml"}
ZIZMOR = ["--offline", "--no-progress", "--persona=auditor", "--collect=all", "--strict-collection"]


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


def named(path: Path) -> str:
    return f"{'service' if TEMPLATE_DIR in path.parents else 'repository'}-{path.stem}"


@BOTH
def test_workflows_and_dependabot_settings_match_their_schemas(folder: Path) -> None:
    for schema, pattern in {"github-workflows": "workflows/*.yml", "dependabot": "dependabot.yml"}.items():
        files = sorted((folder / ".github").glob(pattern))
        must(run([TOOLS / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files], ROOT))


@BOTH
def test_audit_finds_nothing_but_an_action_that_is_not_pinned(folder: Path, tmp_path: Path) -> None:
    hooks = folder.glob(".pre-commit-config.yaml")
    must(run([TOOLS / "zizmor", *ZIZMOR, folder / ".github", *hooks], ROOT))
    pinned = (folder / ".github/workflows/ci.yml").read_text("utf-8")
    (tmp_path / "ci.yml").write_text(re.sub(r"@[0-9a-f]{40} # v", "@v", pinned), "utf-8")
    found = run([TOOLS / "zizmor", *ZIZMOR, tmp_path / "ci.yml"], ROOT)
    assert found.returncode != 0
    assert "unpinned-uses" in found.stdout


def test_each_action_is_pinned_to_one_commit_with_its_version() -> None:
    lines = [line.strip(" -") for path in WORKFLOWS for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    pinned = [match for line in lines if (match := PINNED.fullmatch(line))]
    assert len(pinned) == len(lines) > 0
    commits = {(match["action"], match["commit"]) for match in pinned}
    assert len(commits) == len({action for action, _ in commits})


def test_jobs_for_failures_alone_run_when_a_needed_job_has_failed() -> None:
    asked = {named(path): [job.get("if") for job in loaded(path)["jobs"].values()] for path in WORKFLOWS}
    scheduled = "always() && needs.drift.result != 'success' && github.event_name == 'schedule'"
    assert asked == {
        "repository-ci": [None],
        "repository-drift": [None, scheduled],
        "service-ci": [None, None, "always()"],
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=named)
def test_jobs_may_read_the_code_or_write_an_issue_and_have_a_timeout(workflow: Path) -> None:
    content = loaded(workflow)
    assert content["permissions"] == {}
    assert content["concurrency"]
    for name, job in content["jobs"].items():
        reads = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert job["permissions"] == (
            {"issues": "write"} if name == "report" else {"contents": "read"} if reads else {}
        )
        assert all(step["with"] == {"persist-credentials": False} for step in reads)
        assert job["timeout-minutes"] <= 60
        assert not job["runs-on"].endswith("latest")


@BOTH
def test_push_cancels_the_run_for_an_older_state_of_a_pull_request_alone(folder: Path) -> None:
    assert loaded(folder / ".github/workflows/ci.yml")["concurrency"] == {
        "group": "${{ github.workflow }}-${{ github.event_name == 'pull_request' && github.ref || github.sha }}",
        "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
    }


@BOTH
def test_dependabot_groups_no_major_version_and_leaves_uv_alone(folder: Path) -> None:
    entries = {entry["package-ecosystem"]: entry for entry in loaded(folder / ".github/dependabot.yml")["updates"]}
    (group,) = entries["uv"]["groups"].values()
    assert group == {"patterns": ["*"], "update-types": ["minor", "patch"]}
    assert entries["uv"].get("ignore") == ([{"dependency-name": "uv"}] if folder == ROOT else None)
    assert "ignore" not in entries["github-actions"]


@BOTH
def test_dependabot_waits_a_week_and_looks_after_every_manifest(folder: Path) -> None:
    """It groups what it asks for; a folder without a manifest would fail its run."""
    looks = set()
    for entry in loaded(folder / ".github/dependabot.yml")["updates"]:
        assert entry["cooldown"]["default-days"] >= 7
        assert entry["groups"]
        for name in entry.get("directories") or [entry["directory"]]:
            kind, place = entry["package-ecosystem"], folder / name.strip("/")
            workflows = place / ".github/workflows" if name == "/" else place
            assert (place / MANIFESTS[kind]).is_file() if kind in MANIFESTS else list(workflows.glob("*.yml"))
            looks.add((kind, place))
    for kind, manifest in MANIFESTS.items():
        for place in {folder, TEMPLATE_DIR}:
            assert not (place / manifest).is_file() or (kind, place) in looks, f"Nobody looks after {place / manifest}."


@pytest.fixture(scope="module")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a workflow and hooks, in a git repository of its own, nothing installed yet."""
    answers = {name: name in {"github_actions", "pre_commit"} for name in options()}
    project = bake(repository, tmp_path_factory.mktemp("workflows") / "output", **answers)
    for words in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"]):
        must(run(["git", *words], project))
    return project


def run_step(step: dict[str, Any], folder: Path, values: dict[str, str], **variables: str) -> Result:
    """Run a step of a job as the runner would, with these values for the expressions in its environment."""
    for name, text in step.get("env", {}).items():
        variables[name] = re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values[match[1]], text)
    return run(["bash", "-e", "-c", step["run"]], folder, environment(**variables))


def test_jobs_of_a_service_run_make_test_on_every_promised_python(service: Path) -> None:
    """As tests/test_project.py does; a service that builds no image has no job for one."""
    jobs = loaded(service / ".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"] == {"python": VERSIONS}
    assert set(jobs["passed"]["needs"]) == set(jobs) - {"passed"}
    tested, _ = [step for job in jobs.values() for step in job["steps"] if "run" in step]
    assert (tested["run"], tested["env"]) == ("make test", {"UV_PYTHON": "${{ matrix.python }}"})


@pytest.mark.parametrize("results", ["success success", "failure success", "success cancelled", "skipped success"])
def test_check_for_branch_protection_fails_unless_every_job_succeeded(results: str) -> None:
    (step,) = loaded(TEMPLATE_DIR / ".github/workflows/ci.yml")["jobs"]["passed"]["steps"]
    code = run_step(step, ROOT, {"join(needs.*.result, ' ')": results}).returncode
    assert code == (results != "success success")


def test_job_of_the_repository_puts_every_promised_python_on_path(tmp_path: Path) -> None:
    pythons = [tmp_path / f"Python/{version}.9/x64/bin" for version in ["3.10", *VERSIONS, "3.14"]]
    for folder in pythons:
        folder.mkdir(parents=True)
    _, find, everything = loaded(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    must(run_step(find, ROOT, {}, RUNNER_TOOL_CACHE=str(tmp_path), GITHUB_PATH=str(tmp_path / "path")))
    assert (tmp_path / "path").read_text().splitlines() == [str(folder) for folder in pythons[1:-1]]
    assert os.access(ROOT / everything["run"], os.X_OK)


GH = """#!/bin/sh
for word; do printf '<%s>' "$word" >> {said}; done
echo >> {said}
[ "$2" = list ] && echo {number}
exit 0
"""


@pytest.mark.parametrize(("number", "does"), [("", "<create><--title>"), ("42", "<comment><42>")])
def test_failure_of_drift_opens_one_issue_and_comments_on_it(tmp_path: Path, number: str, does: str) -> None:
    said = tmp_path / "said"
    (tmp_path / "gh").write_text(GH.format(said=said, number=number))
    (tmp_path / "gh").chmod(0o755)
    jobs = loaded(ROOT / ".github/workflows/drift.yml")["jobs"]
    assert jobs["drift"]["steps"][-1]["run"] == "make drift"
    (step,) = jobs["report"]["steps"]
    needed = re.findall(r"\$\{\{ (.+?) \}\}", " ".join(step["env"].values()))
    must(run_step(step, tmp_path, dict.fromkeys(needed, "value"), PATH=f"{tmp_path}:{os.environ['PATH']}"))
    asked, done = said.read_text().splitlines()
    title = step["env"]["TITLE"]
    assert f'<--search><in:title "{title}" author:app/github-actions>' in asked  # nobody else's issue is written to
    assert done.startswith(f"<issue>{does}")
    assert "value/value/actions/runs/value" in done


def test_development_container_has_a_promised_python_and_an_existing_command_and_port() -> None:
    path = ".devcontainer/devcontainer.json"
    assert (ROOT / path).read_bytes() == (TEMPLATE_DIR / path).read_bytes()
    content = json.loads((ROOT / path).read_text("utf-8"))
    image = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:\d+-(3\.\d+)-[a-z]+", content["image"])
    assert image
    assert image[1] in VERSIONS
    for folder in (ROOT, TEMPLATE_DIR):
        assert f"\n{content['postCreateCommand'].removeprefix('make ')}:" in (folder / "Makefile").read_text("utf-8")
    example = (TEMPLATE_DIR / ".env.example").read_text("utf-8")
    assert [f"PORT={port}" in example for port in content["forwardPorts"]] == [True]
    assert set(content["remoteEnv"]) - set(re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE)) == {"UV_LINK_MODE"}


@pytest.fixture(scope="module")
def guarded(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with its hooks in place, and a first commit that they have let through."""
    without = shutil.ignore_patterns(".venv")  # its scripts know the folder in which it was made
    project = Path(shutil.copytree(service, tmp_path_factory.mktemp("guarded") / service.name, ignore=without))
    must(run([UV, "sync", "--quiet", "--locked"], project))
    must(run([".venv/bin/pre-commit", "install"], project))
    must(commit(project))
    return project


def commit(project: Path, **variables: str) -> Result:
    """Commit everything as a user does, without a network, without an activated environment."""
    must(run(["git", "add", "--all"], project))
    author = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.com"]
    here = environment(PRE_COMMIT_HOME=str(project.parent / "pre-commit"), UV_OFFLINE="true", **variables)
    return run(["git", *author, "commit", "--quiet", "--message", "A change"], project, here)


def failed(result: Result) -> list[str]:
    """Give the hooks that refused."""
    assert result.returncode == 1, result.stdout + result.stderr
    return re.findall(r"^- hook id: (\S+)$", result.stdout + result.stderr, re.MULTILINE)


@pytest.fixture
def clean(guarded: Path) -> Iterator[Path]:
    """The same, and whatever a test changes is gone afterwards."""
    yield guarded
    for words in (["reset", "--quiet", "--hard"], ["clean", "--quiet", "--force", "-d"]):
        must(run(["git", *words], guarded))


BAD = {
    "app/services/ragged.py": ('"""Ragged."""\n\nONE  =  [ 1 ]\n', ["ruff-format"]),
    "app/services/untyped.py": ('"""Adds."""\n\nTOTAL: int = "1" + "2"\n', ["mypy"]),
    "app/services/unused.py": ('"""Imports."""\n\nNOTHING = unknown\n', ["ruff-check", "mypy"]),
    "app/services/borders.py": (
        '"""Crosses a border."""\n\nfrom fastapi import FastAPI\n\nSERVICE = FastAPI\n',
        ["lint-imports"],
    ),
    "README.md": ("<<<<<<< ours\n", ["conflicts"]),
    "gun.py.rej": ("-a\n+b\n", ["rejects"]),
}


@pytest.mark.full
@pytest.mark.parametrize("name", BAD)
def test_bad_commit_is_refused(clean: Path, name: str) -> None:
    text, hooks = BAD[name]
    (clean / name).write_text(text, "utf-8")
    assert failed(commit(clean)) == hooks
    if hooks == ["ruff-format"]:  # which has fixed it
        must(commit(clean))


@pytest.mark.full
def test_stale_lock_is_refused_before_any_other_check(clean: Path, tmp_path: Path) -> None:
    """Also with the uv that the Makefile has installed, where there is none on PATH."""
    pyproject = (clean / "pyproject.toml").read_text("utf-8")
    (clean / "pyproject.toml").write_text(pyproject.replace('"fastapi>=', '"colorama",\n    "fastapi>='), "utf-8")
    assert failed(commit(clean)) == ["environment"]
    for program in ("bash", "env", "git", "head", "ls", "sh"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    assert shutil.which("uv", path=tmp_path) is None
    (clean / ".uv/1.2.3/bin").mkdir(parents=True)
    (clean / ".uv/1.2.3/bin/uv").symlink_to(UV)
    refused = commit(clean, PATH=str(tmp_path))
    assert failed(refused) == ["environment"]
    assert "lock" in refused.stdout + refused.stderr
    must(run(["git", "checkout", "--quiet", "HEAD", "--", "pyproject.toml"], clean))
    (clean / "CHANGES.md").write_text("# Changes\n", "utf-8")
    must(commit(clean, PATH=str(tmp_path)))
