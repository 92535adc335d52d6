"""Whatever is refused, the hook leaves the lock that uv would write: tried with options as large as they come."""

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
    """The lock holds without a network, and uv would change no byte of it."""
    before = (project / "uv.lock").read_bytes()
    must(run([UV, "lock", "--offline"], project))
    assert (project / "uv.lock").read_bytes() == before


def packages(project: Path) -> set[str]:
    return set(post.LOCKED_NAMES.findall((project / "uv.lock").read_text("utf-8")))


@pytest.mark.parametrize("row", pairwise(list(REQUIREMENTS), each_alone=True), ids=named)
def test_combinations(everything: Path, tmp_path: Path, row: Row) -> None:
    """Any two of them refused and kept in every way, each alone, all, none."""
    refused = post.owned(FEATURES, [name for name, chosen in row.items() if chosen], "requirements")
    check(without(everything, refused, tmp_path / "project"))


def test_nothing_refused(everything: Path, tmp_path: Path) -> None:
    """A lock from which nothing is taken stays as it is, also when it is read and written."""
    lock = (everything / "uv.lock").read_text("utf-8")
    assert post.prune_lock(lock, ["no-such-package"]) == lock
    check(without(everything, [], tmp_path / "same"))


def test_what_leaves_and_what_stays(everything: Path, tmp_path: Path) -> None:
    """What two options need leaves with the second of them; what nothing needs any more leaves with it."""
    features = post.owned(FEATURES, ["saq"], "requirements")
    assert "redis" not in features
    one = packages(without(everything, features, tmp_path / "one"))
    assert {"saq", "redis"} <= one
    assert not {"celery", "kombu", "billiard", "nats-py", "time-machine"} & one
    none = packages(without(everything, post.owned(FEATURES, [], "requirements"), tmp_path / "none"))
    assert not {"saq", "redis"} & none
    (tmp_path / "bare").mkdir()
    assert none == packages(make(tmp_path / "bare", "\n", ""))


def test_versions_are_one_package() -> None:
    """Of a package that is locked twice, each version may need what the other does not: all of that stays."""
    root = '[[package]]\nname = "service"\nversion = "0"\nsource = { virtual = "." }\n'
    blocks = [
        root + 'dependencies = [\n    { name = "two" },\n]\n',
        '[[package]]\nname = "two"\nversion = "1"\ndependencies = [\n    { name = "old" },\n]\n',
        '[[package]]\nname = "two"\nversion = "2"\ndependencies = [\n    { name = "new" },\n]\n',
    ]
    assert {name for name, _ in post.reach(blocks)} == {"service", "two", "old", "new"}


def test_a_package_in_two_versions(tmp_path: Path) -> None:
    """Of a package that is locked twice, one for each Python, both stay, and what either needs."""
    forked = tmp_path / "forked"
    forked.mkdir()
    make(forked, NEEDED + FORKED)
    assert (forked / "uv.lock").read_text("utf-8").count('[[package]]\nname = "numpy"') > 1
    check(without(forked, ["celery", "saq", "redis"], tmp_path / "kept"))
    gone = without(forked, ["numpy"], tmp_path / "gone")
    assert "numpy" not in packages(gone)


@pytest.mark.parametrize("name", ["redis", "sentry", "fast", "prometheus", "opentelemetry", "celery.redis"])
def test_only_whole_names(everything: Path, name: str) -> None:
    """A name that is the beginning of others, or a pattern, takes only itself."""
    table, lock = (everything / "pyproject.toml").read_text("utf-8"), (everything / "uv.lock").read_text("utf-8")
    lines = table.splitlines()
    dropped = set(lines) - set(post.drop_requirements(table, [name]).splitlines())
    assert all(re.match(rf' +"{re.escape(name)}[\[>]', line) for line in dropped)
    kept = set(post.LOCKED_NAMES.findall(post.prune_lock(lock, [name])))
    assert packages(everything) - kept <= {name}


def test_names_with_a_dot() -> None:
    """`zope` is not `zope.interface`."""
    table = 'dependencies = [\n    "zope.interface>=7",\n    "zope>=1",\n]\n'
    assert post.drop_requirements(table, ["zope"]) == 'dependencies = [\n    "zope.interface>=7",\n]\n'


def test_the_check_can_fail(everything: Path, tmp_path: Path) -> None:
    """A lock from which too little was taken is not what uv would write."""
    project = without(everything, ["celery"], tmp_path / "project")
    (project / "uv.lock").write_bytes((everything / "uv.lock").read_bytes())
    assert run([UV, "lock", "--check", "--offline"], project).returncode != 0
