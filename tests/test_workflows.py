"""Workflows, pre-commit hooks, development container: valid, with least privilege; their commands are run here."""

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


def load_yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


def workflow_id(path: Path) -> str:
    return f"{'service' if TEMPLATE_DIR in path.parents else 'repository'}-{path.stem}"


@BOTH
def test_workflows_and_dependabot_settings_match_their_schemas(folder: Path) -> None:
    for schema, pattern in {"github-workflows": "workflows/*.yml", "dependabot": "dependabot.yml"}.items():
        files = sorted((folder / ".github").glob(pattern))
        must(run([TOOLS / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files], ROOT))


@BOTH
def test_zizmor_has_no_findings_and_detects_an_unpinned_action(folder: Path, tmp_path: Path) -> None:
    hooks = folder.glob(".pre-commit-config.yaml")
    must(run([TOOLS / "zizmor", *ZIZMOR, folder / ".github", *hooks], ROOT))
    pinned = (folder / ".github/workflows/ci.yml").read_text("utf-8")
    (tmp_path / "ci.yml").write_text(re.sub(r"@[0-9a-f]{40} # v", "@v", pinned), "utf-8")
    found = run([TOOLS / "zizmor", *ZIZMOR, tmp_path / "ci.yml"], ROOT)
    assert found.returncode != 0
    assert "unpinned-uses" in found.stdout


