"""The option `systemd`: the unit and its sandboxing, installation and updates, log rotation under load."""

import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid

import pytest

from tests.support import baked
from tests.support.baking import TEMPLATE_DIR, UV, Result, environment, must, run
from tests.support.client import new_id
from tests.support.faults import check_access_lines, count_records, run_python, wait_for_new_workers
from tests.support.load import Load
from tests.support.programs import program
from tests.support.service import Service, open_files
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full
FOLDER = TEMPLATE_DIR / "deploy" / "systemd"
UNIT = FOLDER / "service.service"
PAGE = TEMPLATE_DIR / "docs" / "systemd.md"
NAME = "order-desk"
# Upper limit for systemd versions that the document does not name.
MAX_EXPOSURE = 1.5
SECONDS_PER_START = 20
FILES = ("access.log", "demo.log", "error.log")
ROTATIONS = 3
# Bytecode compilation takes most of the installation time, and only one test checks it.
WITHOUT_BYTECODE = {"uv": f'unset UV_COMPILE_BYTECODE; exec {UV} "$@"'}
HOST_PATH = re.compile(r"(?<![\w./}])/(?=(?:opt|etc|run|var/log|var/lib|lib/systemd|usr/lib|usr/local|usr/bin)[/:])")
# The script rejects a Python in these folders: ProtectHome= and PrivateTmp= hide them from the service.
HIDDEN = "/home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)"
# Directives that the document, the script or gunicorn rely on, and that no other test here would miss.
NAMED_AFTER_UNIT = ("SyslogIdentifier", "User", "Group", "LogsDirectory", "RuntimeDirectory", "StateDirectory")
REQUIRED = {
    **{name: ["%N"] for name in NAMED_AFTER_UNIT},
    **{name: ["0750"] for name in ("LogsDirectoryMode", "StateDirectoryMode")},
    "KillSignal": [],
    "ReadWritePaths": [],
    "Type": ["notify"],
    "KillMode": ["mixed"],
    "Restart": ["on-failure"],
    "OOMPolicy": ["continue"],
    "EnvironmentFile": ["-/etc/%N.env"],
    "UMask": ["0027"],
    "LimitNOFILE": ["65536"],
    "SystemCallErrorNumber": ["EPERM"],
    "WantedBy": ["multi-user.target"],
}


def move_paths(host: Path, text: str) -> str:
    """Replace paths of the host in a text by paths below a folder of the test."""
    moved, count = HOST_PATH.subn(f"{host}/", text)
    assert count
    return moved


def directives(name: str) -> list[str]:
    """Return the values of a directive of the unit, one for each of its lines."""
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text("utf-8"))


def directive(name: str) -> str:
    """Return the only value of a directive, with %N replaced by `NAME`."""
    (value,) = directives(name)
    return str(value).replace("%N", NAME)


def write_fakes(folder: Path, **programs: str) -> Path:
    """Write fake programs, each a line of shell, for commands that would change this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def install(
    source: Path, host: Path, *name: str, hides: str = "", pid: int = 0, programs: Mapping[str, str] = WITHOUT_BYTECODE
) -> Result:
    """Run install.sh as root would. Fake programs write the calls of useradd and systemctl to the file `calls`.

    The Python of this test serves as the host's; `hides` is a folder to which the service has no access.
    """
    script = source / "deploy" / "systemd" / "install.sh"
    text = (FOLDER / "install.sh").read_text("utf-8")
    assert text.count(HIDDEN) == 1
    text = move_paths(host, text.replace(HIDDEN, f"{hides or '/nothing'}/*)"))
    script.write_text(text)
    python = host / "usr/local/bin/python3"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(Path(sys.executable).resolve())
    shutil.rmtree(host / "bin", ignore_errors=True)
    record = f'echo "$(basename "$0") $*" >>"{host}/calls"'
    fakes = {
        "id": '[ "$*" = -u ] && echo 0',
        "getent": "exit 2",
        "useradd": record,
        "systemctl": f'case "$1" in cat) exit 1 ;; show) echo {pid} ;; *) {record} ;; esac',
    }
    commands = write_fakes(host / "bin", **fakes | dict(programs))
    variables = environment()
    return run(["sh", script, *name], host, variables | {"PATH": f"{commands}{os.pathsep}{variables['PATH']}"})


def releases(host: Path) -> set[str]:
    """Return the names of the installed releases."""
    return {path.name for path in (host / "opt" / NAME / "releases").iterdir()}


def release_of(host: Path, link: str = "current") -> Path:
    """Return the release that a link points to."""
    return (host / "opt" / NAME / link).readlink()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the service is installed as on a host, and then updated once.

    Only the owner can read the checkout.
    """
    host = tmp_path_factory.mktemp("host")
    for folder in ("opt", "etc/systemd/system", "etc/logrotate.d", "run", "var/log"):
        (host / folder).mkdir(parents=True)
    source = baked.bake(host / "source")
    must(run(["chmod", "-R", "go=", source], host))
    must(install(source, host, NAME))
    (host / f"etc/{NAME}.env").write_text("WORKERS=2\n")
    (release_of(host) / "app/gone.py").touch()
    (host / "calls").unlink()
    must(install(source, host, NAME, programs={}))
    return host


