"""Log files that are moved, removed or on a full disk while the service runs: requests succeed, lines are whole."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import Counter
from signal import SIGUSR1
from typing import TYPE_CHECKING

import pytest

from tests.support.client import new_id
from tests.support.faults import check_access_lines, count_records, serve
from tests.support.lines import parse_app
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

FILES = ("access.log", "error.log", "demo.log")
STATUSES = (("/api/demo", 200), ("/api/demo/fail", 500), ("/nothing", 404))


@pytest.fixture(scope="module")
def shared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with log files; each test must leave their folder writable."""
    work = tmp_path_factory.mktemp("logs")
    with serve(project, work, log_path=work / "log", workers=3) as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
def folder(shared: Service) -> Path:
    """Return the folder of the log files, after a check that the workers write to it."""
    assert shared.log_path is not None
    check_serving(shared, shared.log_path)
    return shared.log_path


def check_serving(service: Service, folder: Path) -> None:
    """Check that requests succeed, and that each has a line in each file."""
    ids = [new_id("room") for _ in range(20)]
    for request_id in ids:
        assert service.request("GET", "/api/demo", request_id=request_id).status == 200
    check_access_lines([folder / "access.log"], ids)
    assert count_records([folder / "demo.log"], ids) == Counter(ids)


def test_moved_files_are_reopened(shared: Service, folder: Path) -> None:
    """After `mv` and SIGUSR1, three times under load, no line is lost, and the moved files no longer change."""
    sizes: dict[Path, int] = {}
    with Load(shared.port) as load:
        for number in range(3):
            load.wait_for_requests(30)
            moved = [(folder / name).rename(folder / f"{name}.{number}") for name in FILES]
            shared.signal(SIGUSR1)
            wait_for(lambda: all((folder / name).exists() for name in FILES), "new files")
            load.wait_for_requests(30)
            sizes |= {path: path.stat().st_size for path in moved}
    assert load.failed == []
    check_access_lines(folder.glob("access.log*"), load.answered)
    assert {path: path.stat().st_size for path in sizes} == sizes
    assert count_records(folder.glob("demo.log*"), load.answered) == Counter(load.answered)
    assert load.answered[-1] in (folder / "access.log").read_text("utf-8")


def test_many_signals_tear_no_line(shared: Service, folder: Path) -> None:
    """100 SIGUSR1 under load interrupt no write and lose no line."""
    with Load(shared.port, rate=1000) as load:
        for _ in range(100):
            shared.signal(SIGUSR1)
            load.wait_for_requests(2)
    assert load.failed == []
    check_access_lines(folder.glob("access.log*"), load.answered)
    assert not [
        word for word in ("reentrant", "Logging error", "Traceback") if word in shared.stderr.read_text("utf-8")
    ]
    assert count_records(folder.glob("demo.log*"), load.answered) == Counter(load.answered)


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB on the folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("The mount command is missing.")
    if mounted.returncode:
        pytest.skip(f"This user cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_loses_whole_lines_and_no_request(project: Path, tmp_path: Path) -> None:
    """Every request succeeds while the disk is full. No line is torn; lines are written again once there is space."""
    with tiny_disk(tmp_path / "log") as folder, serve(project, tmp_path, log_path=folder) as service:
        (folder / "filler").write_bytes(b"x" * 40_000)
        with Load(service.port, clients=3) as load:
            wait_for(lambda: shutil.disk_usage(folder).free == 0, "a full disk")
            load.wait_for_requests(50)
        assert load.failed == []
        (folder / "filler").unlink()
        check_serving(service, folder)
        assert parse_app((folder / "demo.log").read_text("utf-8"))[1] == []
        assert "are being lost" in service.stderr.read_text("utf-8")


def test_unwritable_file_is_reported_once(shared: Service, folder: Path) -> None:
    """With log files on a full device, requests succeed; once the files are replaced, lines are written again."""
    before = shared.stderr.read_text("utf-8").count("are being lost")
    for name in FILES:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/full")
    for _ in range(20):
        assert shared.request("GET", "/api/demo").status == 200
    for name in FILES:
        (folder / name).unlink()
    check_serving(shared, folder)
    reports = shared.stderr.read_text("utf-8").count("are being lost") - before
    assert 1 <= reports <= 3 * len(FILES), "one report per file and worker, not per line"


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_missing_log_folder_fails_no_request(shared: Service, folder: Path, replacement: str) -> None:
    """The folder is removed or replaced by a file; once it exists again, lines are written again."""
    shutil.rmtree(folder)
    if replacement == "file":
        folder.touch()
    for target, status in STATUSES * 5:
        assert shared.request("GET", target).status == status
    if replacement == "file":
        folder.unlink()
    folder.mkdir(exist_ok=True)
    check_serving(shared, folder)


def test_unwritable_output_streams_fail_no_request(project: Path, tmp_path: Path) -> None:
    """With standard output and error on a full device, every request gets its response."""

    def command(app: str, _port: int) -> list[str]:
        return ["sh", "-c", 'exec gunicorn -c gun.py "$0" >/dev/full 2>/dev/full', app]

    with Service(project, tmp_path, command=command) as service:
        for target, status in STATUSES * 5:
            response = service.request("GET", target)
            assert (response.status, response.json()["request_id"]) == (status, response.header())
        assert service.stop() == 0


def test_long_lines_are_not_torn(shared: Service, folder: Path) -> None:
    """Three workers write lines of 6 kB to the same files."""
    query = "q" * 6000
    mix = [("GET", f"/faults/long/{letter}?{query}") for letter in "abc"]
    with Load(shared.port, clients=6, mix=mix, rate=1000) as load:
        load.wait_for_requests(450)
    assert load.failed == []
    check_access_lines([folder / "access.log"], load.answered)
    records, strays = parse_app((folder / "faults.log").read_text("utf-8"))
    assert strays == []
    assert Counter(record.request_id for record in records) == Counter(load.answered)
    assert {record.message for record in records} == {letter * 6000 for letter in "abc"}
    targets = [line.target for line in shared.access() if line.target.startswith("/faults")]
    assert {target.partition("?")[2] for target in targets} == {query}
