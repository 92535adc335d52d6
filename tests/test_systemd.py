"""The option `systemd`: the unit, what it allows, its installation, and rotation of the log files under load."""

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
from tests.support.faults import check_lines, count_records, new_workers, run_python
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
# What the document, the script or gunicorn need from the unit, and neither the service below nor the exposure shows.
OWN_NAME = ("SyslogIdentifier", "User", "Group", "LogsDirectory", "RuntimeDirectory", "StateDirectory")
PROMISES = {
    **{name: ["%N"] for name in OWN_NAME},
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


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the service is installed as on a host, twice: the second time is an update.

    The checkout is one that only its owner may read.
    """
    host = tmp_path_factory.mktemp("host")
    for folder in ("opt", "etc/systemd/system", "etc/logrotate.d", "run", "var/log"):
        (host / folder).mkdir(parents=True)
    source = baked.bake(host / "source")
    must(run(["chmod", "-R", "go=", source], host))
    must(install(source, host, NAME))
    (host / f"etc/{NAME}.env").write_text("WORKERS=2\n")
    (used(host) / "app/gone.py").touch()
    (host / "told").unlink()
    must(install(source, host, NAME, programs={}))
    return host


@pytest.fixture(scope="module")
def service(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The installed service, started with the unit's command, in its folder, with its environment."""
    command = below(host, one("ExecStart")).split()
    variables = dict(word.split("=", 1) for word in below(host, one("Environment")).split())
    Path(variables["PID_FILE"]).parent.mkdir(exist_ok=True)
    folder, log = Path(below(host, one("WorkingDirectory") + "/")), Path(variables["LOG_PATH"])
    work = tmp_path_factory.mktemp("service")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(work / "notify"))
        systemd.settimeout(30)
        variables["NOTIFY_SOCKET"] = systemd.getsockname()
        with Service(folder, work, log_path=log, env=variables, command=lambda _app, _port: command) as running:
            assert b"READY=1" in systemd.recv(4096).split(b"\n"), "as the unit's type has it"
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


def analyze(*words: str | Path) -> Result:
    """Run systemd-analyze."""
    return run([program("systemd-analyze", "systemd"), *words], UNIT.parent)


def test_systemd_accepts_the_unit_without_a_warning(tmp_path: Path) -> None:
    unit = tmp_path / f"{NAME}.service"
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/", f"{tmp_path}/opt/"))
    fake(tmp_path / f"opt/{NAME}/current/.venv/bin", gunicorn="")
    result = analyze("verify", unit)
    assert [line for line in f"{result.stdout}{result.stderr}".splitlines() if NAME in line] == []
    assert result.returncode == 0


def test_exposure_is_what_the_document_says() -> None:
    version = must(analyze("--version")).stdout.split()[1]
    said = re.search(r"of systemd (\d+) and (\d+) gives the unit \*\*([\d.]+) (\w+)\*\*", PAGE.read_text("utf-8"))
    told = analyze("security", "--offline=true", "--no-pager", UNIT).stdout
    level = re.search(r"Overall exposure level for .*: ([\d.]+) (\w+)", told)
    assert said
    assert level
    assert float(level[1]) <= MOST_EXPOSURE
    if version in said.groups()[:2]:
        assert level.groups() == said.groups()[2:]


def test_unit_sets_what_the_service_reads_and_lets_requests_end(host: Path) -> None:
    code = "import json; from app.settings import Settings; print(Settings(host='a').model_dump_json())"
    settings = json.loads(must(run_python(used(host), code)).stdout)
    variables = [word.partition("=")[0] for line in directives("Environment") for word in line.split()]
    assert variables == ["LOG_PATH", "PID_FILE"]
    assert {name.lower() for name in variables} <= set(settings)
    assert int(one("TimeoutStopSec")) > settings["graceful_timeout"]
    assert int(one("TimeoutStopSec")) > int(*re.findall(r"GRACEFUL_TIMEOUT, which is (\d+)", UNIT.read_text("utf-8")))