@pytest.fixture(scope="module")
def service(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The installed service, started with the command, folder and environment of the unit."""
    command = move_paths(host, directive("ExecStart")).split()
    variables = dict(word.split("=", 1) for word in move_paths(host, directive("Environment")).split())
    Path(variables["PID_FILE"]).parent.mkdir(exist_ok=True)
    folder, log = Path(move_paths(host, directive("WorkingDirectory") + "/")), Path(variables["LOG_PATH"])
    work = tmp_path_factory.mktemp("service")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(work / "notify"))
        systemd.settimeout(30)
        variables["NOTIFY_SOCKET"] = systemd.getsockname()
        with Service(folder, work, log_path=log, env=variables, command=lambda _app, _port: command) as running:
            assert b"READY=1" in systemd.recv(4096).split(b"\n"), "the unit has Type=notify"
            yield running


def logrotate(host: Path) -> Result:
    """Force a rotation with the installed configuration, as the user of this test."""
    text = move_paths(host, (host / "etc/logrotate.d" / NAME).read_text("utf-8"))
    me = f"su {getpwuid(os.getuid()).pw_name} {getgrgid(os.getgid()).gr_name}"
    assert text.count(f"su {NAME} {NAME}") == 1
    rules = host / "rules"
    rules.write_text(text.replace(f"su {NAME} {NAME}", me))
    rules.chmod(0o644)
    return run([program("logrotate", "logrotate"), "--force", "--state", host / "state", rules], host)


# The unit


def test_unit_has_each_required_directive_once() -> None:
    assert {name: directives(name) for name in REQUIRED} == REQUIRED


def analyze(*words: str | Path) -> Result:
    return run([program("systemd-analyze", "systemd"), *words], UNIT.parent)


def test_systemd_accepts_the_unit_without_a_warning(tmp_path: Path) -> None:
    unit = tmp_path / f"{NAME}.service"
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/", f"{tmp_path}/opt/"))
    write_fakes(tmp_path / f"opt/{NAME}/current/.venv/bin", gunicorn="")
    result = analyze("verify", unit)
    assert [line for line in f"{result.stdout}{result.stderr}".splitlines() if NAME in line] == []
    assert result.returncode == 0


def test_exposure_is_as_documented() -> None:
    version = must(analyze("--version")).stdout.split()[1]
    documented = re.search(r"of systemd (\d+) and (\d+) gives the unit \*\*([\d.]+) (\w+)\*\*", PAGE.read_text("utf-8"))
    output = analyze("security", "--offline=true", "--no-pager", UNIT).stdout
    level = re.search(r"Overall exposure level for .*: ([\d.]+) (\w+)", output)
    assert documented
    assert level
    assert float(level[1]) <= MAX_EXPOSURE
    if version in documented.groups()[:2]:
        assert level.groups() == documented.groups()[2:]


def test_unit_sets_only_known_settings_and_allows_a_graceful_shutdown(host: Path) -> None:
    code = "import json; from app.settings import Settings; print(Settings(host='a').model_dump_json())"
    settings = json.loads(must(run_python(release_of(host), code)).stdout)
    variables = [word.partition("=")[0] for line in directives("Environment") for word in line.split()]
    assert variables == ["LOG_PATH", "PID_FILE"]
    assert {name.lower() for name in variables} <= set(settings)
    assert int(directive("TimeoutStopSec")) > settings["graceful_timeout"]
    assert int(directive("TimeoutStopSec")) > int(
        *re.findall(r"GRACEFUL_TIMEOUT, which is (\d+)", UNIT.read_text("utf-8"))
    )


def test_slow_failing_starts_reach_the_start_limit() -> None:
    seconds = int(directive("RestartSec")) + SECONDS_PER_START
    assert seconds * int(directive("StartLimitBurst")) < int(directive("StartLimitIntervalSec"))


# The installation


def test_update_replaces_the_code_and_keeps_the_settings(host: Path) -> None:
    table = PAGE.read_text("utf-8").partition("| path |")[2].partition("\n\n")[0]
    paths = [path.replace("NAME", NAME) for path in re.findall(r"(?m)^\| `(/(?:opt|etc)/.*?)`", table)]
    assert len(paths) == 5
    assert [path for path in paths if not (host / path[1:]).exists()] == []
    assert (host / f"etc/systemd/system/{NAME}.service").read_bytes() == UNIT.read_bytes()
    assert (host / f"etc/{NAME}.env").read_text("utf-8") == "WORKERS=2\n"
    assert (host / f"etc/{NAME}.env").stat().st_mode & 0o777 == 0o600
    assert "service" not in (host / "etc/logrotate.d" / NAME).read_text("utf-8")
    assert releases(host) == {release_of(host).name, release_of(host, "previous").name}
    assert [path.name for path in (release_of(host) / "app").glob("gone*")] == []
    assert (release_of(host, "previous") / "app/gone.py").exists()
    calls = (host / "calls").read_text("utf-8").splitlines()
    assert re.fullmatch(rf"useradd --system .* {NAME}", calls[0])
    assert calls[1] == "systemctl daemon-reload"
    assert calls[2:] == [f"systemctl enable --quiet {NAME}", f"systemctl reset-failed {NAME}"]


def test_service_can_read_all_installed_files(host: Path) -> None:
    needed = {path: 0o555 if path.is_dir() else 0o444 for path in release_of(host).rglob("*")}
    assert len(needed) > 100
    assert [path for path, mode in needed.items() if path.stat().st_mode & mode != mode] == []
    assert (release_of(host) / ".venv/bin/gunicorn").stat().st_mode & 0o777 == 0o755


def test_failed_update_changes_nothing(host: Path) -> None:
    """Either the packages cannot be installed, or the service would have no access to its Python."""
    before = releases(host), release_of(host), release_of(host, "previous")
    python = Path(sys.executable).resolve()
    hidden = install(host / "source", host, NAME, hides=str(python.parent))
    assert hidden.returncode == 1
    assert hidden.stderr.startswith(f"The service would have no access to its Python, {python}: ")
    assert install(host / "source", host, NAME, programs={"uv": "exit 1"}).returncode == 1
    assert (releases(host), release_of(host), release_of(host, "previous")) == before


def test_update_keeps_the_running_release_and_can_be_rolled_back(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest = release_of(host)
    monkeypatch.chdir(oldest)
    for _ in range(2):
        must(install(host / "source", host, NAME, pid=os.getpid()))
    monkeypatch.undo()
    assert releases(host) == {oldest.name, release_of(host).name, release_of(host, "previous").name}
    assert len(releases(host)) == 3
    (rollback,) = re.findall(r"(?m)^sudo (mv .*)$", PAGE.read_text("utf-8"))
    previous = release_of(host, "previous")
    must(run(["sh", "-c", move_paths(host, f"NAME={NAME}\n{rollback}")], host))
    assert release_of(host) == previous
    must(install(host / "source", host, NAME))
    assert release_of(host, "previous") == previous
    assert len(releases(host)) == 2


@pytest.mark.parametrize("name", ["../x", "Mail", "1st", "-x", "a_b", "a/b", "a.b", "a b", "ä", "a" * 32])
def test_invalid_name_is_rejected(host: Path, name: str) -> None:
    before = sorted((host / "opt").iterdir())
    result = install(host / "source", host, name)
    assert result.returncode == 1
    assert result.stderr.startswith("The name ")
    assert sorted((host / "opt").iterdir()) == before


@pytest.mark.parametrize(
    ("path", "programs"),
    [
        *((f"{folder}/mail", {}) for folder in ("opt", "etc/logrotate.d", "var/log", "var/lib")),
        *((f"{folder}/systemd/system/mail.service", {}) for folder in ("etc", "lib", "usr/lib")),
        ("", {"systemctl": '[ "$1" = cat ]'}),
        ("", {"getent": '[ "$*" = "passwd mail" ]'}),
        ("", {"getent": '[ "$*" = "group mail" ]'}),
    ],
)
def test_name_that_is_taken_is_rejected(tmp_path: Path, path: str, programs: dict[str, str]) -> None:
    """Nothing is changed. Without an argument, the name is the project's."""
    source = tmp_path / "source"
    (source / "deploy/systemd").mkdir(parents=True)
    (source / "pyproject.toml").write_text('[project]\nname = "mail"\n')
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    result = install(source, tmp_path, programs=programs)
    assert result.returncode == 1
    assert result.stderr.startswith("The name mail is taken: ")
    assert f"{path or 'of that name'}.\n" in result.stderr
    assert not (tmp_path / "opt/mail/.installed").exists()
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({"id": "echo 1000"}, "Only root can install"),
        ({"id": "echo 0"}, "There is no uv on root's PATH"),
        ({"id": "echo 0", "uv": ""}, "There is no systemctl"),
    ],
)
def test_missing_requirement_is_reported_before_anything_is_changed(
    tmp_path: Path, programs: dict[str, str], words: str
) -> None:
    commands = write_fakes(tmp_path / "bin", **programs, dirname='echo "${1%/*}"', sed="echo order-desk", head="cat")
    (commands / "cat").symlink_to("/bin/cat")
    result = run(["/bin/sh", FOLDER / "install.sh"], tmp_path, {"PATH": str(commands)})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


