"""The option `systemd`: the unit, what it allows, its installation, and rotation of the log files under load."""

import gzip
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
from tests.support.faults import new_workers, run_python
from tests.support.lines import parse_access, parse_app
from tests.support.load import Load
from tests.support.programs import program
from tests.support.service import Service, open_files
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full
FOLDER = TEMPLATE_DIR / "deploy" / "systemd"
UNIT = FOLDER / "service.service"
PAGE = TEMPLATE_DIR / "docs" / "systemd.md"
NAME = "order-desk"
# What systemd before or after the versions of the document may count at most.
MOST_EXPOSURE = 1.5
SECONDS_OF_A_START = 20
FILES = ("access.log", "demo.log", "error.log")
ROTATIONS = 3
# What takes longest of an installation, and what only one test looks at.
WITHOUT_BYTECODE = {"uv": f'unset UV_COMPILE_BYTECODE; exec {UV} "$@"'}
ON_THE_HOST = re.compile(r"(?<![\w./}])/(?=(?:opt|etc|run|var/log|var/lib|lib/systemd|usr/lib|usr/local|usr/bin)[/:])")
# Where the script lets no Python lie: ProtectHome= and PrivateTmp= hide these folders.
HIDDEN = "/home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)"
# What the document, the script or gunicorn need from the unit, directive by directive.
PROMISES = {
    "Type": ["notify"],
    "ExecStart": ["/opt/%N/current/.venv/bin/gunicorn -c gun.py"],
    "WorkingDirectory": ["/opt/%N/current"],
    "KillMode": ["mixed"],
    "KillSignal": [],
    "Restart": ["on-failure"],
    "OOMPolicy": ["continue"],
    "SyslogIdentifier": ["%N"],
    "Environment": ["LOG_PATH=/var/log/%N PID_FILE=/run/%N/master.pid"],
    "EnvironmentFile": ["-/etc/%N.env"],
    "User": ["%N"],
    "Group": ["%N"],
    "UMask": ["0027"],
    "LogsDirectory": ["%N"],
    "LogsDirectoryMode": ["0750"],
    "RuntimeDirectory": ["%N"],
    "StateDirectory": ["%N"],
    "StateDirectoryMode": ["0750"],
    "ReadWritePaths": [],
    "LimitNOFILE": ["65536"],
    "CapabilityBoundingSet": [""],
    "NoNewPrivileges": ["yes"],
    "ProtectSystem": ["strict"],
    "ProtectHome": ["yes"],
    "PrivateTmp": ["yes"],
    "RestrictAddressFamilies": ["AF_INET AF_INET6 AF_UNIX"],
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
    "SystemCallErrorNumber": ["EPERM"],
    "WantedBy": ["multi-user.target"],
}


def below(host: Path, text: str) -> str:
    """Move what a file says of the host's folders into a folder of the test."""
    moved, count = ON_THE_HOST.subn(f"{host}/", text)
    assert count
    return moved


def directives(name: str) -> list[str]:
    """Give what the unit sets a directive to; once for each line."""
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text("utf-8"))


def one(name: str) -> str:
    """Give the one value of a directive, for a unit whose file has the name of these tests."""
    (value,) = directives(name)
    return str(value).replace("%N", NAME)


