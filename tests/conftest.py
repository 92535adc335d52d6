"""Shared fixtures: a copy of the repository, a project with the default answers. In CI a skipped test fails."""

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from scripts.snapshot import copy_repository
from tests.support import baked
from tests.support.baking import NO_INTERPRETER, bake


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository without the files that git ignores."""
    return copy_repository(tmp_path_factory.mktemp("repository") / "template")


@pytest.fixture(scope="session")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the default answers; read-only."""
    return bake(repository, tmp_path_factory.mktemp("defaults") / "output")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service of the template with every option and the probe application, with its packages installed."""
    return baked.install(baked.bake(tmp_path_factory.mktemp("installed")))


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Runs all tests of a file, or of tests/compose, in one process.

    `--dist loadgroup` cannot do this: in pytest-xdist 3.8.0 it has no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the file of a test; for tests/compose the folder, as its files share images that are slow to build."""
        file = nodeid.partition("::")[0]
        return "tests/compose" if file.startswith("tests/compose/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    return FileScheduling(config, log)


def fail_skip_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI turn a skip into a failure, except if a Python version is missing on the machine."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_INTERPRETER not in reason:
        report.outcome = "failed"
        report.longrepr = f"Skipped, which is a failure in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check the outcome of every test for skips."""
    report = yield
    fail_skip_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check the outcome of importing every test module for skips."""
    report = yield
    fail_skip_in_ci(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print each reason for a skip once (a missing program and how to install it), with the files that it affects."""
    untested: defaultdict[str, set[str]] = defaultdict(set)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
        untested[reason.removeprefix("Skipped: ")].add(report.nodeid.partition("::")[0])
    if untested:
        terminalreporter.section("skipped tests")
    for reason, files in sorted(untested.items()):
        terminalreporter.write_line(f"{reason} Skipped: {', '.join(sorted(files))}.")
