"""Calls of other MCP servers: what they say is logged under the caller's ID; one that fails harms no other."""

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
from tests.support.client import Answer, Json, new_id
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
def probed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with an endpoint that calls the tools of others, and a hostile server beside it."""
    copy = bake_with(project, tmp_path_factory.mktemp("mcp") / "project", "mcp")
    probe = copy / "app/integrations/mcp_probe"
    probe.mkdir()
    shutil.copy(HERE / "mcp_probe.py", probe / "__init__.py")
    shutil.copy(HERE / "mcp_hostile.py", copy / "hostile.py")
    return copy


def serve(project: Path, work: Path, servers: dict[str, str], **env: str) -> Service:
    """Return the service with one worker, not started yet; `self` among the servers is the service by its URL."""
    service = Service(project, work, app="app.main:app", workers=1, env={"LOG_FORMAT": "json", **env})
    own = {"self": f"http://127.0.0.1:{service.port}/mcp"}
    service.env["MCP_SERVERS"] = json.dumps(servers | own)
    return service


class Remote(Process):
    """The hostile server behind a URL, at a port that stays."""

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
def remote(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """A hostile server behind a URL, not started yet."""
    return Remote(probed, tmp_path_factory.mktemp("remote"))


@pytest.fixture(scope="module")
def service(probed: Path, remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with short patience, a good server and bad ones."""
    servers = {"good": HOSTILE, "bad": HOSTILE, "mute": f"{HOSTILE} --mute --deaf", "none": "no-such-command"}
    servers["remote"] = f"http://127.0.0.1:{remote.port}/mcp"
    with serve(probed, tmp_path_factory.mktemp("service"), servers, MCP_TIMEOUT=f"{TIMEOUT}") as running:
        wait_until_used(running, "good")
        yield running


@pytest.fixture(scope="module")
def demo(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with long patience and those servers of our own that the demo asks; the last test stops it."""
    servers = dict.fromkeys(SAID, OWN) | {"good": HOSTILE, "bad": HOSTILE}
    with serve(probed, tmp_path_factory.mktemp("demo"), servers, MCP_TIMEOUT="60") as running:
        yield running


def post(service: Service, target: str, body: Json, request_id: str | None = None) -> Answer:
    """Send JSON."""
    return service.request("POST", target, JSON, json.dumps(body).encode(), request_id=request_id)


def call(service: Service, label: str, tool: str, request_id: str | None = None, /, **arguments: Json) -> Answer:
    """Let the service call a tool of another server."""
    return post(service, f"/probe/mcp/{label}/{tool}", arguments, request_id)


def pid_of(service: Service, label: str) -> int:
    """Return the process ID of another server; fails when it does not answer."""
    answer = call(service, label, "own_pid")
    assert answer.status == 200, answer
    return int(answer.json()["result"])


def wait_until_used(service: Service, label: str) -> int:
    """Wait until calls of a server are answered, and return its process ID."""
    return int(wait_for(lambda: call(service, label, "own_pid").json()["result"], f"an answer of {label}"))


def lines_of(service: Service) -> list[Json]:
    """Return all whole lines of the log."""
    return [json.loads(line) for line in service.app_text().split("\n")[:-1]]


def said_by(service: Service, label: str, request_id: str | None = None) -> list[Json]:
    """Return the records of what another server said, of one request or of all."""
    lines = [line for line in lines_of(service) if line.get("server") == label and "mcp_level" in line]
    return [line for line in lines if request_id in (None, line["request_id"])]


def assert_answers(service: Service, label: str = "good") -> None:
    """The server answers at once, what it says is logged, and the service answers."""
    request_id = new_id("well")
    answer = call(service, label, "say", request_id, messages=[{"level": "info", "data": {"msg": "well", "extra": {}}}])
    assert answer.status == 200, answer
    wait_for(lambda: said_by(service, label, request_id), f"what {label} said")
    assert service.request("GET", "/livez").status == 200


def alive(pids: list[int]) -> list[int]:
    """Return those of the processes that have not ended."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, state in states.items() if state.exists() and " Z " not in state.read_text()]


MESSAGE = '{"jsonrpc":"2.0","method":"notifications/message"'
GARBAGE = [
    "", "nonsense", "{}", "[]", "null", "\x1b[31m", '{"jsonrpc":"2.0"}', '{"jsonrpc":"2.0","id":999,"result":{}}',
    f"{MESSAGE}}}",
    f'{MESSAGE},"params":[]}}',
    f'{MESSAGE},"params":{{"level":"loud","data":"x"}}}}',
    f'{MESSAGE},"params":{{"level":7,"data":"x"}}}}',
    f'{MESSAGE},"params":{{"level":"info"}}}}',
    '{"jsonrpc":"2.0","method":"notifications/unknown","params":{}}',
    '{"jsonrpc":"2.0","method":"no/such","id":"7","params":{}}',
    '{"jsonrpc":"2.0","method":"sampling/createMessage","id":8,"params":{}}',
]  # fmt: skip
DATA = ["plain text", 5, None, True, [1, 2], {"no": "msg"}, {"msg": 5}, {"msg": {"a": [1]}}, {"msg": "m", "extra": "e"}]
FORGED = {"msg": "m\n2026-01-01 forged", "extra": {"two\nlines": "\x1b[31m", "password": "hunter2", "": "nameless"}}
NOT_A_NUMBER = '{"level":"info","data":{"msg":"nan","extra":{"nan":NaN,"inf":Infinity}}}'


def test_malformed_messages_are_ignored_and_data_of_any_kind_is_logged(service: Service) -> None:
    request_id = new_id("garbage")
    messages = [*({"level": "info", "data": data} for data in (*DATA, FORGED)), NOT_A_NUMBER]
    answer = call(service, "bad", "say", request_id, lines=GARBAGE, messages=messages)
    assert (answer.status, answer.json()["result"]) == (200, "said"), answer
    assert call(service, "bad", "big", request_id, size=5_000_000).status == 200
    number = len(messages) + 3
    wait_for(lambda: len(said_by(service, "bad", request_id)) >= number, f"{number} records")
    said = [line["message"] for line in said_by(service, "bad", request_id)]
    assert said[:2] == ["bad: plain text", 'bad: {"data":5}']
    assert said[len(DATA) : len(messages)] == ["bad: m\n2026-01-01 forged", "bad: nan"]
    assert [text[:15] for text in said[len(messages) :]] == ["bad: large valu", "bad: large text", "bad: deep"]
    text = service.app_text()
    assert "hunter2" not in text
    assert "could not be written" not in text
    assert max(map(len, text.split("\n"))) < 60_000
    assert not parse_app(text)[1]
    assert_answers(service)


@pytest.mark.parametrize("how", ["idle", "in a call"])
def test_killed_server_is_started_again(service: Service, how: str) -> None:
    """Its callers get an error at once; calls of other servers are not affected."""
    pid = wait_until_used(service, "bad")
    if how == "idle":
        os.kill(pid, SIGKILL)
        wait_for(lambda: not alive([pid]), "the end of the server")
    else:
        request_id, began = new_id("dies"), time.monotonic()
        answer = call(service, "bad", "die", request_id)
        assert time.monotonic() - began < scaled(TIMEOUT / 2)
        assert (answer.status, answer.json()["cause"]) == (503, "The MCP server bad does not answer.")
        assert [line for line in service.app_lines(request_id) if "bad does not answer" in line.message]
    assert_answers(service)
    assert pid_of(service, "bad") != pid


def test_server_that_hangs_is_replaced(service: Service) -> None:
    """Its caller waits for MCP_TIMEOUT, those of other servers do not; the process ends."""
    pid = wait_until_used(service, "bad")
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        hanging = threads.submit(call, service, "bad", "hang")
        assert_answers(service)
        assert hanging.result().status == 503
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 3)
    assert wait_until_used(service, "bad") != pid
    wait_for(lambda: not alive([pid]), "the end of the server that hangs")


