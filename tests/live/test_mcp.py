"""The MCP server over real sockets and pipes: one ID in the client's hands and in each log."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Self

import pytest

from tests.support.baked import bake_with
from tests.support.client import Json, build_request, new_id
from tests.support.lines import parse_app
from tests.support.process import Process
from tests.support.service import Service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

HERE = Path(__file__).parent
MODERN, LEGACY = "2026-07-28", "2025-11-25"
MODES = {MODERN: MODERN, LEGACY: "legacy"}
CLIENTS = [(kind, protocol) for kind in ("sdk", "fastmcp") for protocol in MODES]
ID_KEY = "x-request-id"
SECRET = "hunter2"
VALUES = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture(scope="module")
def probed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with tools to probe it by."""
    copy = bake_with(project, tmp_path_factory.mktemp("mcp") / "project", "mcp")
    mcp = copy / "app/integrations/mcp"
    shutil.copy(HERE / "mcp_tools_probe.py", mcp / "probe_tools.py")
    with (mcp / "tools.py").open("a") as tools:
        tools.write("\nfrom app.integrations.mcp import probe_tools  # noqa: F401, E402\n")
    return copy


@pytest.fixture(scope="module")
def served(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers that write text."""
    env = {"MCP_LOG_LEVEL": "debug"}
    with Service(probed, tmp_path_factory.mktemp("served"), app="app.main:app", env=env) as service:
        yield service


class Peer(Process):
    """A process that reads and writes lines of JSON."""

    def __enter__(self) -> Self:
        self.work.mkdir(parents=True, exist_ok=True)
        with self.stderr.open("ab") as err:
            self._process = Popen(
                self.command,
                env=self.env,
                cwd=self.project,
                stdin=PIPE,
                stdout=PIPE,
                stderr=err,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()

    def send(self, message: Json) -> None:
        """Write a line."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> Json:
        """Read the next line."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text()[-3000:]
        return json.loads(line)


class Clients(Peer):
    """Clients of the project's own packages, in a process of their own."""

    def ask(self, service: Service, calls: list[Json]) -> list[Json]:
        """Make the calls, each on a connection of its own, all at once; return what each client saw."""
        for call in calls:
            call["mode"] = MODES[call["protocol"]]
        self.send({"url": f"http://127.0.0.1:{service.port}/mcp", "calls": calls})
        seen: list[Json] = self.receive()
        assert [one["protocol"] for one in seen] == [call["protocol"] for call in calls]
        return seen


@pytest.fixture(scope="module")
def clients(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients for all tests."""
    command = ["python", str(HERE / "mcp_client_probe.py")]
    with Clients(probed, tmp_path_factory.mktemp("clients"), command, {}) as running:
        yield running


def tool_call(client: tuple[str, str], tool: str, **arguments: Json) -> Json:
    """Return a call under a new ID."""
    return {"kind": client[0], "protocol": client[1], "id": new_id("mcp"), "tool": tool, "arguments": arguments}


@pytest.mark.parametrize("client", CLIENTS, ids=" ".join)
def test_id_is_the_same_in_header_result_messages_and_logs(
    served: Service, clients: Clients, client: tuple[str, str]
) -> None:
    """The result of a tool that fails has it as well, and not the reason."""
    call, failing = tool_call(client, "analyze_data", values=VALUES), tool_call(client, "fails")
    seen, failed = clients.ask(served, [call, failing])
    assert {tuple(values) for values in seen["headers"]} == {(call["id"],)}
    assert seen["meta"][ID_KEY] == call["id"]
    messages = [(one["level"], one["data"]["msg"]) for one in seen["messages"]]
    assert messages[-2:] == [("debug", "analysis begins"), ("info", "analysis complete")]
    assert {one["data"]["extra"]["request_id"] for one in seen["messages"]} == {call["id"]}
    accessed = served.access_lines(call["id"], len(seen["headers"]))
    assert [line.target for line in accessed] == ["/mcp"] * len(seen["headers"])
    lines = served.app_lines(call["id"], 2)
    assert [line.message for line in lines if line.file == "tools.py"] == ["analysis complete used=4 outliers=0"]
    (last,) = [line for line in lines if line.message.startswith("tools/call analyze_data complete")]
    assert last.current_id not in (None, "-")
    assert {line.current_id for line in lines if line.file == "tools.py"} == {last.current_id}
    assert (failed["is_error"], failed["meta"][ID_KEY]) == (True, failing["id"])
    assert failing["id"] in failed["text"]
    assert SECRET not in json.dumps(failed)
    assert [one["data"]["extra"]["request_id"] for one in failed["messages"] if one["level"] == "error"] == [
        failing["id"]
    ]
    assert len([line for line in served.app_lines(failing["id"], 3) if SECRET in line.exception]) == 1


def test_concurrent_calls_do_not_mix(served: Service, clients: Clients) -> None:
    """Forty at once, of two clients over two workers: each ID has exactly its own messages, lines and result."""
    calls = [
        tool_call([("sdk", MODERN), ("fastmcp", LEGACY)][n % 2], "analyze_data", values=[*range(n + 2)])
        for n in range(40)
    ]
    all_seen = clients.ask(served, calls)
    ends = [line for line in parse_app(served.app_text())[0] if "tools/call analyze_data" in line.message]
    own = {line.request_id: line.current_id for line in ends}
    assert len({own[call["id"]] for call in calls}) == len(calls)
    for number, (call, seen) in enumerate(zip(calls, all_seen, strict=True)):
        assert seen["meta"][ID_KEY] == call["id"]
        assert {one["data"]["extra"]["request_id"] for one in seen["messages"]} == {call["id"]}
        assert seen["messages"][-1]["data"]["extra"]["used"] == number + 2
        lines = [line.message for line in served.app_records(call["id"]) if line.file == "tools.py"]
        assert lines == [f"analysis complete used={number + 2} outliers=0"]


TRAINED = (["model trained"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("setting", "delivered"), [("MCP_STATELESS=false", TRAINED), ("MCP_JSON_RESPONSE=true", ([], []))]
)
def test_sessions_deliver_messages_and_progress_and_json_only_results(
    probed: Path, tmp_path: Path, clients: Clients, setting: str, delivered: tuple[list[str], list[int]]
) -> None:
    env = dict([setting.split("=")])
    with Service(probed, tmp_path, server="uvicorn", app="app.main:app", workers=1, env=env) as service:
        calls = [tool_call(client, "train_model", values=VALUES, steps=4) for client in CLIENTS]
        for call, seen in zip(calls, clients.ask(service, calls), strict=True):
            assert (seen["meta"][ID_KEY], seen["is_error"]) == (call["id"], False)
            progress = [done for done, _ in seen["progress"]]
            assert ([one["data"]["msg"] for one in seen["messages"]], progress) == delivered, call
            assert "model trained" in {line.message.partition(" steps")[0] for line in service.app_lines(call["id"], 2)}


def test_call_of_a_client_that_disconnects_is_cancelled(served: Service, clients: Clients) -> None:
    request_id = new_id("gone")
    params = {"name": "takes", "arguments": {"seconds": 20}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with served.connect() as connection:
        connection.send(build_request("POST", "/mcp", headers.items(), body, request_id=request_id))
        wait_for(lambda: served.app_records(request_id), "the first record of the tool")
        connection.abort()
    wait_for(lambda: [line for line in served.app_records(request_id) if " cancelled " in line.message], "its end")
    lines = served.app_records(request_id)
    assert [line.message for line in lines if line.message == "long tool ends"]
    assert not any(line.exception for line in lines), lines
    assert served.access_line(request_id).flags
    after = clients.ask(served, [tool_call(("sdk", MODERN), "analyze_data", values=VALUES) for _ in range(4)])
    assert not any(seen["is_error"] for seen in after)


def test_stdio_server_writes_nothing_but_the_protocol(probed: Path, tmp_path: Path) -> None:
    """Its records and messages have the ID of `_meta`, unless that is malformed."""
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    good, forged = new_id("stdio"), "forged\n2026-01-01 INFO x"
    asked = [("analyze_data", {"values": VALUES}, good), ("analyze_data", {"values": VALUES}, forged)]
    asked += [("fails", {}, good), ("takes_a_thread", {}, good)]
    command = ["python", "-m", "app.integrations.mcp"]
    log_path = tmp_path / "log"
    env = {"LOG_LEVEL": "DEBUG", "LOG_PATH": str(log_path)}
    with Peer(probed, tmp_path / "server", command, env, log_path) as server:
        server.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
        server.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        for number, (tool, arguments, request_id) in enumerate(asked, 1):
            params = {"name": tool, "arguments": arguments, "_meta": {ID_KEY: request_id}}
            server.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        said: list[Json] = []
        while len([one for one in said if "id" in one]) <= len(asked):
            said.append(server.receive())
        assert not server.process.communicate(timeout=30)[0]
        assert server.process.returncode == 0
    assert all(one["jsonrpc"] == "2.0" for one in said)
    results = {one["id"]: one["result"] for one in said if "id" in one}
    ids = [results[number]["_meta"][ID_KEY] for number in range(1, 5)]
    replaced = ids[1]
    assert ids == [good, replaced, good, good]
    assert len(replaced) == 36
    assert results[3]["isError"]
    assert SECRET not in json.dumps(said)
    lines, strays = parse_app(server.app_text())
    assert not strays
    assert {line.request_id for line in lines if line.message.startswith("in a thread")} == {good}
    assert {line.request_id for line in lines if line.message.startswith("analysis complete")} == {good, replaced}
    messages = [one["params"]["data"] for one in said if one.get("method") == "notifications/message"]
    assert {one["extra"]["request_id"] for one in messages} == {good, replaced}
