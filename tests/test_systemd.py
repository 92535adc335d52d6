"""The option `systemd`: the unit, what it allows, its installation, and rotation of the log files under load."""

import gzip
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid

import pytest

from tests.baking import TEMPLATE_DIR, Result, environment, must, run
from tests.live import baked
from tests.live.faults_tools import Load, run_python
from tests.live.harness import LiveService, new_id
from tests.live.lines import parse_access, parse_app
from tests.live.logs import wait_for
from tests.programs import program

FOLDER = TEMPLATE_DIR / "deploy" / "systemd"
UNIT = FOLDER / "service.service"
PAGE = TEMPLATE_DIR / "docs" / "systemd.md"
NAME = "order-desk"
# What systemd before or after the versions of the document may count at most.
MOST_EXPOSURE = 1.5
SECONDS_OF_A_START = 3
FILES = ("access.log", "demo.log", "error.log")
ROTATIONS = 4
ON_THE_HOST = re.compile(r"(?<![\w./}])/(?=(?:opt|etc|run|var/log)/)")


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


def install(source: Path, host: Path, *name: str) -> Result:
    """Run the script as root would; users and systemd are only told to a file."""
    script = source / "deploy" / "systemd" / "install.sh"
    script.write_text(below(host, (FOLDER / "install.sh").read_text("utf-8")))
    told = f'echo "$(basename "$0") $*" >>"{host}/told"'
    commands = fake(host / "bin", id='[ "$*" = -u ] && echo 0', useradd=told, systemctl=told)
    variables = environment()
    return run(["sh", script, *name], host, variables | {"PATH": f"{commands}{os.pathsep}{variables['PATH']}"})


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the service is installed as on a host, twice: the second time is an update."""
    host = tmp_path_factory.mktemp("host")
    source = baked.bake(host / "source")
    for folder in ("opt", "etc/systemd/system", "etc/logrotate.d", "run", "var/log"):
        (host / folder).mkdir(parents=True)
    must(install(source, host, NAME))
    (host / f"etc/{NAME}.env").write_text("WORKERS=2\n")
    (host / f"opt/{NAME}/app/gone.py").touch()
    (host / "told").unlink()
    must(install(source, host, NAME))
    return host


@pytest.fixture
def service(host: Path, tmp_path: Path) -> Iterator[LiveService]:
    """The installed service, started with the unit's command, in its folder, with its environment."""
    command = below(host, one("ExecStart")).split()
    variables = dict(word.split("=", 1) for word in below(host, one("Environment")).split())
    Path(variables["PID_FILE"]).parent.mkdir(exist_ok=True)
    folder, log = Path(below(host, one("WorkingDirectory") + "/")), Path(variables["LOG_PATH"])
    with LiveService(folder, tmp_path, log_path=log, env=variables, command=lambda _app, _port: command) as running:
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


def test_unit_is_accepted(tmp_path: Path) -> None:
    """systemd has nothing to say about the unit, whose name is that of its file."""
    unit = tmp_path / f"{NAME}.service"
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/", f"{tmp_path}/opt/"))
    fake(tmp_path / f"opt/{NAME}/.venv/bin", gunicorn="")
    result = run([program("systemd-analyze", "systemd"), "verify", unit], tmp_path)
    assert [line for line in f"{result.stdout}{result.stderr}".splitlines() if NAME in line] == []
    assert result.returncode == 0