# Signals


def test_reload_replaces_the_workers_without_failed_requests(service: Service, host: Path) -> None:
    old, release = service.workers(), release_of(host)
    empty = host / "empty"
    empty.mkdir()
    current = host / "opt" / NAME / "current"
    current.unlink()
    current.symlink_to(empty)
    try:
        with Load(service.port) as load:
            must(run(shlex.split(directive("ExecReload")), host, environment(MAINPID=str(service.process.pid))))
            new = wait_for_new_workers(service, old, 2)
            load.wait_for_requests(200)
    finally:
        current.unlink()
        current.symlink_to(release)
    assert load.failed == []
    assert {Path(f"/proc/{pid}/cwd").readlink() for pid in new} == {release}


# The document


def test_documented_commands_use_the_name_variable() -> None:
    blocks = re.findall(r"(?s)```console\n(.*?)```", PAGE.read_text("utf-8"))
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands[0] == "NAME=service"
    assert len(commands) > 10
    assert [line for line in commands[1:] if "$NAME" not in line or line.startswith("$ ")] == []
    assert [line for line in commands[1:] if re.search(r"\bservice\b", line)] == []


# Log files


def open_log_files(service: Service, folder: Path) -> set[str]:
    """Return the names of the files of a folder that the master or a worker has open."""
    pids = [service.process.pid, *service.workers()]
    targets = [Path(path) for pid in pids for path in open_files(pid)]
    return {target.name for target in targets if target.parent == folder}


