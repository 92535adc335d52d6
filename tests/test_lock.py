"""The hook takes requirements out of the lock as uv would; tests/test_options.py does so with every combination."""

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


def locked(project: Path, table: str, lock: str) -> str:
    """Write a project, and return the lock that uv writes for it."""
    for name, text in {"pyproject.toml": table, "uv.lock": lock, "README.md": "# Service\n"}.items():
        post.write(project / name, text)
    must(run([UV, "lock"], project))
    return (project / "uv.lock").read_text("utf-8")


def test_needs_of_both_versions_of_a_package_stay() -> None:
    root = '[[package]]\nname = "service"\nversion = "0"\nsource = { virtual = "." }\n'
    blocks = [
        root + 'dependencies = [\n    { name = "two" },\n]\n',
        '[[package]]\nname = "two"\nversion = "1"\ndependencies = [\n    { name = "old" },\n]\n',
        '[[package]]\nname = "two"\nversion = "2"\ndependencies = [\n    { name = "new" },\n]\n',
    ]
    assert {name for name, _ in post.reach(blocks)} == {"service", "two", "old", "new"}


def test_package_that_is_locked_twice_stays_or_leaves_as_a_whole(tmp_path: Path) -> None:
    forked = TABLE.replace("dependencies = [\n", f"dependencies = [{FORKED}", 1)
    lock = locked(tmp_path, forked, LOCK)
    assert lock.count('[[package]]\nname = "numpy"') > 1
    unwanted = post.owned(json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8")), [], "requirements")
    kept = post.prune_lock(lock, unwanted)
    assert locked(tmp_path, post.drop_requirements(forked, unwanted), kept) == kept
    assert "numpy" not in post.LOCKED_NAMES.findall(post.prune_lock(lock, ["numpy"]))


@pytest.mark.parametrize("name", ["redis", "sentry", "fast", "prometheus", "opentelemetry", "celery.redis"])
def test_name_that_begins_others_takes_nothing(name: str) -> None:
    assert post.drop_requirements(TABLE, [name]) == TABLE
    assert post.prune_lock(LOCK, [name]) == LOCK


def test_name_before_a_dot_is_another_name() -> None:
    table = 'dependencies = [\n    "zope.interface>=7",\n    "zope>=1",\n]\n'
    assert post.drop_requirements(table, ["zope"]) == 'dependencies = [\n    "zope.interface>=7",\n]\n'
