"""What the kernel and the engine say of the running containers: who they are, what they may do, how they end."""

import json
import re
from typing import Any

import pytest

from tests.support.baking import must
from tests.support.stack import Stack, docker
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

USERS = {"nginx": "101", "api": "10001"}
LIMITS = {"nginx": [1 << 30, 64], "api": [512 << 20, 1024]}
# nginx lets requests end a little longer than the service may take.
PROGRAMS = {
    "nginx": r"nginx: master process nginx .* worker_shutdown_timeout 35s;",
    "api": r"\S*python\S* \S*/gunicorn -c gun\.py",
}
SERVICES = pytest.mark.parametrize("service", ["nginx", "api"])
# The share of each worker, a child of the first process, of the memory that it holds, alone or together with others.
SHARES = "for pid in $(cat /proc/1/task/1/children); do grep ^Pss: /proc/$pid/smaps_rollup; done"
# Sends a signal to all workers.
SIGNAL = "kill -$1 $(cat /proc/1/task/1/children)"


def inspected(stack: Stack, service: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(must(docker("inspect", *stack.containers(service))).stdout)
    return found[0]


@SERVICES
def test_first_process_is_the_server_without_any_rights(stack: Stack, service: str) -> None:
    """It gets the signal to end, is not root's, and has no capability and no way to one."""
    words = stack.exec(service, "cat", "/proc/1/cmdline").rstrip("\0").replace("\0", " ")
    assert re.fullmatch(PROGRAMS[service], words), words
    lines = stack.exec(service, "cat", "/proc/1/status").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert set(status["Uid"].split() + status["Gid"].split()) == {USERS[service]}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@SERVICES
def test_only_tmp_can_be_written_to(stack: Stack, service: str) -> None:
    """It is memory of a limited size, and what is mounted from the host is read-only."""
    places = ["/", "/app", "/app/app", "/etc", "/etc/nginx", "/etc/nginx/service", "/var/log", "/usr/local/bin"]
    script = 'for place; do [ ! -e "$place" ] || if (echo x >"$place/new") 2>/dev/null; then echo "$place"; fi; done'
    assert stack.exec(service, "sh", "-c", script, "sh", *places, "/tmp").split() == ["/tmp"]
    mounts = [line.split() for line in stack.exec(service, "cat", "/proc/mounts").splitlines()]
    options = {where: {kind, *options.split(",")} for _, where, kind, options, *_ in mounts}
    assert "ro" in options["/"]
    assert {"tmpfs", "nosuid", "nodev", "noexec"} <= options["/tmp"]
    assert any(re.fullmatch(r"size=\d+k", option) for option in options["/tmp"])
    assert not [mount for mount in inspected(stack, service)["Mounts"] if mount["RW"]]


@SERVICES
def test_kernel_limits_memory_and_processes_and_engine_restarts_and_logs(stack: Stack, service: str) -> None:
    script = "cd /sys/fs/cgroup; cat memory.max pids.max || cat memory/memory.limit_in_bytes pids/pids.max"
    assert [int(limit) for limit in stack.exec(service, "sh", "-c", script).split()] == LIMITS[service]
    found = inspected(stack, service)["HostConfig"]
    assert found["RestartPolicy"]["Name"] == "unless-stopped"
    assert found["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}


def test_two_workers_take_less_than_100_mebibytes_each(stack: Stack) -> None:
    shares = [int(line.split()[1]) for line in stack.exec("api", "sh", "-c", SHARES).splitlines()]
    assert len(shares) == 2
    assert max(shares) < 100 * 1024


def test_health_check_notices_workers_that_hang(stack: Stack) -> None:
    """The command of the image, which the engine repeats, fails until they go on."""
    command = inspected(stack, "api")["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"

    def health() -> int:
        return stack.compose("exec", "-T", "api", *command[1:]).returncode

    assert health() == 0
    stack.exec("api", "sh", "-c", SIGNAL, "sh", "STOP")
    try:
        assert health() == 1
    finally:
        stack.exec("api", "sh", "-c", SIGNAL, "sh", "CONT")
    wait_for(lambda: health() == 0, "health")