def test_server_that_never_connects_is_ended(service: Service) -> None:
    """Its callers wait for MCP_TIMEOUT together; a command that does not exist fails at once."""
    (worker,) = service.workers()
    known = set(children(worker))
    with ThreadPoolExecutor(2) as threads:
        began = time.monotonic()
        waiting = [threads.submit(call, service, "mute", "own_pid") for _ in range(2)]
        (mute,) = wait_for(lambda: set(children(worker)) - known, "the process that never connects")
        assert_answers(service)
        assert [one.result().status for one in waiting] == [503, 503]
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 2)
    wait_for(lambda: not alive([mute]), "the end of the process that never connects")
    began = time.monotonic()
    assert call(service, "none", "own_pid").status == 503
    assert time.monotonic() - began < scaled(TIMEOUT / 2)
    assert "Traceback" not in service.app_text()


def test_server_behind_a_url_is_called_under_the_id(service: Service) -> None:
    """Here it is the service itself, whose access records and tool have the ID of the caller."""
    request_id = new_id("self")
    assert call(service, "self", "analyze_data", request_id, values=[1, 2, 3]).status == 200
    wait_for(lambda: said_by(service, "self", request_id), "what it said")
    assert [line for line in service.app_records(request_id) if line.message == "analysis complete"]
    targets = {line.target for line in service.access_lines(request_id, 2)}
    assert targets == {"/mcp", "/probe/mcp/self/analyze_data"}


