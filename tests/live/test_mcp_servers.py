"""Calls to other MCP servers: their messages are logged with the caller's ID; a failing server affects no other."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Self

import pytest

from tests.support.baked import bake_with
from tests.support.client import Json, Response, new_id
from tests.support.lines import parse_app
from tests.support.ports import free_port
from tests.support.process import Process, children
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

HERE = Path(__file__).parent
OWN = "python -m app.integrations.mcp"
HOSTILE = "python hostile.py"
JSON = [("Content-Type", "application/json")]
TIMEOUT = 2.0


@pytest.fixture(scope="module")
def probe_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with the endpoint of mcp_probe.py, and the server of mcp_hostile.py as `hostile.py`."""
    copy = bake_with(project, tmp_path_factory.mktemp("mcp") / "project", "mcp")
    probe = copy / "app/integrations/mcp_probe"
    probe.mkdir()
    shutil.copy(HERE / "mcp_probe.py", probe / "__init__.py")
    shutil.copy(HERE / "mcp_hostile.py", copy / "hostile.py")
    return copy


def serve(project: Path, work: Path, servers: dict[str, str], **env: str) -> Service:
    """Return the service with one worker, not started yet. The server `self` is the service itself, by its URL."""
    service = Service(project, work, app="app.main:app", workers=1, env={"LOG_FORMAT": "json", **env})
    own = {"self": f"http://127.0.0.1:{service.port}/mcp"}
    service.env["MCP_SERVERS"] = json.dumps(servers | own)
    return service


class Remote(Process):
    """The hostile server over HTTP; its port stays the same after a restart."""

    def __init__(self, project: Path, work: Path) -> None:
        self.port = free_port()
        super().__init__(project, work, ["python", "hostile.py", f"{self.port}"], {})

    def __enter__(self) -> Self:
        self.launch()
        wait_for(self._listens, "the hostile server")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.fixture(scope="module")