def exposure(unit: Path) -> tuple[float, str]:
    """Give the number and the word of `systemd-analyze security`."""
    result = run([program("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", unit], unit.parent)
    found = re.search(r"Overall exposure level for .*: ([\d.]+) (\w+)", result.stdout)
    assert found
    return float(found[1]), found[2]


def test_security_level(tmp_path: Path) -> None:
    """The level is what the document says, in the versions that it names, and a good one in any other."""
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


def test_fits_the_settings(host: Path) -> None:
    """The unit sets what the service reads, and lets requests end before it kills."""
    code = "import json; from app.settings import Settings; print(Settings(host='a').model_dump_json())"
    settings = json.loads(must(run_python(host / "opt" / NAME, code)).stdout)
    variables = [word.partition("=")[0] for line in directives("Environment") for word in line.split()]
    assert variables == ["LOG_PATH", "PID_FILE"]
    assert {name.lower() for name in variables} <= set(settings)
    assert int(one("TimeoutStopSec")) > settings["graceful_timeout"]
    assert int(one("TimeoutStopSec")) > int(*re.findall(r"GRACEFUL_TIMEOUT, which is (\d+)", UNIT.read_text("utf-8")))


def test_a_failing_start_comes_to_an_end() -> None:
    """With a setting that cannot work nothing is tried for ever, even when each start takes a few seconds."""
    assert one("Restart") == "on-failure"
    each = int(one("RestartSec")) + SECONDS_OF_A_START
    assert each * int(one("StartLimitBurst")) < int(one("StartLimitIntervalSec"))


# The installation


def test_installed(host: Path) -> None:
    """What the document's table names is there; an update renews the code, and leaves the settings."""
    table = PAGE.read_text("utf-8").partition("| path |")[2].partition("\n\n")[0]
    named = [path.replace("service", NAME, 1) for path in re.findall(r"(?m)^\| `(/(?:opt|etc)/.*?)`", table)]
    paths = [f"/etc/systemd/system/{NAME}.service" if "systemd" in path else path for path in named]
    assert len(paths) == 4
    assert [path for path in paths if not (host / path[1:]).exists()] == []
    assert (host / f"etc/systemd/system/{NAME}.service").read_bytes() == UNIT.read_bytes()
    assert (host / f"etc/{NAME}.env").read_text("utf-8") == "WORKERS=2\n"
    assert (host / f"etc/{NAME}.env").stat().st_mode & 0o777 == 0o600
    assert "service" not in (host / "etc/logrotate.d" / NAME).read_text("utf-8")
    assert [path.name for path in (host / "opt" / NAME / "app").glob("gone*")] == []
    told = (host / "told").read_text("utf-8").splitlines()
    assert re.fullmatch(rf"useradd --system .* {NAME}", told[0])
    assert told[1:] == ["systemctl daemon-reload", f"systemctl enable --quiet {NAME}"]


def test_name_of_the_project(host: Path) -> None:
    """Without an argument the service goes by the project's name."""
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
def test_refusals(tmp_path: Path, programs: dict[str, str], words: str) -> None:
    """What the script cannot do without is told in a sentence, before anything has changed."""
    commands = fake(tmp_path / "bin", **programs, dirname='echo "${1%/*}"', sed="echo order-desk", head="cat")
    (commands / "cat").symlink_to("/bin/cat")
    result = run(["/bin/sh", FOLDER / "install.sh"], tmp_path, {"PATH": str(commands)})
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


# Log files


def held(service: LiveService, folder: Path) -> set[str]:
    """Give the files of a folder that the master or a worker has open."""
    pids = [service.process.pid, *service.workers()]
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    targets = {link.readlink() for link in links if link.is_symlink()}
    return {target.name for target in targets if target.parent == folder}


def lines_of(folder: Path, name: str) -> str:
    """Give what is in a log file, and in all that were rotated away, compressed ones too."""
    parts = [(path.suffix == ".gz", path.read_bytes()) for path in sorted(folder.glob(f"{name}*"))]
    return "".join((gzip.decompress(part) if compressed else part).decode() for compressed, part in parts)


def rotate(service: LiveService, host: Path, folder: Path) -> dict[Path, int]:
    """Rotate; nobody has an old file open a moment later. Give the old files and their sizes."""
    before = set(folder.iterdir())
    must(logrotate(host))
    wait_for(lambda: held(service, folder) == set(FILES), 5, "the old files to be let go")
    moved = [path for path in folder.iterdir() if path not in before and path.suffix != ".gz"]
    assert len(moved) == len(FILES)
    return {path: path.stat().st_size for path in moved}


def test_rotation(service: LiveService, host: Path) -> None:
    """logrotate under load, four times, compressing: each line is there once, and old files stay as they were."""
    folder = host / "var/log" / NAME
    failed: list[str] = []
    with Load(service, clients=5) as load:
        for number in range(ROTATIONS):
            failed += [new_id("fail") for _ in range(5)]
            for request_id in failed[-5:]:
                assert service.request("GET", "/api/demo/fail", request_id=request_id).status == 500
            load.more(100)
            sizes = rotate(service, host, folder)
            time.sleep(1.1)  # the names have seconds
            assert {path: path.stat().st_size for path in sizes} == sizes, number
    assert load.failures == []
    assert {name: len(list(folder.glob(f"{name}-*.gz"))) for name in FILES} == dict.fromkeys(FILES, ROTATIONS - 1)
    check_everything(folder, load.answered, failed)


def check_everything(folder: Path, answered: list[str], failed: list[str]) -> None:
    """Each request has its lines in their files, each of them once."""
    assert len(answered) >= 100 * ROTATIONS
    wait_for(lambda: answered[-1] in (folder / "access.log").read_text("utf-8"), 5, "the last line")
    access = Counter(parse_access(line).request_id for line in lines_of(folder, "access.log").splitlines())
    demo, error = (parse_app(lines_of(folder, name))[0] for name in ("demo.log", "error.log"))
    asked = Counter(answered + failed)
    assert {request_id: access[request_id] for request_id in asked} == asked
    assert Counter(record.request_id for record in demo if record.request_id in set(answered)) == Counter(answered)
    assert Counter(record.request_id for record in error if record.request_id in asked) == Counter(failed)


def test_rotation_without_a_service(host: Path, tmp_path: Path) -> None:
    """logrotate has nothing to complain about while the service is stopped, with log files and without."""
    rest = tmp_path / "rest"
    for folder in ("etc/logrotate.d", f"var/log/{NAME}"):
        (rest / folder).mkdir(parents=True)
    (rest / "etc/logrotate.d" / NAME).write_bytes((host / "etc/logrotate.d" / NAME).read_bytes())
    result = must(logrotate(rest))
    assert result.stderr == ""
    (rest / f"var/log/{NAME}/access.log").write_text("a line\n")
    assert must(logrotate(rest)).stderr == ""
    assert [path.name.split("-")[0] for path in (rest / "var/log" / NAME).iterdir()] == ["access.log"]