def test_each_action_is_pinned_to_a_commit_with_its_version() -> None:
    lines = [line.strip(" -") for path in WORKFLOWS for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    pinned = [match for line in lines if (match := PINNED.fullmatch(line))]
    assert len(pinned) == len(lines) > 0
    commits = {(match["action"], match["commit"]) for match in pinned}
    assert len(commits) == len({action for action, _ in commits})


def test_jobs_that_report_failures_run_after_a_failed_job() -> None:
    conditions = {workflow_id(path): [job.get("if") for job in load_yaml(path)["jobs"].values()] for path in WORKFLOWS}
    scheduled = "always() && needs.drift.result != 'success' && github.event_name == 'schedule'"
    assert conditions == {
        "repository-ci": [None],
        "repository-drift": [None, scheduled],
        "service-ci": [None, None, "always()"],
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=workflow_id)
def test_jobs_have_least_privilege_and_a_timeout(workflow: Path) -> None:
    content = load_yaml(workflow)
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
def test_push_cancels_only_older_runs_of_a_pull_request(folder: Path) -> None:
    assert load_yaml(folder / ".github/workflows/ci.yml")["concurrency"] == {
        "group": "${{ github.workflow }}-${{ github.event_name == 'pull_request' && github.ref || github.sha }}",
        "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
    }


@BOTH
def test_dependabot_does_not_group_major_versions_or_update_uv(folder: Path) -> None:
    entries = {entry["package-ecosystem"]: entry for entry in load_yaml(folder / ".github/dependabot.yml")["updates"]}
    (group,) = entries["uv"]["groups"].values()
    assert group == {"patterns": ["*"], "update-types": ["minor", "patch"]}
    assert entries["uv"].get("ignore") == ([{"dependency-name": "uv"}] if folder == ROOT else None)
    assert "ignore" not in entries["github-actions"]


@BOTH
def test_dependabot_waits_a_week_and_updates_every_manifest(folder: Path) -> None:
    """All updates are grouped. A folder without a manifest would fail Dependabot's run."""
    updated = set()
    for entry in load_yaml(folder / ".github/dependabot.yml")["updates"]:
        assert entry["cooldown"]["default-days"] >= 7
        assert entry["groups"]
        for name in entry.get("directories") or [entry["directory"]]:
            kind, place = entry["package-ecosystem"], folder / name.strip("/")
            workflows = place / ".github/workflows" if name == "/" else place
            assert (place / MANIFESTS[kind]).is_file() if kind in MANIFESTS else list(workflows.glob("*.yml"))
            updated.add((kind, place))
    for kind, manifest in MANIFESTS.items():
        for place in {folder, TEMPLATE_DIR}:
            assert not (place / manifest).is_file() or (kind, place) in updated, (
                f"Dependabot does not update {place / manifest}."
            )


@pytest.fixture(scope="module")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a workflow and pre-commit hooks, in a new git repository, before `make test`."""
    answers = {name: name in {"github_actions", "pre_commit"} for name in options()}
    project = bake(repository, tmp_path_factory.mktemp("workflows") / "output", **answers)
    for words in (["init", "--quiet", "--initial-branch=main"], ["add", "--all"]):
        must(run(["git", *words], project))
    return project


def run_step(step: dict[str, Any], folder: Path, values: dict[str, str], **variables: str) -> Result:
    """Run a step of a job as the GitHub runner would; `values` replaces the expressions in its environment."""
    for name, text in step.get("env", {}).items():
        variables[name] = re.sub(r"\$\{\{ (.+?) \}\}", lambda match: values[match[1]], text)
    return run(["bash", "-e", "-c", step["run"]], folder, environment(**variables))


def test_jobs_of_a_service_run_make_test_on_every_supported_python(service: Path) -> None:
    """tests/test_project.py runs `make test`. A service without an image has no job that builds one."""
    jobs = load_yaml(service / ".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"] == {"python": VERSIONS}
    assert set(jobs["passed"]["needs"]) == set(jobs) - {"passed"}
    test_step, _ = [step for job in jobs.values() for step in job["steps"] if "run" in step]
    assert (test_step["run"], test_step["env"]) == ("make test", {"UV_PYTHON": "${{ matrix.python }}"})


@pytest.mark.parametrize("results", ["success success", "failure success", "success cancelled", "skipped success"])
def test_check_for_branch_protection_fails_unless_every_job_succeeded(results: str) -> None:
    (step,) = load_yaml(TEMPLATE_DIR / ".github/workflows/ci.yml")["jobs"]["passed"]["steps"]
    code = run_step(step, ROOT, {"join(needs.*.result, ' ')": results}).returncode
    assert code == (results != "success success")


def test_job_of_the_repository_puts_every_supported_python_on_path(tmp_path: Path) -> None:
    pythons = [tmp_path / f"Python/{version}.9/x64/bin" for version in ["3.10", *VERSIONS, "3.14"]]
    for folder in pythons:
        folder.mkdir(parents=True)
    _, find, everything = load_yaml(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    must(run_step(find, ROOT, {}, RUNNER_TOOL_CACHE=str(tmp_path), GITHUB_PATH=str(tmp_path / "path")))
    assert (tmp_path / "path").read_text().splitlines() == [str(folder) for folder in pythons[1:-1]]
    assert os.access(ROOT / everything["run"], os.X_OK)


GH = """#!/bin/sh
for word; do printf '<%s>' "$word" >> {calls}; done
echo >> {calls}
[ "$2" = list ] && echo {number}
exit 0
"""


@pytest.mark.parametrize(("number", "call"), [("", "<create><--title>"), ("42", "<comment><42>")])
def test_failure_of_drift_opens_one_issue_and_comments_on_it(tmp_path: Path, number: str, call: str) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "gh").write_text(GH.format(calls=calls, number=number))
    (tmp_path / "gh").chmod(0o755)
    jobs = load_yaml(ROOT / ".github/workflows/drift.yml")["jobs"]
    assert jobs["drift"]["steps"][-1]["run"] == "make drift"
    (step,) = jobs["report"]["steps"]
    needed = re.findall(r"\$\{\{ (.+?) \}\}", " ".join(step["env"].values()))
    must(run_step(step, tmp_path, dict.fromkeys(needed, "value"), PATH=f"{tmp_path}:{os.environ['PATH']}"))
    search, action = calls.read_text().splitlines()
    title = step["env"]["TITLE"]
    # It must only find issues that the workflow itself has opened.
    assert f'<--search><in:title "{title}" author:app/github-actions>' in search
    assert action.startswith(f"<issue>{call}")
    assert "value/value/actions/runs/value" in action


def test_development_container_has_a_supported_python_and_an_existing_command_and_port() -> None:
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
def project_with_hooks(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with its pre-commit hooks installed, and a first commit that passed them."""
    without = shutil.ignore_patterns(".venv")  # its scripts contain absolute paths
    project = Path(shutil.copytree(service, tmp_path_factory.mktemp("hooks") / service.name, ignore=without))
    must(run([UV, "sync", "--quiet", "--locked"], project))
    must(run([".venv/bin/pre-commit", "install"], project))
    must(commit(project))
    return project


def commit(project: Path, **variables: str) -> Result:
    """Commit everything as a user would, offline, without an active virtual environment."""
    must(run(["git", "add", "--all"], project))
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    here = environment(PRE_COMMIT_HOME=str(project.parent / "pre-commit"), UV_OFFLINE="true", **variables)
    return run(["git", *author, "commit", "--quiet", "--message", "A change"], project, here)


def failed_hooks(result: Result) -> list[str]:
    """Return the hooks that rejected a commit."""
    assert result.returncode == 1, result.stdout + result.stderr
    return re.findall(r"^- hook id: (\S+)$", result.stdout + result.stderr, re.MULTILINE)


@pytest.fixture
def clean_project(project_with_hooks: Path) -> Iterator[Path]:
    """The same; all changes of a test are reverted afterwards."""
    yield project_with_hooks
    for words in (["reset", "--quiet", "--hard"], ["clean", "--quiet", "--force", "-d"]):
        must(run(["git", *words], project_with_hooks))


REJECTED = {
    "app/services/unformatted.py": ('"""Unformatted."""\n\nONE  =  [ 1 ]\n', ["ruff-format"]),
    "app/services/untyped.py": ('"""Adds."""\n\nTOTAL: int = "1" + "2"\n', ["mypy"]),
    "app/services/unused.py": ('"""Imports."""\n\nNOTHING = unknown\n', ["ruff-check", "mypy"]),
    "app/services/layers.py": (
        '"""Imports another layer."""\n\nfrom fastapi import FastAPI\n\nSERVICE = FastAPI\n',
        ["lint-imports"],
    ),
    "README.md": ("<<<<<<< ours\n", ["conflicts"]),
    "gun.py.rej": ("-a\n+b\n", ["rejects"]),
}


@pytest.mark.full
@pytest.mark.parametrize("name", REJECTED)
def test_commit_with_findings_is_rejected(clean_project: Path, name: str) -> None:
    text, hooks = REJECTED[name]
    (clean_project / name).write_text(text, "utf-8")
    assert failed_hooks(commit(clean_project)) == hooks
    if hooks == ["ruff-format"]:  # the hook has fixed the file
        must(commit(clean_project))


@pytest.mark.full
def test_stale_lock_is_rejected_before_any_other_check(clean_project: Path, tmp_path: Path) -> None:
    """Also if uv is not on PATH, with the uv that the Makefile has installed."""
    pyproject = (clean_project / "pyproject.toml").read_text("utf-8")
    (clean_project / "pyproject.toml").write_text(
        pyproject.replace('"fastapi>=', '"colorama",\n    "fastapi>='), "utf-8"
    )
    assert failed_hooks(commit(clean_project)) == ["environment"]
    for program in ("bash", "env", "git", "head", "ls", "sh"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    assert shutil.which("uv", path=tmp_path) is None
    (clean_project / ".uv/1.2.3/bin").mkdir(parents=True)
    (clean_project / ".uv/1.2.3/bin/uv").symlink_to(UV)
    rejected = commit(clean_project, PATH=str(tmp_path))
    assert failed_hooks(rejected) == ["environment"]
    assert "lock" in rejected.stdout + rejected.stderr
    must(run(["git", "checkout", "--quiet", "HEAD", "--", "pyproject.toml"], clean_project))
    (clean_project / "CHANGES.md").write_text("# Changes\n", "utf-8")
    must(commit(clean_project, PATH=str(tmp_path)))
