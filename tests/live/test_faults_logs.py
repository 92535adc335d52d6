"""Log files that are moved, on a full disk or gone while the service runs: requests are answered, lines stay."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections import Counter
from signal import SIGUSR1
from typing import TYPE_CHECKING

import pytest

from tests.support.client import new_id
from tests.support.faults import check_lines, count_records, serve
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
    """Run the service with log files; each test leaves it with a folder in which it can write."""
    work = tmp_path_factory.mktemp("logs")
    with serve(project, work, log_path=work / "log", workers=3) as service:
        yield service
        assert service.stop() == 0


@pytest.fixture
def folder(shared: Service) -> Path:
    """Return the service's folder of log files, in which each worker has written."""
    assert shared.log_path is not None
    check_serving(shared, shared.log_path)
    return shared.log_path


def check_serving(service: Service, folder: Path) -> None:
    """Requests are served, and each has a line in each file."""
    ids = [new_id("room") for _ in range(20)]
    for request_id in ids:
        assert service.request("GET", "/api/demo", request_id=request_id).status == 200
    check_lines([folder / "access.log"], ids)
    assert count_records([folder / "demo.log"], ids) == Counter(ids)


def test_moved_files_are_opened_again(shared: Service, folder: Path) -> None:
    """`mv` and SIGUSR1 three times under load: no line is lost, and the old files stay as they were."""
    sizes: dict[Path, int] = {}
    with Load(shared.port) as load:
        for number in range(3):
            load.more(30)
            moved = [(folder / name).rename(folder / f"{name}.{number}") for name in FILES]
            shared.signal(SIGUSR1)
            wait_for(lambda: all((folder / name).exists() for name in FILES), "new files")
            load.more(30)
            sizes |= {path: path.stat().st_size for path in moved}
    assert load.failed == []
    check_lines(folder.glob("access.log*"), load.answered)
    assert {path: path.stat().st_size for path in sizes} == sizes
    assert count_records(folder.glob("demo.log*"), load.answered) == Counter(load.answered)
    assert load.answered[-1] in (folder / "access.log").read_text("utf-8")


def test_storm_of_signals_tears_no_line(shared: Service, folder: Path) -> None:
    """100 SIGUSR1 under load: none interrupts a write, no line is lost."""
    with Load(shared.port, rate=1000) as load:
        for _ in range(100):
            shared.signal(SIGUSR1)
            load.more(2)
    assert load.failed == []
    check_lines(folder.glob("access.log*"), load.answered)
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
        pytest.skip("There is no mount command to make a tiny disk with.")
    if mounted.returncode:
        pytest.skip(f"This user may not mount a tiny disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_loses_whole_lines_and_no_request(project: Path, tmp_path: Path) -> None:
    """A disk that fills up under load: every request is answered, and with room again every line is whole."""
    with tiny_disk(tmp_path / "log") as folder, serve(project, tmp_path, log_path=folder) as service:
        (folder / "filler").write_bytes(b"x" * 40_000)
        with Load(service.port, clients=3) as load:
            wait_for(lambda: shutil.disk_usage(folder).free == 0, "a full disk")
            load.more(50)
        assert load.failed == []
        (folder / "filler").unlink()
        check_serving(service, folder)
        assert parse_app((folder / "demo.log").read_text("utf-8"))[1] == []
        assert "are being lost" in service.stderr.read_text("utf-8")


def test_file_that_takes_nothing_is_complained_of_once(shared: Service, folder: Path) -> None:
    """Log files on a full device: requests are answered; once the files are replaced, lines come again."""
    before = shared.stderr.read_text("utf-8").count("are being lost")
    for name in FILES:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/full")
    for _ in range(20):
        assert shared.request("GET", "/api/demo").status == 200
    for name in FILES:
        (folder / name).unlink()
    check_serving(shared, folder)
    complaints = shared.stderr.read_text("utf-8").count("are being lost") - before
    assert 1 <= complaints <= 3 * len(FILES), "said once for each file and worker, not for each line"


@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_folder_that_is_gone_ends_no_request(shared: Service, folder: Path, instead: str) -> None:
    """The folder is removed, or a file takes its place: requests are answered, and lines come again with it."""
    shutil.rmtree(folder)
    if instead == "file":
        folder.touch()
    for target, status in STATUSES * 5:
        assert shared.request("GET", target).status == status
    if instead == "file":
        folder.unlink()
    folder.mkdir(exist_ok=True)
    check_serving(shared, folder)


def test_streams_that_take_nothing(project: Path, tmp_path: Path) -> None:
    """Standard output and error on a full device: requests are answered, also those that fail."""

    def command(app: str, _port: int) -> list[str]:
        return ["sh", "-c", 'exec gunicorn -c gun.py "$0" >/dev/full 2>/dev/full', app]

    with Service(project, tmp_path, command=command) as service:
        for target, status in STATUSES * 5:
            answer = service.request("GET", target)
            assert (answer.status, answer.json()["request_id"]) == (status, answer.one())
        assert service.stop() == 0


def test_long_lines_are_whole(shared: Service, folder: Path) -> None:
    """Lines of 6 kB from three workers into the same files are never torn."""
    query = "q" * 6000
    mix = [("GET", f"/faults/long/{letter}?{query}") for letter in "abc"]
    with Load(shared.port, clients=6, mix=mix, rate=1000) as load:
        load.more(450)
    assert load.failed == []
    check_lines([folder / "access.log"], load.answered)
    records, strays = parse_app((folder / "faults.log").read_text("utf-8"))
    assert strays == []
    assert Counter(record.request_id for record in records) == Counter(load.answered)
    assert {record.message for record in records} == {letter * 6000 for letter in "abc"}
    targets = [line.target for line in shared.access() if line.target.startswith("/faults")]
    assert {target.partition("?")[2] for target in targets} == {query}
