"""The running containers, seen from the kernel and the engine: users, privileges, limits, health checks."""

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
# nginx waits a little longer for requests at shutdown than the service may take.
PROGRAMS = {
    "nginx": r"nginx: master process nginx .* worker_shutdown_timeout 35s;",
    "api": r"\S*python\S* \S*/gunicorn -c gun\.py",
}
SERVICES = pytest.mark.parametrize("service", ["nginx", "api"])
# The proportional set size (Pss, KiB) of each worker, which is a child of process 1.
WORKER_MEMORY = "for pid in $(cat /proc/1/task/1/children); do grep ^Pss: /proc/$pid/smaps_rollup; done"
# Sends a signal to all workers.
SIGNAL_WORKERS = "kill -$1 $(cat /proc/1/task/1/children)"


def inspect(stack: Stack, service: str) -> dict[str, Any]:
    """Return what `docker inspect` reports of the first container of a service."""
    found: list[dict[str, Any]] = json.loads(must(docker("inspect", *stack.containers(service))).stdout)
    return found[0]


@SERVICES
def test_process_1_is_the_server_without_privileges(stack: Stack, service: str) -> None:
    """It receives the stop signal itself, does not run as root, has no capabilities and cannot gain any."""
    command = stack.exec(service, "cat", "/proc/1/cmdline").rstrip("\0").replace("\0", " ")
    assert re.fullmatch(PROGRAMS[service], command), command
    lines = stack.exec(service, "cat", "/proc/1/status").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert set(status["Uid"].split() + status["Gid"].split()) == {USERS[service]}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@SERVICES
def test_only_tmp_is_writable(stack: Stack, service: str) -> None:
    """/tmp is a tmpfs with a size limit; the mounts from the host are read-only."""
    folders = ["/", "/app", "/app/app", "/etc", "/etc/nginx", "/etc/nginx/service", "/var/log", "/usr/local/bin"]
    script = 'for dir; do [ ! -e "$dir" ] || if (echo x >"$dir/new") 2>/dev/null; then echo "$dir"; fi; done'
    assert stack.exec(service, "sh", "-c", script, "sh", *folders, "/tmp").split() == ["/tmp"]
    mounts = [line.split() for line in stack.exec(service, "cat", "/proc/mounts").splitlines()]
    options = {target: {kind, *options.split(",")} for _, target, kind, options, *_ in mounts}
    assert "ro" in options["/"]
    assert {"tmpfs", "nosuid", "nodev", "noexec"} <= options["/tmp"]
    assert any(re.fullmatch(r"size=\d+k", option) for option in options["/tmp"])
    assert not [mount for mount in inspect(stack, service)["Mounts"] if mount["RW"]]


@SERVICES
def test_compose_sets_resource_limits_restart_policy_and_log_rotation(stack: Stack, service: str) -> None:
    script = "cd /sys/fs/cgroup; cat memory.max pids.max || cat memory/memory.limit_in_bytes pids/pids.max"
    assert [int(limit) for limit in stack.exec(service, "sh", "-c", script).split()] == LIMITS[service]
    config = inspect(stack, service)["HostConfig"]
    assert config["RestartPolicy"]["Name"] == "unless-stopped"
    assert config["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "5"}}


def test_two_workers_take_less_than_100_mebibytes_each(stack: Stack) -> None:
    sizes = [int(line.split()[1]) for line in stack.exec("api", "sh", "-c", WORKER_MEMORY).splitlines()]
    assert len(sizes) == 2
    assert max(sizes) < 100 * 1024


def test_health_check_fails_while_workers_hang(stack: Stack) -> None:
    """The image's health check command fails until the workers continue."""
    command = inspect(stack, "api")["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"

    def health() -> int:
        return stack.compose("exec", "-T", "api", *command[1:]).returncode

    assert health() == 0
    stack.exec("api", "sh", "-c", SIGNAL_WORKERS, "sh", "STOP")
    try:
        assert health() == 1
    finally:
        stack.exec("api", "sh", "-c", SIGNAL_WORKERS, "sh", "CONT")
    wait_for(lambda: health() == 0, "a successful health check")