def test_start_that_fails_slowly_is_not_repeated_for_ever() -> None:
    each = int(one("RestartSec")) + SECONDS_OF_A_START
    assert each * int(one("StartLimitBurst")) < int(one("StartLimitIntervalSec"))


# The installation


def test_update_renews_the_code_and_leaves_the_settings(host: Path) -> None:
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
    assert told[1] == "systemctl daemon-reload"
    assert told[2:] == [f"systemctl enable --quiet {NAME}", f"systemctl reset-failed {NAME}"]


def test_service_can_read_what_root_has_installed(host: Path) -> None:
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
def test_name_of_another_is_refused(tmp_path: Path, path: str, programs: dict[str, str]) -> None:
    """Nothing has changed; without an argument it is the project's name."""
    source = tmp_path / "source"
    (source / "deploy/systemd").mkdir(parents=True)
    (source / "pyproject.toml").write_text('[project]\nname = "mail"\n')
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    result = install(source, tmp_path, programs=programs)
    assert result.returncode == 1
    assert result.stderr.startswith("The name mail is taken: ")
    assert f"{path or 'of that name'}.\n" in result.stderr
    assert not (tmp_path / "opt/mail/.installed").exists()
    assert not (tmp_path / "told").exists()


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


def test_reload_replaces_the_workers_and_no_request_fails(service: Service, host: Path) -> None:
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


def test_commands_of_the_document_name_the_service_once_at_the_top() -> None:
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


def rotate(service: Service, host: Path, folder: Path) -> dict[Path, int]:
    """Rotate; nobody has an old file open a moment later. Return the old files and their sizes."""
    before, began = set(folder.iterdir()), int(time.time())
    must(logrotate(host))
    wait_for(lambda: held(service, folder) == set(FILES), "the old files to be let go")
    wait_for(lambda: int(time.time()) > began, "another second, so that logrotate has another name the next time")
    moved = [path for path in folder.iterdir() if path not in before and path.suffix != ".gz"]
    assert len(moved) == len(FILES)
    return {path: path.stat().st_size for path in moved}


def test_rotation_under_load_loses_and_doubles_no_line(service: Service, host: Path) -> None:
    folder = host / "var/log" / NAME
    failed: list[str] = []
    with Load(service.port, clients=5) as load:
        for _ in range(ROTATIONS):
            failed += [new_id("fail") for _ in range(5)]
            for request_id in failed[-5:]:
                assert service.request("GET", "/api/demo/fail", request_id=request_id).status == 500
            load.more(100)
            sizes = rotate(service, host, folder)
            load.more(10)
            assert {path: path.stat().st_size for path in sizes} == sizes
    assert load.failed == []
    assert {name: len(list(folder.glob(f"{name}-*.gz"))) for name in FILES} == dict.fromkeys(FILES, ROTATIONS - 1)
    must(run(["gzip", "--decompress", *folder.glob("*.gz")], folder))
    everything = load.answered + failed
    check_lines(folder.glob("access.log*"), everything)
    assert count_records(folder.glob("demo.log*"), load.answered) == Counter(load.answered)
    assert count_records(folder.glob("error.log*"), everything) == Counter(failed)


def test_rotation_is_silent_while_the_service_is_stopped(host: Path, tmp_path: Path) -> None:
    rest = tmp_path / "rest"
    for folder in ("etc/logrotate.d", f"var/log/{NAME}"):
        (rest / folder).mkdir(parents=True)
    (rest / "etc/logrotate.d" / NAME).write_bytes((host / "etc/logrotate.d" / NAME).read_bytes())
    assert must(logrotate(rest)).stderr == ""
    (rest / f"var/log/{NAME}/access.log").write_text("a line\n")
    assert must(logrotate(rest)).stderr == ""
    assert [path.name.split("-")[0] for path in (rest / "var/log" / NAME).iterdir()] == ["access.log"]
