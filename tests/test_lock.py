"""The hook removes requirements from uv.lock like `uv lock`; tests/test_options.py tests every combination."""

import json
from pathlib import Path

import pytest

from hooks import post_gen_project as post
from tests.support.baking import TEMPLATE_DIR, UV, must, run

TABLE = (TEMPLATE_DIR / "pyproject.toml").read_text("utf-8")
LOCK = (TEMPLATE_DIR / "uv.lock").read_text("utf-8")
FORKED = """
    "numpy>=2.4,<2.5 ; python_full_version >= '3.12'",
    "numpy>=2.3,<2.4 ; python_full_version < '3.12'",
"""


def lock_with_uv(project: Path, table: str, lock: str) -> str:
    """Write a project, and return the lock file that uv writes for it."""
    for name, text in {"pyproject.toml": table, "uv.lock": lock, "README.md": "# Service\n"}.items():
        post.write(project / name, text)
    must(run([UV, "lock"], project))
    return (project / "uv.lock").read_text("utf-8")


def test_dependencies_of_both_versions_of_a_package_stay() -> None:
    root = '[[package]]\nname = "service"\nversion = "0"\nsource = { virtual = "." }\n'
    blocks = [
        root + 'dependencies = [\n    { name = "two" },\n]\n',
        '[[package]]\nname = "two"\nversion = "1"\ndependencies = [\n    { name = "old" },\n]\n',
        '[[package]]\nname = "two"\nversion = "2"\ndependencies = [\n    { name = "new" },\n]\n',
    ]
    assert {name for name, _ in post.transitive_dependencies(blocks)} == {"service", "two", "old", "new"}


def test_both_versions_of_a_package_stay_or_are_removed(tmp_path: Path) -> None:
    forked = TABLE.replace("dependencies = [\n", f"dependencies = [{FORKED}", 1)
    lock = lock_with_uv(tmp_path, forked, LOCK)
    assert lock.count('[[package]]\nname = "numpy"') > 1
    unwanted = post.declined_items(json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8")), [], "requirements")
    pruned = post.prune_lock(lock, unwanted)
    assert lock_with_uv(tmp_path, post.drop_requirements(forked, unwanted), pruned) == pruned
    assert "numpy" not in post.LOCKED_NAMES.findall(post.prune_lock(lock, ["numpy"]))


@pytest.mark.parametrize("name", ["redis", "sentry", "fast", "prometheus", "opentelemetry", "celery.redis"])
def test_prefix_of_a_package_name_removes_nothing(name: str) -> None:
    assert post.drop_requirements(TABLE, [name]) == TABLE
    assert post.prune_lock(LOCK, [name]) == LOCK


def test_package_name_with_a_dot_is_a_different_package() -> None:
    table = 'dependencies = [\n    "zope.interface>=7",\n    "zope>=1",\n]\n'
    assert post.drop_requirements(table, ["zope"]) == 'dependencies = [\n    "zope.interface>=7",\n]\n'