def rotate(service: Service, host: Path, folder: Path) -> dict[Path, int]:
    """Rotate, wait until no process has an old file open, and return the old files with their sizes."""
    before, began = set(folder.iterdir()), int(time.time())
    must(logrotate(host))
    wait_for(lambda: open_log_files(service, folder) == set(FILES), "all processes to close the old files")
    wait_for(lambda: int(time.time()) > began, "the next second, so that the next rotation uses another name")
    moved = [path for path in folder.iterdir() if path not in before and path.suffix != ".gz"]
    assert len(moved) == len(FILES)
    return {path: path.stat().st_size for path in moved}


def test_rotation_under_load_loses_and_duplicates_no_line(service: Service, host: Path) -> None:
    folder = host / "var/log" / NAME
    failed: list[str] = []
    with Load(service.port, clients=5) as load:
        for _ in range(ROTATIONS):
            failed += [new_id("fail") for _ in range(5)]
            for request_id in failed[-5:]:
                assert service.request("GET", "/api/demo/fail", request_id=request_id).status == 500
            load.wait_for_requests(100)
            sizes = rotate(service, host, folder)
            load.wait_for_requests(10)
            assert {path: path.stat().st_size for path in sizes} == sizes
    assert load.failed == []
    assert {name: len(list(folder.glob(f"{name}-*.gz"))) for name in FILES} == dict.fromkeys(FILES, ROTATIONS - 1)
    must(run(["gzip", "--decompress", *folder.glob("*.gz")], folder))
    everything = load.answered + failed
    check_access_lines(folder.glob("access.log*"), everything)
    assert count_records(folder.glob("demo.log*"), load.answered) == Counter(load.answered)
    assert count_records(folder.glob("error.log*"), everything) == Counter(failed)


def test_rotation_is_silent_while_the_service_is_stopped(host: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    for folder in ("etc/logrotate.d", f"var/log/{NAME}"):
        (stopped / folder).mkdir(parents=True)
    (stopped / "etc/logrotate.d" / NAME).write_bytes((host / "etc/logrotate.d" / NAME).read_bytes())
    assert must(logrotate(stopped)).stderr == ""
    (stopped / f"var/log/{NAME}/access.log").write_text("a line\n")
    assert must(logrotate(stopped)).stderr == ""
    assert [path.name.split("-")[0] for path in (stopped / "var/log" / NAME).iterdir()] == ["access.log"]
