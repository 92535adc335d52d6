"""The MCP server over real sockets and pipes: the client and each log get the same ID."""

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
def probe_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with the tools of mcp_tools_probe.py."""
    copy = bake_with(project, tmp_path_factory.mktemp("mcp") / "project", "mcp")
    mcp = copy / "app/integrations/mcp"
    shutil.copy(HERE / "mcp_tools_probe.py", mcp / "probe_tools.py")
    with (mcp / "tools.py").open("a") as tools:
        tools.write("\nfrom app.integrations.mcp import probe_tools  # noqa: F401, E402\n")
    return copy


@pytest.fixture(scope="module")
def service(probe_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The running service: two workers, LOG_FORMAT=text."""
    env = {"MCP_LOG_LEVEL": "debug"}
    with Service(probe_project, tmp_path_factory.mktemp("service"), app="app.main:app", env=env) as running:
        yield running


class JsonProcess(Process):
    """A process that reads and writes JSON, one value per line."""

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
        """Send one line of JSON to the process."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> Json:
        """Read the next line of JSON from the process."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text()[-3000:]
        return json.loads(line)


class Clients(JsonProcess):
    """The MCP clients of mcp_client_probe.py, in a separate process."""

    def call_all(self, service: Service, calls: list[Json]) -> list[Json]:
        """Make the calls concurrently, each on its own connection; return what each client received."""
        for call in calls:
            call["mode"] = MODES[call["protocol"]]
        self.send({"url": f"http://127.0.0.1:{service.port}/mcp", "calls": calls})
        results: list[Json] = self.receive()
        assert [one["protocol"] for one in results] == [call["protocol"] for call in calls]
        return results


