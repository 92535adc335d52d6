"""What all tests share: the repository as git sees it, a project with every default, and no silent skips in CI."""

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
    """A copy of the repository with only what git tracks, or would."""
    return copy_repository(tmp_path_factory.mktemp("repository") / "template")


@pytest.fixture(scope="session")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every default, to look at and not to change."""
    return bake(repository, tmp_path_factory.mktemp("defaults") / "output")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service as it lies in the template, every option on, with the probe application, in its environment."""
    return baked.install(baked.bake(tmp_path_factory.mktemp("installed")))


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a folder in one process, too; `--dist loadgroup` of pytest-xdist 3.8.0 has no effect with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the file; of tests/compose the folder, whose files share what takes long to build."""
        file = nodeid.partition("::")[0]
        return "tests/compose" if file.startswith("tests/compose/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    return FileScheduling(config, log)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI a skipped promise is a broken one, except where the machine lacks an interpreter."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_INTERPRETER not in reason:
        report.outcome = "failed"
        report.longrepr = f"In CI nothing may be skipped, and this was: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at the outcome of every test."""
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at the outcome of every module's import."""
    report = yield
    refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each missing program how to install it, and which files it leaves untested."""
    untested: defaultdict[str, set[str]] = defaultdict(set)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
        untested[reason.removeprefix("Skipped: ")].add(report.nodeid.partition("::")[0])
    if untested:
        terminalreporter.section("not tested here")
    for reason, files in sorted(untested.items()):
        terminalreporter.write_line(f"{reason} Skipped: {', '.join(sorted(files))}.")