def remote(probe_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """The hostile server over HTTP, not started yet."""
    return Remote(probe_project, tmp_path_factory.mktemp("remote"))


@pytest.fixture(scope="module")
def service(probe_project: Path, remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The running service with a short MCP_TIMEOUT, a good server and hostile ones."""
    servers = {"good": HOSTILE, "bad": HOSTILE, "mute": f"{HOSTILE} --mute --deaf", "none": "no-such-command"}
    servers["remote"] = f"http://127.0.0.1:{remote.port}/mcp"
    with serve(probe_project, tmp_path_factory.mktemp("service"), servers, MCP_TIMEOUT=f"{TIMEOUT}") as running:
        wait_until_available(running, "good")
        yield running


@pytest.fixture(scope="module")
def demo(probe_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The running service with a long MCP_TIMEOUT and the servers of the demo; the last test stops it."""
    servers = dict.fromkeys(DEMO_MESSAGES, OWN) | {"good": HOSTILE, "bad": HOSTILE}
    with serve(probe_project, tmp_path_factory.mktemp("demo"), servers, MCP_TIMEOUT="60") as running:
        yield running


def post(service: Service, target: str, body: Json, request_id: str | None = None) -> Response:
    """Send a POST request with a JSON body."""
    return service.request("POST", target, JSON, json.dumps(body).encode(), request_id=request_id)


def call(service: Service, label: str, tool: str, request_id: str | None = None, /, **arguments: Json) -> Response:
    """Make the service call a tool of another server."""
    return post(service, f"/probe/mcp/{label}/{tool}", arguments, request_id)


def pid_of(service: Service, label: str) -> int:
    """Return the process ID of another server; fails if the server is unavailable."""
    response = call(service, label, "own_pid")
    assert response.status == 200, response
    return int(response.json()["result"])


def wait_until_available(service: Service, label: str) -> int:
    """Wait until a server responds to calls, and return its process ID."""
    return int(wait_for(lambda: call(service, label, "own_pid").json()["result"], f"a response of {label}"))


def lines_of(service: Service) -> list[Json]:
    """Return all complete lines of the log."""
    return [json.loads(line) for line in service.app_text().split("\n")[:-1]]


def messages_of(service: Service, label: str, request_id: str | None = None) -> list[Json]:
    """Return the log records of another server's messages, of one request or of all."""
    lines = [line for line in lines_of(service) if line.get("server") == label and "mcp_level" in line]
    return [line for line in lines if request_id in (None, line["request_id"])]


def assert_available(service: Service, label: str = "good") -> None:
    """Assert that the server responds, that its message is logged, and that the service responds."""
    request_id = new_id("well")
    response = call(
        service, label, "say", request_id, messages=[{"level": "info", "data": {"msg": "well", "extra": {}}}]
    )
    assert response.status == 200, response
    wait_for(lambda: messages_of(service, label, request_id), f"the message of {label}")
    assert service.request("GET", "/livez").status == 200


def alive(pids: list[int]) -> list[int]:
    """Return the processes that have not ended."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, state in states.items() if state.exists() and " Z " not in state.read_text()]


NOTIFICATION = '{"jsonrpc":"2.0","method":"notifications/message"'
GARBAGE = [
    "", "nonsense", "{}", "[]", "null", "\x1b[31m", '{"jsonrpc":"2.0"}', '{"jsonrpc":"2.0","id":999,"result":{}}',
    f"{NOTIFICATION}}}",
    f'{NOTIFICATION},"params":[]}}',
    f'{NOTIFICATION},"params":{{"level":"loud","data":"x"}}}}',
    f'{NOTIFICATION},"params":{{"level":7,"data":"x"}}}}',
    f'{NOTIFICATION},"params":{{"level":"info"}}}}',
    '{"jsonrpc":"2.0","method":"notifications/unknown","params":{}}',
    '{"jsonrpc":"2.0","method":"no/such","id":"7","params":{}}',
    '{"jsonrpc":"2.0","method":"sampling/createMessage","id":8,"params":{}}',
]  # fmt: skip
DATA = ["plain text", 5, None, True, [1, 2], {"no": "msg"}, {"msg": 5}, {"msg": {"a": [1]}}, {"msg": "m", "extra": "e"}]
FORGED = {"msg": "m\n2026-01-01 forged", "extra": {"two\nlines": "\x1b[31m", "password": "hunter2", "": "nameless"}}
NOT_A_NUMBER = '{"level":"info","data":{"msg":"nan","extra":{"nan":NaN,"inf":Infinity}}}'


def test_malformed_messages_are_ignored_and_any_data_is_logged(service: Service) -> None:
    request_id = new_id("garbage")
    messages = [*({"level": "info", "data": data} for data in (*DATA, FORGED)), NOT_A_NUMBER]
    response = call(service, "bad", "say", request_id, lines=GARBAGE, messages=messages)
    assert (response.status, response.json()["result"]) == (200, "said"), response
    assert call(service, "bad", "big", request_id, size=5_000_000).status == 200
    number = len(messages) + 3
    wait_for(lambda: len(messages_of(service, "bad", request_id)) >= number, f"{number} records")
    texts = [line["message"] for line in messages_of(service, "bad", request_id)]
    assert texts[:2] == ["bad: plain text", 'bad: {"data":5}']
    assert texts[len(DATA) : len(messages)] == ["bad: m\n2026-01-01 forged", "bad: nan"]
    assert [text[:15] for text in texts[len(messages) :]] == ["bad: large valu", "bad: large text", "bad: deep"]
    text = service.app_text()
    assert "hunter2" not in text
    assert "could not be written" not in text
    assert max(map(len, text.split("\n"))) < 60_000
    assert not parse_app(text)[1]
    assert_available(service)


@pytest.mark.parametrize("how", ["idle", "in a call"])
def test_killed_server_is_started_again(service: Service, how: str) -> None:
    """Its callers get an error immediately; calls to other servers are not affected."""
    pid = wait_until_available(service, "bad")
    if how == "idle":
        os.kill(pid, SIGKILL)
        wait_for(lambda: not alive([pid]), "the exit of the server")
    else:
        request_id, began = new_id("dies"), time.monotonic()
        response = call(service, "bad", "die", request_id)
        assert time.monotonic() - began < scaled(TIMEOUT / 2)
        assert (response.status, response.json()["cause"]) == (503, "The MCP server bad is unavailable.")
        assert [line for line in service.app_lines(request_id) if "bad is unavailable" in line.message]
    assert_available(service)
    assert pid_of(service, "bad") != pid


def test_hanging_server_is_replaced(service: Service) -> None:
    """Its caller waits for MCP_TIMEOUT, callers of other servers do not; its process is ended."""
    pid = wait_until_available(service, "bad")
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        hanging = threads.submit(call, service, "bad", "hang")
        assert_available(service)
        assert hanging.result().status == 503
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 3)
    assert wait_until_available(service, "bad") != pid
    wait_for(lambda: not alive([pid]), "the exit of the hanging server")


def test_server_that_never_connects_is_terminated(service: Service) -> None:
    """Its callers wait for MCP_TIMEOUT at the same time; a command that does not exist fails immediately."""
    (worker,) = service.workers()
    before = set(children(worker))
    with ThreadPoolExecutor(2) as threads:
        began = time.monotonic()
        waiting = [threads.submit(call, service, "mute", "own_pid") for _ in range(2)]
        (mute,) = wait_for(lambda: set(children(worker)) - before, "the process that never connects")
        assert_available(service)
        assert [one.result().status for one in waiting] == [503, 503]
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 2)
    wait_for(lambda: not alive([mute]), "the exit of the process that never connects")
    began = time.monotonic()
    assert call(service, "none", "own_pid").status == 503
    assert time.monotonic() - began < scaled(TIMEOUT / 2)
    assert "Traceback" not in service.app_text()


def test_server_at_a_url_gets_the_id(service: Service) -> None:
    """The server is the service itself: its access log line and the records of its tool have the caller's ID."""
    request_id = new_id("self")
    assert call(service, "self", "analyze_data", request_id, values=[1, 2, 3]).status == 200
    wait_for(lambda: messages_of(service, "self", request_id), "the message of self")
    assert [line for line in service.app_records(request_id) if line.message == "analysis complete"]
    targets = {line.target for line in service.access_lines(request_id, 2)}
    assert targets == {"/mcp", "/probe/mcp/self/analyze_data"}


def test_server_at_a_url_is_used_again_after_an_outage(service: Service, remote: Remote) -> None:
    """It was down, sent an invalid message, hung, or restarted without its sessions."""
    assert [call(service, "remote", "own_pid").status for _ in range(3)] == [503, 503, 503]
    with remote:
        wait_until_available(service, "remote")
        assert_available(service, "remote")
        response = call(service, "remote", "say", lines=["nonsense"])
        assert (response.status, response.json()["cause"]) == (503, "The MCP server remote is unavailable.")
        assert wait_until_available(service, "remote") == remote.process.pid
        os.kill(remote.process.pid, SIGSTOP)
        began = time.monotonic()
        assert call(service, "remote", "own_pid").status == 503
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 2)
        assert_available(service)
        os.kill(remote.process.pid, SIGCONT)
        wait_until_available(service, "remote")
    assert call(service, "remote", "own_pid").status == 503
    assert_available(service)
    with remote:
        wait_until_available(service, "remote")
    with remote:
        assert wait_until_available(service, "remote") == remote.process.pid


DEMO_MESSAGES = {"analytics": "analysis complete", "model": "model trained", "store": "result stored"}


def test_concurrent_requests_through_three_servers_do_not_mix(demo: Service) -> None:
    ids = [new_id(f"demo{n}") for n in range(40)]

    def call_demo(request_id: str) -> str:
        response = post(demo, "/api/mcp/demo", {"values": [1, 2, 3]}, request_id)
        assert (response.status, response.header()) == (200, request_id), response
        return str(response.json()["result"])

    with ThreadPoolExecutor(40) as threads:
        keys = dict(zip(ids, threads.map(call_demo, ids), strict=True))
    assert len(set(keys.values())) == len(ids)
    for label in DEMO_MESSAGES:
        wait_for(lambda label=label: len(messages_of(demo, label)) == len(ids), f"the messages of {label}")  # type: ignore[misc]
    (worker,) = demo.workers()
    lines = [line for line in lines_of(demo) if "server" in line or line.get("file") == "tools.py"]
    for request_id in ids:
        own = [line for line in lines if line["request_id"] == request_id]
        forwarded = {line["server"]: line for line in own if "server" in line}
        assert {label: line["message"] for label, line in forwarded.items()} == {
            label: f"{label}: {text}" for label, text in DEMO_MESSAGES.items()
        }
        assert forwarded["store"]["key"] == keys[request_id]
        assert {line["pid"] for line in forwarded.values()} == {worker}
        by_tools = {line["message"]: line["pid"] for line in own if line["file"] == "tools.py"}
        assert by_tools.keys() == set(DEMO_MESSAGES.values())
        assert len({worker, *by_tools.values()}) == 4
        assert len(own) == 6


def test_flood_of_messages_delays_no_other_call_and_dropped_ones_are_counted(demo: Service) -> None:
    """While the log handler blocks, messages beyond the queue limit are dropped and counted; other calls succeed."""
    wait_until_available(demo, "bad")
    assert_available(demo)
    block = demo.project / "block"
    block.touch()
    request_id, number = new_id("flood"), 4000
    seconds, other_ids = [], []
    with ThreadPoolExecutor(1) as threads:
        flood = threads.submit(call, demo, "bad", "flood", request_id, number=number, request_id=request_id)
        while not flood.done():
            other_ids.append(new_id("other"))
            began = time.monotonic()
            response = call(demo, "good", "say", other_ids[-1], messages=[{"level": "info", "data": "other"}])
            assert response.status == demo.request("GET", "/livez").status == 200
            seconds.append(time.monotonic() - began)
    assert flood.result().status == 200
    block.unlink()
    wait_for(lambda: "were dropped" in demo.app_text(), "the record that counts the dropped messages")
    written = messages_of(demo, "bad", request_id)
    (report,) = [line["message"] for line in lines_of(demo) if "were dropped" in line["message"]]
    assert len(written) in (1000, 1001)
    assert report == f"{number - len(written)} messages of the MCP server bad were dropped: its queue was full"
    assert set(other_ids) == {
        line["request_id"] for line in messages_of(demo, "good") if line["message"] == "good: other"
    }
    assert sorted(seconds)[int(len(seconds) * 0.9)] < scaled(0.5)
    assert_available(demo, "bad")


def test_servers_of_a_killed_worker_exit_and_the_next_worker_starts_new_ones(demo: Service) -> None:
    (worker,) = demo.workers()
    pids = [wait_until_available(demo, label) for label in ("good", "bad")]
    assert set(pids) <= set(children(worker))
    pids = children(worker)
    os.kill(worker, SIGKILL)
    wait_for(lambda: not alive(pids), "the exit of its servers")
    wait_for(lambda: demo.workers() not in ([], [worker]), "the next worker")
    wait_for(lambda: livez(demo) == 200, "a response of the next worker")
    assert_available(demo)
    assert pid_of(demo, "good") not in pids


def livez(service: Service) -> int:
    """Return the status of /livez, or 0 without a response."""
    try:
        return service.request("GET", "/livez").status
    except (OSError, EOFError):
        return 0


def test_shutdown_kills_hanging_servers(demo: Service) -> None:
    bad = wait_until_available(demo, "bad")
    assert_available(demo)
    (worker,) = demo.workers()
    pids = children(worker)
    assert bad in pids
    os.kill(bad, SIGSTOP)
    began = time.monotonic()
    try:
        assert demo.stop() == 0
        assert time.monotonic() - began < scaled(20)
        assert not alive(pids)
    finally:
        for pid in alive(pids):
            os.kill(pid, SIGKILL)
    assert "did not stop" not in demo.app_text()
    at = {line["message"]: datetime.fromisoformat(line["timestamp"]) for line in lines_of(demo)}
    took = at["Application shutdown complete."] - at["Waiting for application shutdown."]
    assert took > timedelta(seconds=1.5), "the lifespan did not wait for its servers"