@pytest.fixture(scope="module")
def clients(probe_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Start the client process once for all tests."""
    command = ["python", str(HERE / "mcp_client_probe.py")]
    with Clients(probe_project, tmp_path_factory.mktemp("clients"), command, {}) as running:
        yield running


def tool_call(client: tuple[str, str], tool: str, **arguments: Json) -> Json:
    """Return a tool call with a new request ID."""
    return {"kind": client[0], "protocol": client[1], "id": new_id("mcp"), "tool": tool, "arguments": arguments}


@pytest.mark.parametrize("client", CLIENTS, ids=" ".join)
def test_id_is_the_same_in_header_result_messages_and_logs(
    service: Service, clients: Clients, client: tuple[str, str]
) -> None:
    """The result of a failing tool has the ID, but not the exception."""
    call, failing = tool_call(client, "analyze_data", values=VALUES), tool_call(client, "fail")
    received, failed = clients.call_all(service, [call, failing])
    assert {tuple(values) for values in received["headers"]} == {(call["id"],)}
    assert received["meta"][ID_KEY] == call["id"]
    messages = [(one["level"], one["data"]["msg"]) for one in received["messages"]]
    assert messages[-2:] == [("debug", "analysis begins"), ("info", "analysis complete")]
    assert {one["data"]["extra"]["request_id"] for one in received["messages"]} == {call["id"]}
    access_lines = service.access_lines(call["id"], len(received["headers"]))
    assert [line.target for line in access_lines] == ["/mcp"] * len(received["headers"])
    lines = service.app_lines(call["id"], 2)
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
    assert len([line for line in service.app_lines(failing["id"], 3) if SECRET in line.exception]) == 1


def test_concurrent_calls_do_not_mix(service: Service, clients: Clients) -> None:
    """40 concurrent calls by two clients to two workers: each ID has exactly its own messages, records and result."""
    calls = [
        tool_call([("sdk", MODERN), ("fastmcp", LEGACY)][n % 2], "analyze_data", values=[*range(n + 2)])
        for n in range(40)
    ]
    results = clients.call_all(service, calls)
    end_lines = [line for line in parse_app(service.app_text())[0] if "tools/call analyze_data" in line.message]
    own = {line.request_id: line.current_id for line in end_lines}
    assert len({own[call["id"]] for call in calls}) == len(calls)
    for number, (call, received) in enumerate(zip(calls, results, strict=True)):
        assert received["meta"][ID_KEY] == call["id"]
        assert {one["data"]["extra"]["request_id"] for one in received["messages"]} == {call["id"]}
        assert received["messages"][-1]["data"]["extra"]["used"] == number + 2
        lines = [line.message for line in service.app_records(call["id"]) if line.file == "tools.py"]
        assert lines == [f"analysis complete used={number + 2} outliers=0"]


TRAINED = (["model trained"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("setting", "delivered"), [("MCP_STATELESS=false", TRAINED), ("MCP_JSON_RESPONSE=true", ([], []))]
)
def test_sessions_deliver_messages_and_progress_but_json_responses_only_results(
    probe_project: Path, tmp_path: Path, clients: Clients, setting: str, delivered: tuple[list[str], list[int]]
) -> None:
    env = dict([setting.split("=")])
    with Service(probe_project, tmp_path, server="uvicorn", app="app.main:app", workers=1, env=env) as service:
        calls = [tool_call(client, "train_model", values=VALUES, steps=4) for client in CLIENTS]
        for call, received in zip(calls, clients.call_all(service, calls), strict=True):
            assert (received["meta"][ID_KEY], received["is_error"]) == (call["id"], False)
            progress = [done for done, _ in received["progress"]]
            assert ([one["data"]["msg"] for one in received["messages"]], progress) == delivered, call
            assert "model trained" in {line.message.partition(" steps")[0] for line in service.app_lines(call["id"], 2)}


def test_call_of_a_client_that_disconnects_is_cancelled(service: Service, clients: Clients) -> None:
    request_id = new_id("gone")
    params = {"name": "run_long", "arguments": {"seconds": 20}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with service.connect() as connection:
        connection.send(build_request("POST", "/mcp", headers.items(), body, request_id=request_id))
        wait_for(lambda: service.app_records(request_id), "the first record of the tool")
        connection.abort()
    wait_for(
        lambda: [line for line in service.app_records(request_id) if " cancelled " in line.message],
        "the cancellation of the call",
    )
    lines = service.app_records(request_id)
    assert [line.message for line in lines if line.message == "long tool ended"]
    assert not any(line.exception for line in lines), lines
    assert service.access_line(request_id).flags
    after = clients.call_all(service, [tool_call(("sdk", MODERN), "analyze_data", values=VALUES) for _ in range(4)])
    assert not any(received["is_error"] for received in after)


def test_stdio_server_writes_only_protocol_messages_to_standard_output(probe_project: Path, tmp_path: Path) -> None:
    """Records and messages have the ID in `_meta`, or a new one if that is invalid."""
    initialize = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    good, forged = new_id("stdio"), "forged\n2026-01-01 INFO x"
    calls = [("analyze_data", {"values": VALUES}, good), ("analyze_data", {"values": VALUES}, forged)]
    calls += [("fail", {}, good), ("run_in_thread", {}, good)]
    command = ["python", "-m", "app.integrations.mcp"]
    log_path = tmp_path / "log"
    env = {"LOG_LEVEL": "DEBUG", "LOG_PATH": str(log_path)}
    with JsonProcess(probe_project, tmp_path / "server", command, env, log_path) as server:
        server.send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize})
        server.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        for number, (tool, arguments, request_id) in enumerate(calls, 1):
            params = {"name": tool, "arguments": arguments, "_meta": {ID_KEY: request_id}}
            server.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        output: list[Json] = []
        while len([one for one in output if "id" in one]) <= len(calls):
            output.append(server.receive())
        assert not server.process.communicate(timeout=30)[0]
        assert server.process.returncode == 0
    assert all(one["jsonrpc"] == "2.0" for one in output)
    results = {one["id"]: one["result"] for one in output if "id" in one}
    ids = [results[number]["_meta"][ID_KEY] for number in range(1, 5)]
    replaced = ids[1]
    assert ids == [good, replaced, good, good]
    assert len(replaced) == 36
    assert results[3]["isError"]
    assert SECRET not in json.dumps(output)
    lines, strays = parse_app(server.app_text())
    assert not strays
    assert {line.request_id for line in lines if line.message.startswith("in a thread")} == {good}
    assert {line.request_id for line in lines if line.message.startswith("analysis complete")} == {good, replaced}
    messages = [one["params"]["data"] for one in output if one.get("method") == "notifications/message"]
    assert {one["extra"]["request_id"] for one in messages} == {good, replaced}