def test_server_behind_a_url_is_used_again_after_an_outage(service: Service, remote: Remote) -> None:
    """It was away, has sent nonsense, has hung, or has restarted and does not know the session any more."""
    assert [call(service, "remote", "own_pid").status for _ in range(3)] == [503, 503, 503]
    with remote:
        wait_until_used(service, "remote")
        assert_answers(service, "remote")
        answer = call(service, "remote", "say", lines=["nonsense"])
        assert (answer.status, answer.json()["cause"]) == (503, "The MCP server remote does not answer.")
        assert wait_until_used(service, "remote") == remote.process.pid
        os.kill(remote.process.pid, SIGSTOP)
        began = time.monotonic()
        assert call(service, "remote", "own_pid").status == 503
        assert TIMEOUT - 0.1 < time.monotonic() - began < scaled(TIMEOUT + 2)
        assert_answers(service)
        os.kill(remote.process.pid, SIGCONT)
        wait_until_used(service, "remote")
    assert call(service, "remote", "own_pid").status == 503
    assert_answers(service)
    with remote:
        wait_until_used(service, "remote")
    with remote:
        assert wait_until_used(service, "remote") == remote.process.pid


SAID = {"analytics": "analysis complete", "model": "model trained", "store": "result stored"}


def test_concurrent_requests_through_three_servers_do_not_mix(demo: Service) -> None:
    ids = [new_id(f"demo{n}") for n in range(40)]

    def ask(request_id: str) -> str:
        answer = post(demo, "/api/mcp/demo", {"values": [1, 2, 3]}, request_id)
        assert (answer.status, answer.one()) == (200, request_id), answer
        return str(answer.json()["result"])

    with ThreadPoolExecutor(40) as threads:
        keys = dict(zip(ids, threads.map(ask, ids), strict=True))
    assert len(set(keys.values())) == len(ids)
    for label in SAID:
        wait_for(lambda label=label: len(said_by(demo, label)) == len(ids), f"what {label} said")  # type: ignore[misc]
    (worker,) = demo.workers()
    lines = [line for line in lines_of(demo) if "server" in line or line.get("file") == "tools.py"]
    for request_id in ids:
        mine = [line for line in lines if line["request_id"] == request_id]
        ours = {line["server"]: line for line in mine if "server" in line}
        assert {label: line["message"] for label, line in ours.items()} == {
            label: f"{label}: {text}" for label, text in SAID.items()
        }
        assert ours["store"]["key"] == keys[request_id]
        assert {line["pid"] for line in ours.values()} == {worker}
        theirs = {line["message"]: line["pid"] for line in mine if line["file"] == "tools.py"}
        assert theirs.keys() == set(SAID.values())
        assert len({worker, *theirs.values()}) == 4
        assert len(mine) == 6


def test_flood_of_messages_delays_nobody_and_each_is_counted(demo: Service) -> None:
    """While the log takes none, the newest are counted and not kept, and other calls go on."""
    wait_until_used(demo, "bad")
    assert_answers(demo)
    hold = demo.project / "hold"
    hold.touch()
    request_id, number = new_id("flood"), 4000
    seconds, beside = [], []
    with ThreadPoolExecutor(1) as threads:
        flooded = threads.submit(call, demo, "bad", "flood", request_id, number=number, request_id=request_id)
        while not flooded.done():
            beside.append(new_id("beside"))
            began = time.monotonic()
            answer = call(demo, "good", "say", beside[-1], messages=[{"level": "info", "data": "beside"}])
            assert answer.status == demo.request("GET", "/livez").status == 200
            seconds.append(time.monotonic() - began)
    assert flooded.result().status == 200
    hold.unlink()
    wait_for(lambda: "were too many to be written" in demo.app_text(), "the record that counts the rest")
    written = said_by(demo, "bad", request_id)
    (rest,) = [line["message"] for line in lines_of(demo) if "were too many to be written" in line["message"]]
    assert len(written) in (1000, 1001)
    assert rest == f"{number - len(written)} messages of the MCP server bad were too many to be written"
    assert set(beside) == {line["request_id"] for line in said_by(demo, "good") if line["message"] == "good: beside"}
    assert sorted(seconds)[int(len(seconds) * 0.9)] < scaled(0.5)
    assert_answers(demo, "bad")


def test_servers_end_with_a_killed_worker_and_the_next_one_starts_its_own(demo: Service) -> None:
    (worker,) = demo.workers()
    pids = [wait_until_used(demo, label) for label in ("good", "bad")]
    assert set(pids) <= set(children(worker))
    pids = children(worker)
    os.kill(worker, SIGKILL)
    wait_for(lambda: not alive(pids), "the end of its servers")
    wait_for(lambda: demo.workers() not in ([], [worker]), "the next worker")
    wait_for(lambda: livez(demo) == 200, "its answer")
    assert_answers(demo)
    assert pid_of(demo, "good") not in pids


def livez(service: Service) -> int:
    """Return the status of the service, or 0 where nobody answers."""
    try:
        return service.request("GET", "/livez").status
    except (OSError, EOFError):
        return 0


def test_service_that_stops_ends_servers_that_hang(demo: Service) -> None:
    bad = wait_until_used(demo, "bad")
    assert_answers(demo)
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
