"""Whatever is declined, the hook leaves the lock that uv would write: with options of many packages."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from hooks import post_gen_project as post
from scripts.combinations import Row, pairwise
from tests.support.baking import TEMPLATE_DIR, UV, must, named, run

# Packages that share much below them, extras, a requirement for development only, one that two options own.
REQUIREMENTS = {
    "celery": ["celery", "redis"],
    "saq": ["saq", "redis"],
    "faststream": ["faststream"],
    "mcp": ["fastmcp"],
    "sentry": ["sentry-sdk"],
    "tracing": ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"],
    "metrics": ["prometheus-client"],
    "structlog": ["structlog", "time-machine"],
}
FEATURES: post.Features = {name: {"requirements": needs} for name, needs in REQUIREMENTS.items()}
NEEDED = """
    "celery>=5.5",
    "fastmcp>=3",
    "faststream[nats]>=0.6",
    "opentelemetry-exporter-otlp-proto-http>=1.30",
    "opentelemetry-sdk>=1.30",
    "prometheus-client>=0.22",
    "redis>=6",
    "saq[redis]>=0.25",
    "sentry-sdk[fastapi]>=2.30",
    "structlog>=25",
"""
FORKED = """
    "numpy>=2.4,<2.5 ; python_full_version >= '3.12'",
    "numpy>=2.3,<2.4 ; python_full_version < '3.12'",
"""
CUTOFF = 'exclude-newer = "2026-11-20T00:00:00Z"'


def make(folder: Path, needed: str = NEEDED, for_development: str = "time-machine>=2.16") -> Path:
    """Write a project that needs what the service without options needs, and this as well, and lock it."""
    options = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))
    bare = post.owned(options, [], "requirements") | {name for names in REQUIREMENTS.values() for name in names}
    text = post.drop_requirements((TEMPLATE_DIR / "pyproject.toml").read_text("utf-8"), bare)
    text = text.replace("dependencies = [\n", f"dependencies = [{needed}", 1)
    if for_development:
        text = text.replace("dev = [\n", f'dev = [\n    "{for_development}",\n', 1)
    (folder / "pyproject.toml").write_text(text.replace("[tool.uv]\n", f"[tool.uv]\n{CUTOFF}\n"), "utf-8")
    (folder / "README.md").write_text("# Service\n", "utf-8")
    must(run([UV, "lock"], folder))
    return folder


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A locked project with every option."""
    return make(tmp_path_factory.mktemp("everything"))


def without(project: Path, names: Iterable[str], target: Path) -> Path:
    """Write the project without these requirements to the folder `target`."""
    unwanted = set(names)
    target.mkdir()
    (target / "README.md").write_text("# Service\n", "utf-8")
    post.write(
        target / "pyproject.toml", post.drop_requirements((project / "pyproject.toml").read_text("utf-8"), unwanted)
    )
    lock = (project / "uv.lock").read_text("utf-8")
    post.write(target / "uv.lock", post.prune_lock(lock, unwanted) if unwanted else lock)
    return target


def check(project: Path) -> None:
    """Check that uv, without a network, changes no byte of the lock."""
    before = (project / "uv.lock").read_bytes()
    must(run([UV, "lock", "--offline"], project))
    assert (project / "uv.lock").read_bytes() == before


def packages(project: Path) -> set[str]:
    return set(post.LOCKED_NAMES.findall((project / "uv.lock").read_text("utf-8")))


@pytest.mark.parametrize("row", pairwise(list(REQUIREMENTS), each_alone=True), ids=named)
def test_lock_without_declined_options_is_what_uv_would_write(everything: Path, tmp_path: Path, row: Row) -> None:
    """Any two of them declined and kept in every way, each alone, all, none."""
    declined = post.owned(FEATURES, [name for name, chosen in row.items() if chosen], "requirements")
    check(without(everything, declined, tmp_path / "project"))


def test_lock_is_unchanged_when_nothing_is_declined(everything: Path) -> None:
    lock = (everything / "uv.lock").read_text("utf-8")
    assert post.prune_lock(lock, ["no-such-package"]) == lock


def test_package_of_two_options_leaves_with_the_second_and_takes_its_own_along(
    everything: Path, tmp_path: Path
) -> None:
    features = post.owned(FEATURES, ["saq"], "requirements")
    assert "redis" not in features
    one = packages(without(everything, features, tmp_path / "one"))
    assert {"saq", "redis"} <= one
    assert not {"celery", "kombu", "billiard", "nats-py", "time-machine"} & one
    none = packages(without(everything, post.owned(FEATURES, [], "requirements"), tmp_path / "none"))
    assert not {"saq", "redis"} & none
    (tmp_path / "bare").mkdir()
    assert none == packages(make(tmp_path / "bare", "\n", ""))


def test_needs_of_both_versions_of_a_package_stay() -> None:
    root = '[[package]]\nname = "service"\nversion = "0"\nsource = { virtual = "." }\n'
    blocks = [
        root + 'dependencies = [\n    { name = "two" },\n]\n',
        '[[package]]\nname = "two"\nversion = "1"\ndependencies = [\n    { name = "old" },\n]\n',
        '[[package]]\nname = "two"\nversion = "2"\ndependencies = [\n    { name = "new" },\n]\n',
    ]
    assert {name for name, _ in post.reach(blocks)} == {"service", "two", "old", "new"}


def test_package_that_is_locked_twice_stays_or_leaves_as_a_whole(tmp_path: Path) -> None:
    forked = tmp_path / "forked"
    forked.mkdir()
    make(forked, NEEDED + FORKED)
    assert (forked / "uv.lock").read_text("utf-8").count('[[package]]\nname = "numpy"') > 1
    check(without(forked, ["celery", "saq", "redis"], tmp_path / "kept"))
    gone = without(forked, ["numpy"], tmp_path / "gone")
    assert "numpy" not in packages(gone)


@pytest.mark.parametrize("name", ["redis", "sentry", "fast", "prometheus", "opentelemetry", "celery.redis"])
def test_name_that_begins_others_takes_only_itself(everything: Path, name: str) -> None:
    table, lock = (everything / "pyproject.toml").read_text("utf-8"), (everything / "uv.lock").read_text("utf-8")
    lines = table.splitlines()
    dropped = set(lines) - set(post.drop_requirements(table, [name]).splitlines())
    assert all(re.match(rf' +"{re.escape(name)}[\[>]', line) for line in dropped)
    kept = set(post.LOCKED_NAMES.findall(post.prune_lock(lock, [name])))
    assert packages(everything) - kept <= {name}


def test_name_before_a_dot_is_another_name() -> None:
    table = 'dependencies = [\n    "zope.interface>=7",\n    "zope>=1",\n]\n'
    assert post.drop_requirements(table, ["zope"]) == 'dependencies = [\n    "zope.interface>=7",\n]\n'


def test_uv_notices_a_lock_from_which_too_little_was_removed(everything: Path, tmp_path: Path) -> None:
    project = without(everything, ["celery"], tmp_path / "project")
    (project / "uv.lock").write_bytes((everything / "uv.lock").read_bytes())
    assert run([UV, "lock", "--check", "--offline"], project).returncode != 0
