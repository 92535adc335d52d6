"""Log files that are moved, on a full disk or gone while the service runs: requests are answered, lines stay."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections import Counter
from signal import SIGUSR1
from typing import TYPE_CHECKING

import pytest

from tests.support.client import new_id
from tests.support.faults import check_lines, serve
from tests.support.lines import parse_app
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = ("access.log", "error.log", "demo.log")


def test_moved_files(project: Path, tmp_path: Path) -> None:
    """Three times `mv` and SIGUSR1 under load: no line is lost, and the old files stay as they were."""
    folder = tmp_path / "log"
    with serve(project, tmp_path, log_path=folder) as service:
        sizes: dict[Path, int] = {}
        with Load(service.port) as load:
            for number in range(3):
                load.more(60)
                moved = [(folder / name).rename(folder / f"{name}.{number}") for name in FILES]
                service.signal(SIGUSR1)
                wait_for(lambda: all((folder / name).exists() for name in FILES), "new files")
                load.more(30)
                sizes |= {path: path.stat().st_size for path in moved}
        assert load.failed == []
        check_lines(folder.glob("access.log*"), load.answered)
        assert {path: path.stat().st_size for path in sizes} == sizes
        texts = [path.read_text("utf-8") for path in folder.glob("demo.log*")]
        logged = Counter(record.request_id for text in texts for record in parse_app(text)[0])
        assert logged == Counter(load.answered)
        assert load.answered[-1] in (folder / "access.log").read_text("utf-8")


def test_storm_of_signals(project: Path, tmp_path: Path) -> None:
    """150 SIGUSR1 under load: none hits a write in its midst, no line is lost."""
    folder = tmp_path / "log"
    with serve(project, tmp_path, log_path=folder) as service:
        with Load(service.port) as load:
            for _ in range(150):
                service.signal(SIGUSR1)
                time.sleep(0.008)
        assert load.failed == []
        check_lines([folder / "access.log"], load.answered)
        assert not [word for word in ("reentrant", "Logging error", "Traceback") if word in service.output()]
        records = parse_app((folder / "demo.log").read_text("utf-8"))
        assert Counter(record.request_id for record in records[0]) == Counter(load.answered)


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


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_full_disk(project: Path, tmp_path: Path, log_format: str) -> None:
    """A log disk that fills up under load: every request is answered, and with room again every line is whole."""
    with (
        tiny_disk(tmp_path / "log") as folder,
        serve(project, tmp_path, log_path=folder, LOG_FORMAT=log_format) as service,
    ):
        (folder / "filler").write_bytes(b"x" * 40_000)
        with Load(service.port, clients=3) as load:
            load.more(200)
        assert load.failed == []
        assert shutil.disk_usage(folder).free == 0
        (folder / "filler").unlink()
        later = [new_id("room") for _ in range(20)]
        for request_id in later:
            assert service.request("GET", "/api/demo", request_id=request_id).status == 200
        check_lines([folder / "access.log"], later)
        assert parse_app((folder / "demo.log").read_text("utf-8"))[1] == []
        assert "are being lost" in service.stderr.read_text("utf-8")


def test_file_that_takes_nothing(project: Path, tmp_path: Path) -> None:
    """Log files on a full device: requests are answered; once the files are replaced, lines come again."""
    folder = tmp_path / "log"
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to("/dev/full")
    with serve(project, tmp_path, log_path=folder) as service:
        for _ in range(20):
            assert service.request("GET", "/api/demo").status == 200
        for name in FILES:
            (folder / name).unlink()
        later = [new_id("room") for _ in range(10)]
        for request_id in later:
            assert service.request("GET", "/api/demo", request_id=request_id).status == 200
        check_lines([folder / "access.log"], later)
        complaints = service.stderr.read_text("utf-8").count("are being lost")
        assert 1 <= complaints <= 2 * len(FILES), "said once for each file and worker, not for each line"


@pytest.mark.parametrize("instead", ["nothing", "file"])
def test_folder_gone(project: Path, tmp_path: Path, instead: str) -> None:
    """The log folder is removed at run time, or a file takes its place: requests are answered, lines come again."""
    folder = tmp_path / "log"
    with serve(project, tmp_path, log_path=folder) as service:
        assert service.request("GET", "/api/demo").status == 200
        shutil.rmtree(folder)
        if instead == "file":
            folder.touch()
        for target, status in (("/api/demo", 200), ("/api/demo/fail", 500), ("/nothing", 404)) * 5:
            assert service.request("GET", target).status == status
        folder.unlink() if instead == "file" else None
        folder.mkdir(exist_ok=True)
        later = [new_id("again") for _ in range(20)]
        for request_id in later:
            assert service.request("GET", "/api/demo", request_id=request_id).status == 200
        check_lines([folder / "access.log"], later)
        assert set(later) <= {record.request_id for record in parse_app((folder / "demo.log").read_text("utf-8"))[0]}
        assert service.stop() == 0


def test_streams_that_take_nothing(project: Path, tmp_path: Path) -> None:
    """Standard output and error on a full device: requests are answered, also those that fail."""

    def command(app: str, _port: int) -> list[str]:
        return ["sh", "-c", 'exec gunicorn -c gun.py "$0" >/dev/full 2>/dev/full', app]

    with Service(project, tmp_path, command=command) as service:
        for target, status in (("/api/demo", 200), ("/api/demo/fail", 500), ("/nothing", 404)) * 5:
            answer = service.request("GET", target)
            assert (answer.status, answer.json()["request_id"]) == (status, answer.one())
        assert service.stop() == 0


def test_long_lines_are_whole(project: Path, tmp_path: Path) -> None:
    """Lines of 6 kB from three workers into the same files are never torn."""
    folder = tmp_path / "log"
    query = "q" * 6000
    with serve(project, tmp_path, log_path=folder, workers=3) as service:
        with contextlib.ExitStack() as stack:
            loads = [
                stack.enter_context(
                    Load(service.port, clients=2, mix=[("GET", f"/faults/long/{letter}?{query}")], rate=1000)
                )
                for letter in "abc"
            ]
            loads[0].more(150)
        answered = [request_id for load in loads for request_id in load.answered]
        assert not [failure for load in loads for failure in load.failed]
        check_lines([folder / "access.log"], answered)
        records, strays = parse_app((folder / "faults.log").read_text("utf-8"))
        assert strays == []
        assert Counter(record.request_id for record in records) == Counter(answered)
        assert {record.message for record in records} == {letter * 6000 for letter in "abc"}
        assert {line.target.partition("?")[2] for line in service.access() if line.target.startswith("/faults")} == {
            query
        }
