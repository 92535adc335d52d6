"""What the kernel and the engine say of the running containers: who they are, what they may do, how they end."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.baking import must
from tests.support.client import Answer
from tests.support.stack import Stack, docker, say, write_override
from tests.support.waiting import wait_for

MEBIBYTE = 1024 * 1024
USERS = {"nginx": 101, "api": 10001}
LIMITS = {"nginx": [1024 * MEBIBYTE, 64], "api": [512 * MEBIBYTE, 1024]}
PROGRAMS = {"nginx": r"nginx: master process nginx .*", "api": r"\S*python\S* \S*/gunicorn -c gun\.py"}
SERVICES = pytest.mark.parametrize("service", ["nginx", "api"])
# Memory of one process in KiB: what it holds, and its share of what it holds together with others.
MEMORY = """
import json, re
from pathlib import Path
found = {}
for folder in Path("/proc").glob("[0-9]*"):
    if b"gunicorn\\0-c" in (folder / "cmdline").read_bytes():
        text = (folder / "smaps_rollup").read_text()
        found[folder.name] = [int(re.search(rf"^{name}: +([0-9]+) kB", text, re.M)[1]) for name in ("Rss", "Pss")]
print(json.dumps(found))
"""
# Sends a signal to all workers, the children of the first process.
SIGNAL = """
import os, signal, sys
from pathlib import Path
for pid in Path("/proc/1/task/1/children").read_text().split():
    os.kill(int(pid), signal.Signals[sys.argv[1]])
"""


@pytest.fixture(scope="module")
def own(composed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service that the tests may stop."""
    project = tmp_path_factory.mktemp("ending") / composed.name
    shutil.copytree(composed, project)
    with Stack(project, "ending", COMPOSE_FILE=write_override(project)) as running:
        yield running


def inspected(stack: Stack, service: str) -> dict[str, Any]:
    """Give what the engine knows of a service's container."""
    found: list[dict[str, Any]] = json.loads(must(docker("inspect", *stack.containers(service))).stdout)
    return found[0]


def status_of_main_process(stack: Stack, service: str) -> dict[str, str]:
    """Give what the kernel knows of the first process."""
    lines = stack.exec(service, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@SERVICES
def test_user_has_no_rights(stack: Stack, service: str) -> None:
    """No process is root's, or may do what only root may, or may ever come to it."""
    status = status_of_main_process(stack, service)
    assert set(status["Uid"].split() + status["Gid"].split()) == {str(USERS[service])}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@SERVICES
def test_files_cannot_be_changed(stack: Stack, service: str) -> None:
    """Only /tmp can be written to, and it is memory of a limited size."""
    places = ["/", "/app", "/app/app", "/etc", "/etc/nginx", "/etc/nginx/service", "/var/log", "/usr/local/bin"]
    script = 'for place; do [ ! -e "$place" ] || if (echo x >"$place/new") 2>/dev/null; then echo "$place"; fi; done'
    assert stack.exec(service, "sh", "-c", script, "sh", *places, "/tmp").split() == ["/tmp"]
    mounts = [line.split() for line in stack.exec(service, "cat", "/proc/mounts").splitlines()]
    options = {where: (kind, set(options.split(","))) for _, where, kind, options, *_ in mounts}
    assert "ro" in options["/"][1]
    kind, of_tmp = options["/tmp"]
    assert kind == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} <= of_tmp
    assert any(re.fullmatch(r"size=\d+k", option) for option in of_tmp)


@SERVICES
def test_first_process_is_the_server(stack: Stack, service: str) -> None:
    """The signal to end reaches it, since no shell stands between."""
    words = stack.exec(service, "cat", "/proc/1/cmdline").rstrip("\0").split("\0")
    assert re.fullmatch(PROGRAMS[service], " ".join(words)), words


@SERVICES
def test_limits_are_in_force(stack: Stack, service: str) -> None:
    """The kernel's control groups have the limits of memory and processes."""
    old = ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max"]
    new = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"]
    script = 'if [ -e "$3" ]; then cat "$3" "$4"; else cat "$1" "$2"; fi'
    found = stack.exec(service, "sh", "-c", script, "sh", *old, *new).split()
    assert [int(limit) for limit in found] == LIMITS[service]


@SERVICES
def test_logs_cannot_fill_the_disk(stack: Stack, service: str) -> None:
    """The engine turns the files over."""
    config = inspected(stack, service)["HostConfig"]["LogConfig"]
    assert config == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}


def test_memory_at_rest(stack: Stack) -> None:
    """A worker takes what the documentation says, and two of them are far from the limit."""
    found: dict[str, list[int]] = json.loads(stack.exec("api", "python", "-I", "-c", MEMORY))
    for pid, (resident, share) in sorted(found.items()):
        say(f"process {pid}: RSS {resident / 1024:.1f} MiB, PSS {share / 1024:.1f} MiB")
    workers = [share for pid, (_, share) in found.items() if pid != "1"]
    assert len(workers) == 2
    assert max(workers) < 100 * 1024


@pytest.mark.parametrize("index", [0, 1], ids=["api", "nginx"])
def test_stop_lets_a_request_end(own: Stack, index: int) -> None:
    """A request of three seconds is answered in full; the container ends with 0, idle connections or not."""
    service = ("api", "nginx")[index]
    must(own.up())
    container = own.containers(service)[0]
    answers: list[Answer] = []
    idle = own.connect()
    assert idle.request("GET", "/api/demo").status == 200
    asking = threading.Thread(target=lambda: answers.append(own.request("GET", "/probe/slow?seconds=3")))
    asking.start()
    time.sleep(0.5)
    began = time.monotonic()
    must(docker("stop", "--time", "40", container))
    took = time.monotonic() - began
    asking.join()
    idle.close()
    say(f"{service} stopped in {took:.1f} s with a request of 2.5 s left")
    assert [(answer.status, answer.complete) for answer in answers] == [(200, True)]
    assert 2 < took < 6
    state = must(docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", container)).stdout.split()
    assert state == ["0", "false"]


def test_health_tells_the_truth(own: Stack) -> None:
    """A service whose workers stand still becomes unhealthy, and healthy again when they go on."""
    must(own.up())
    container = own.containers("api")[0]

    def health() -> str:
        return docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()

    assert health() == "healthy"
    own.exec("api", "python", "-I", "-c", SIGNAL, "SIGSTOP")
    wait_for(lambda: health() == "unhealthy", "end of health", seconds=40)
    own.exec("api", "python", "-I", "-c", SIGNAL, "SIGCONT")
    wait_for(lambda: health() == "healthy", "new health")