def fake(folder: Path, **programs: str) -> Path:
    """Make programs of one line each, for what no test may do to the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def install(
    source: Path, host: Path, *name: str, hides: str = "", pid: int = 0, programs: Mapping[str, str] = WITHOUT_BYTECODE
) -> Result:
    """Run the script as root would; users and systemd are only told to a file.

    Python is this test's, as if it were the host's; the service sees all of it but the folder `hides`.
    """
    script = source / "deploy" / "systemd" / "install.sh"
    text = (FOLDER / "install.sh").read_text("utf-8")
    assert text.count(HIDDEN) == 1
    text = below(host, text.replace(HIDDEN, f"{hides or '/nothing'}/*)"))
    script.write_text(text)
    python = host / "usr/local/bin/python3"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(Path(sys.executable).resolve())
    shutil.rmtree(host / "bin", ignore_errors=True)
    told = f'echo "$(basename "$0") $*" >>"{host}/told"'
    known = {
        "id": '[ "$*" = -u ] && echo 0',
        "getent": "exit 2",
        "useradd": told,
        "systemctl": f'case "$1" in cat) exit 1 ;; show) echo {pid} ;; *) {told} ;; esac',
    }
    commands = fake(host / "bin", **known | dict(programs))
    variables = environment()
    return run(["sh", script, *name], host, variables | {"PATH": f"{commands}{os.pathsep}{variables['PATH']}"})


def releases(host: Path) -> set[str]:
    """Give the names of the releases that are there."""
    return {path.name for path in (host / "opt" / NAME / "releases").iterdir()}


def used(host: Path, link: str = "current") -> Path:
    """Give the release that a link leads to."""
    return (host / "opt" / NAME / link).readlink()


def empty_host(host: Path) -> Path:
    """Make the folders that every host has, and give a checkout that a careful user keeps to himself."""
    for folder in ("opt", "etc/systemd/system", "etc/logrotate.d", "run", "var/log"):
        (host / folder).mkdir(parents=True)
    source = baked.bake(host / "source")
    must(run(["chmod", "-R", "go=", source], host))
    return source


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the service is installed as on a host, twice: the second time is an update."""
    host = tmp_path_factory.mktemp("host")
    source = empty_host(host)
    must(install(source, host, NAME))
    (host / f"etc/{NAME}.env").write_text("WORKERS=2\n")
    (used(host) / "app/gone.py").touch()
    (host / "told").unlink()
    must(install(source, host, NAME, programs={}))
    return host


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """The socket on which a service tells systemd that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path_factory.mktemp("systemd") / "notify"))
        listener.settimeout(30)
        yield listener


@pytest.fixture(scope="module")
def service(host: Path, systemd: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The installed service, started with the unit's command, in its folder, with its environment."""
    command = below(host, one("ExecStart")).split()
    variables = dict(word.split("=", 1) for word in below(host, one("Environment")).split())
    Path(variables["PID_FILE"]).parent.mkdir(exist_ok=True)
    folder, log = Path(below(host, one("WorkingDirectory") + "/")), Path(variables["LOG_PATH"])
    variables["NOTIFY_SOCKET"] = systemd.getsockname()
    work = tmp_path_factory.mktemp("service")
    with Service(folder, work, log_path=log, env=variables, command=lambda _app, _port: command) as running:
        yield running


def logrotate(host: Path) -> Result:
    """Rotate at once, by what the script has installed, as the user of this test."""
    text = below(host, (host / "etc/logrotate.d" / NAME).read_text("utf-8"))
    me = f"su {getpwuid(os.getuid()).pw_name} {getgrgid(os.getgid()).gr_name}"
    assert text.count(f"su {NAME} {NAME}") == 1
    rules = host / "rules"
    rules.write_text(text.replace(f"su {NAME} {NAME}", me))
    rules.chmod(0o644)
    return run([program("logrotate", "logrotate"), "--force", "--state", host / "state", rules], host)


# The unit


def test_unit_has_each_promised_directive_once() -> None:
    assert {name: directives(name) for name in PROMISES} == PROMISES


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """Under the name of its file, without a warning."""
    unit = tmp_path / f"{NAME}.service"
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/", f"{tmp_path}/opt/"))
    fake(tmp_path / f"opt/{NAME}/current/.venv/bin", gunicorn="")
    result = run([program("systemd-analyze", "systemd"), "verify", unit], tmp_path)
    assert [line for line in f"{result.stdout}{result.stderr}".splitlines() if NAME in line] == []
    assert result.returncode == 0


def exposure(unit: Path) -> tuple[float, str]:
    """Give the number and the word of `systemd-analyze security`."""
    result = run([program("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", unit], unit.parent)
    found = re.search(r"Overall exposure level for .*: ([\d.]+) (\w+)", result.stdout)
    assert found
    return float(found[1]), found[2]


def test_exposure_is_what_the_document_says(tmp_path: Path) -> None:
    """In the versions that it names; in any other it is a good one."""
    version = must(run([program("systemd-analyze", "systemd"), "--version"], tmp_path)).stdout.split()[1]
    said = re.search(r"of systemd (\d+) and (\d+) gives the unit \*\*([\d.]+) (\w+)\*\*", PAGE.read_text("utf-8"))
    assert said
    level = exposure(UNIT)
    assert level[0] <= MOST_EXPOSURE
    if version in said.groups()[:2]:
        assert level == (float(said[3]), said[4])
    open_unit = tmp_path / UNIT.name
    open_unit.write_text(re.sub(r"(?m)^(SystemCallFilter|CapabilityBoundingSet)=.*\n", "", UNIT.read_text("utf-8")))
    assert exposure(open_unit)[0] > MOST_EXPOSURE, "the check can fail"


def test_unit_sets_what_the_service_reads_and_lets_requests_end(host: Path) -> None:
    code = "import json; from app.settings import Settings; print(Settings(host='a').model_dump_json())"
    settings = json.loads(must(run_python(used(host), code)).stdout)
    variables = [word.partition("=")[0] for line in directives("Environment") for word in line.split()]
    assert variables == ["LOG_PATH", "PID_FILE"]
    assert {name.lower() for name in variables} <= set(settings)
    assert int(one("TimeoutStopSec")) > settings["graceful_timeout"]
    assert int(one("TimeoutStopSec")) > int(*re.findall(r"GRACEFUL_TIMEOUT, which is (\d+)", UNIT.read_text("utf-8")))


def test_failing_start_is_not_repeated_for_ever() -> None:
    """Even when each start takes a few seconds."""
    assert one("Restart") == "on-failure"
    each = int(one("RestartSec")) + SECONDS_OF_A_START
    assert each * int(one("StartLimitBurst")) < int(one("StartLimitIntervalSec"))


# The installation


def test_update_renews_the_code_and_leaves_the_settings(host: Path) -> None:
    """What the document's table names is there."""
    table = PAGE.read_text("utf-8").partition("| path |")[2].partition("\n\n")[0]
    paths = [path.replace("NAME", NAME) for path in re.findall(r"(?m)^\| `(/(?:opt|etc)/.*?)`", table)]
    assert len(paths) == 5
    assert [path for path in paths if not (host / path[1:]).exists()] == []
    assert (host / f"etc/systemd/system/{NAME}.service").read_bytes() == UNIT.read_bytes()
    assert (host / f"etc/{NAME}.env").read_text("utf-8") == "WORKERS=2\n"
    assert (host / f"etc/{NAME}.env").stat().st_mode & 0o777 == 0o600
    assert "service" not in (host / "etc/logrotate.d" / NAME).read_text("utf-8")
    assert releases(host) == {used(host).name, used(host, "previous").name}
    assert [path.name for path in (used(host) / "app").glob("gone*")] == []
    assert (used(host, "previous") / "app/gone.py").exists()
    told = (host / "told").read_text("utf-8").splitlines()
    assert re.fullmatch(rf"useradd --system .* {NAME}", told[0])
    assert told[1:] == [
        *(f"systemctl {words}" for words in ("daemon-reload", f"enable --quiet {NAME}", f"reset-failed {NAME}"))
    ]


def test_service_can_read_what_root_has_installed(host: Path) -> None:
    """From a checkout that only its owner reads."""
    needed = {path: 0o555 if path.is_dir() else 0o444 for path in used(host).rglob("*")}
    assert len(needed) > 100
    assert [path for path, mode in needed.items() if path.stat().st_mode & mode != mode] == []
    assert (used(host) / ".venv/bin/gunicorn").stat().st_mode & 0o777 == 0o755


def test_failed_update_leaves_everything_as_it_was(host: Path) -> None:
    """Packages cannot be had, or the service could not see its Python."""
    before = releases(host), used(host), used(host, "previous")
    seen = Path(sys.executable).resolve()
    hidden = install(host / "source", host, NAME, hides=str(seen.parent))
    assert hidden.returncode == 1
    assert hidden.stderr.startswith(f"The service could not see its Python, {seen}: ")
    assert install(host / "source", host, NAME, programs={"uv": "exit 1"}).returncode == 1
    assert (releases(host), used(host), used(host, "previous")) == before


def test_update_keeps_the_release_that_runs(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes other old ones; then the way back."""
    oldest = used(host)
    monkeypatch.chdir(oldest)
    for _ in range(2):
        must(install(host / "source", host, NAME, pid=os.getpid()))
    monkeypatch.undo()
    assert releases(host) == {oldest.name, used(host).name, used(host, "previous").name}
    assert len(releases(host)) == 3
    (way_back,) = re.findall(r"(?m)^sudo (mv .*)$", PAGE.read_text("utf-8"))
    previous = used(host, "previous")
    must(run(["sh", "-c", below(host, f"NAME={NAME}\n{way_back}")], host))
    assert used(host) == previous
    must(install(host / "source", host, NAME))
    assert used(host, "previous") == previous
    assert len(releases(host)) == 2


@pytest.mark.parametrize("name", ["../x", "Mail", "1st", "-x", "a_b", "a/b", "a.b", "a b", "ä", "a" * 32])
def test_name_that_is_none_is_refused(host: Path, name: str) -> None:
    before = sorted((host / "opt").iterdir())
    result = install(host / "source", host, name)
    assert result.returncode == 1
    assert result.stderr.startswith("The name ")
    assert sorted((host / "opt").iterdir()) == before


PLACES = (
    *(f"{folder}/mail" for folder in ("opt", "etc/logrotate.d", "var/log", "var/lib")),
    *(f"{folder}/systemd/system/mail.service" for folder in ("etc", "lib", "usr/lib")),
)


@pytest.mark.parametrize(
    ("path", "programs"),
    [
        *((path, {}) for path in PLACES),
        (None, {"systemctl": '[ "$1" = cat ]'}),
        (None, {"getent": '[ "$*" = "passwd mail" ]'}),
        (None, {"getent": '[ "$*" = "group mail" ]'}),
    ],
)
def test_name_of_another_is_refused(tmp_path: Path, path: str | None, programs: dict[str, str]) -> None:
    """Nothing has changed."""
    source = tmp_path / "source"
    (source / "deploy/systemd").mkdir(parents=True)
    if path:
        (tmp_path / path).mkdir(parents=True)
    result = install(source, tmp_path, "mail", programs=programs)
    assert result.returncode == 1
    assert result.stderr.startswith("The name mail is taken: ")
    assert f"{path or 'of that name'}.\n" in result.stderr
    assert not (tmp_path / "opt/mail/.installed").exists()
    assert not (tmp_path / "told").exists()


def test_name_is_that_of_the_project_by_default(host: Path) -> None:
    must(install(host / "source", host))
    assert (host / "etc/systemd/system/service.service").exists()
    assert (host / "etc/logrotate.d/service").read_bytes() == (FOLDER / "service.logrotate").read_bytes()


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({"id": "echo 1000"}, "Only root may install"),
        ({"id": "echo 0"}, "There is no uv on root's PATH"),
        ({"id": "echo 0", "uv": ""}, "There is no systemctl"),
    ],
)
def test_missing_program_is_reported_before_anything_has_changed(
    tmp_path: Path, programs: dict[str, str], words: str
) -> None:
    commands = fake(tmp_path / "bin", **programs, dirname='echo "${1%/*}"', sed="echo order-desk", head="cat")
    (commands / "cat").symlink_to("/bin/cat")
    result = run(["/bin/sh", FOLDER / "install.sh"], tmp_path, {"PATH": str(commands)})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


# Signals


@pytest.mark.usefixtures("service")
def test_systemd_is_notified_when_gunicorn_listens(systemd: socket.socket) -> None:
    """As the unit's type has it."""
    assert b"READY=1" in systemd.recv(4096).split(b"\n")


def test_reload_replaces_the_workers_and_no_request_fails(service: Service, host: Path) -> None:
    """By the unit's own line; the release stays that of the start."""
    old, release = service.workers(), used(host)
    empty = host / "empty"
    empty.mkdir()
    current = host / "opt" / NAME / "current"
    current.unlink()
    current.symlink_to(empty)
    try:
        with Load(service.port) as load:
            must(run(shlex.split(one("ExecReload")), host, environment(MAINPID=str(service.process.pid))))
            new = new_workers(service, old, 2)
            load.more(200)
    finally:
        current.unlink()
        current.symlink_to(release)
    assert load.failed == []
    assert {Path(f"/proc/{pid}/cwd").readlink() for pid in new} == {release}


# The document


def test_commands_of_the_document_name_the_service_once() -> None:
    """At the top."""
    blocks = re.findall(r"(?s)```console\n(.*?)```", PAGE.read_text("utf-8"))
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands[0] == "NAME=service"
    assert len(commands) > 10
    assert [line for line in commands[1:] if "$NAME" not in line or line.startswith("$ ")] == []
    assert [line for line in commands[1:] if re.search(r"\bservice\b", line)] == []


# Log files


def held(service: Service, folder: Path) -> set[str]:
    """Give the files of a folder that the master or a worker has open."""
    pids = [service.process.pid, *service.workers()]
    targets = [Path(path) for pid in pids for path in open_files(pid)]
    return {target.name for target in targets if target.parent == folder}


def lines_of(folder: Path, name: str) -> str:
    """Give what is in a log file, and in all that were rotated away, compressed ones too."""
    parts = [(path.suffix == ".gz", path.read_bytes()) for path in sorted(folder.glob(f"{name}*"))]
    return "".join((gzip.decompress(part) if compressed else part).decode() for compressed, part in parts)


def rotate(service: Service, host: Path, folder: Path) -> dict[Path, int]:
    """Rotate; nobody has an old file open a moment later. Give the old files and their sizes."""
    before = set(folder.iterdir())
    must(logrotate(host))
    wait_for(lambda: held(service, folder) == set(FILES), "the old files to be let go")
    moved = [path for path in folder.iterdir() if path not in before and path.suffix != ".gz"]
    assert len(moved) == len(FILES)
    return {path: path.stat().st_size for path in moved}


def wait_for_another_second() -> None:
    """Wait until logrotate gives another name."""
    now = int(time.time())
    wait_for(lambda: int(time.time()) > now, "another second")


def test_rotation_under_load_loses_and_doubles_no_line(service: Service, host: Path) -> None:
    """Several times, compressing; old files stay as they were."""
    folder = host / "var/log" / NAME
    failed: list[str] = []
    with Load(service.port, clients=5) as load:
        for number in range(ROTATIONS):
            failed += [new_id("fail") for _ in range(5)]
            for request_id in failed[-5:]:
                assert service.request("GET", "/api/demo/fail", request_id=request_id).status == 500
            load.more(100)
            sizes = rotate(service, host, folder)
            wait_for_another_second()
            load.more(10)
            assert {path: path.stat().st_size for path in sizes} == sizes, number
    assert load.failed == []
    assert {name: len(list(folder.glob(f"{name}-*.gz"))) for name in FILES} == dict.fromkeys(FILES, ROTATIONS - 1)
    check_everything(folder, load.answered, failed)


def check_everything(folder: Path, answered: list[str], failed: list[str]) -> None:
    """Each request has its lines in their files, each of them once."""
    assert len(answered) >= 100 * ROTATIONS
    wait_for(lambda: answered[-1] in (folder / "access.log").read_text("utf-8"), "the last line")
    access = Counter(parse_access(line).request_id for line in lines_of(folder, "access.log").splitlines())
    demo, error = (parse_app(lines_of(folder, name))[0] for name in ("demo.log", "error.log"))
    asked = Counter(answered + failed)
    assert {request_id: access[request_id] for request_id in asked} == asked
    assert Counter(record.request_id for record in demo if record.request_id in set(answered)) == Counter(answered)
    assert Counter(record.request_id for record in error if record.request_id in asked) == Counter(failed)


def test_rotation_is_silent_while_the_service_is_stopped(host: Path, tmp_path: Path) -> None:
    """With log files and without."""
    rest = tmp_path / "rest"
    for folder in ("etc/logrotate.d", f"var/log/{NAME}"):
        (rest / folder).mkdir(parents=True)
    (rest / "etc/logrotate.d" / NAME).write_bytes((host / "etc/logrotate.d" / NAME).read_bytes())
    result = must(logrotate(rest))
    assert result.stderr == ""
    (rest / f"var/log/{NAME}/access.log").write_text("a line\n")
    assert must(logrotate(rest)).stderr == ""
    assert [path.name.split("-")[0] for path in (rest / "var/log" / NAME).iterdir()] == ["access.log"]
