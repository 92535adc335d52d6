"""The MCP server and the clients of other MCP servers: IDs, log records, messages, failures of other servers."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from math import nan
from subprocess import PIPE
from typing import Any, NamedTuple

import httpx2
import pytest
from fastmcp import Client, Context
from fastmcp.client.logging import LogMessage
from fastmcp.client.transports import FastMCPTransport, StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.tools import ToolResult
from starlette.testclient import TestClient

from app.common.constants import PARENT_ID_KEY, REQUEST_ID_KEY
from app.common.context.observers import metric_observers
from app.common.context.request_record import current_record
from app.common.exceptions import NotReady
from app.common.outbound import OutboundAsyncClient
from app.common.request_id import current_request_id
from app.common.task_record import TaskRecord
from app.environment import PROJECT_ROOT
from app.integrations.mcp import tools
from app.integrations.mcp.client import Server, is_lost, transport_of
from app.integrations.mcp.forwarding import MAX_QUEUED, MAX_TEXT, Message, MessageWriter, write
from app.integrations.mcp.propagation import LEVELS, MAX_EXTRA, MAX_MESSAGE
from app.integrations.mcp.tools import server, stored
from app.main import Application
from app.settings import get_settings
from tests.support import HEADER, ID, UUID4, Logs, connect

Configure = Callable[..., Application]
Register = Callable[[Callable[..., Awaitable[Any]]], None]

ACCEPT = {"Accept": "application/json, text/event-stream"}
OWN_SERVER = f"{sys.executable} -m app.integrations.mcp"
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def only_mcp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Load no other integration, as those of task queues would connect to their brokers; remove metric observers."""
    for name in ("app.integrations.integration_names", "app.integrations.processes.integration_names"):
        monkeypatch.setattr(name, lambda: ["mcp"])
    metric_observers.clear()
    yield
    metric_observers.clear()


@pytest.fixture
def tool() -> Iterator[Register]:
    """Return a decorator that registers a function as a tool until the end of the test."""
    names = []

    def register(function: Callable[..., Awaitable[Any]]) -> None:
        names.append(function.__name__)
        server.tool(function)

    yield register
    for name in names:
        server.local_provider.remove_tool(name)


def nested(depth: int) -> list[object]:
    """Return a list in a list in a list, `depth` times."""
    inner: list[object] = []
    for _ in range(depth):
        inner = [inner]
    return inner


class ToolResponse(NamedTuple):
    """What a client receives for a tool call over HTTP."""

    header: str
    messages: list[dict[str, Any]]
    result: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.result["content"][0]["text"])


def call(client: TestClient, name: str, *, request_id: str = ID, **arguments: object) -> ToolResponse:
    """Call a tool without a session. The ID in `_meta` must be ignored, because the header has one."""
    params = {"name": name, "arguments": arguments, "_meta": {REQUEST_ID_KEY: "not-that-of-the-header"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    response = client.post("/mcp", json=body, headers={HEADER: request_id, **ACCEPT})
    assert response.status_code == 200
    events = [
        json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data:")
    ]
    *messages, reply = events or [response.json()]
    return ToolResponse(response.headers[HEADER], [one["params"] for one in messages], reply["result"])


def test_call_has_the_request_id_in_records_messages_and_result(configure: Configure, logs: Logs) -> None:
    with connect(configure()) as client:
        response = call(client, "analyze_data", values=[1, 2, 3])
    assert response.header == response.result["_meta"][REQUEST_ID_KEY] == ID
    assert response.result["structuredContent"] == {"count": 3, "mean": 2.0, "deviation": 1.0, "outliers": []}
    (message,) = response.messages
    assert (message["level"], message["data"]["msg"]) == ("info", "analysis complete")
    assert message["data"]["extra"] == {"used": 3, "outliers": 0, "request_id": ID}
    tool_line, end_line = (line for line in logs.error if ID in line)
    assert " tools.py(line:" in tool_line
    assert tool_line.endswith(" analysis complete used=3 outliers=0")
    assert " tools/call analyze_data complete 0.0" in end_line
    ids = [line.split(" INFO ")[1].partition(" -] ")[0] for line in (tool_line, end_line)]
    assert ids[0] == ids[1]
    assert UUID4.fullmatch(ids[0].removeprefix(f"[{ID}] ["))
    (access,) = logs.access
    assert f" {ID} 200 " in access
    assert '"POST /mcp HTTP/1.1"' in access


def test_message_of_each_level_is_logged_and_sent(configure: Configure, logs: Logs, tool: Register) -> None:
    @tool
    async def every_level(ctx: Context) -> str:
        for level in LEVELS:
            await ctx.log(f"as {level}", level=level, logger_name="orders")  # type: ignore[arg-type]
        return "done"

    with connect(configure(LOG_FORMAT="json", LOG_LEVEL="DEBUG", MCP_LOG_LEVEL="debug")) as client:
        messages = call(client, "every_level").messages
    assert [(one["level"], one["data"]["msg"], one["logger"]) for one in messages] == [
        (level, f"as {level}", "orders") for level in LEVELS
    ]
    lines = [line for line in map(json.loads, logs.error) if line["logger"] == "orders"]
    assert [line["message"] for line in lines] == [f"as {level}" for level in LEVELS]
    assert [line["level"] for line in lines] == [logging.getLevelName(number) for number in LEVELS.values()]
    assert {(line["request_id"], line["file"]) for line in lines} == {(ID, "test_mcp.py")}


def test_log_level_and_message_level_are_independent(configure: Configure, logs: Logs) -> None:
    with connect(configure(LOG_LEVELS="app.mcp=DEBUG", MCP_LOG_LEVEL="error")) as client:
        assert call(client, "analyze_data", values=[1, 2]).messages == []
        (by_tool, by_failure) = call(client, "analyze_data", values=[1]).messages
    assert (by_tool["level"], by_failure["level"]) == ("error", "error")
    assert sum("DEBUG" in line and "analysis begins received=" in line for line in logs.error) == 2


def test_secrets_line_breaks_and_values_unknown_to_json_are_sanitized(
    configure: Configure, logs: Logs, tool: Register
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("no text")

    extra = {"name": "n", "message": "m", "object": Broken(), "nan": nan, "bytes": b"\xff", "request_id": "forged"}
    extra |= {"surrogate": "\ud800", "two\nlines": "\x1b[31m", "exc_info": True, "set": {1}}
    deep, loop = nested(5000), list[object]()
    loop.append(loop)

    @tool
    async def send_messages(ctx: Context) -> str:
        await ctx.warning("line one\n2026-10-01 forged", extra=extra | {"password": SECRET})
        await ctx.info("much", extra={"text": "x" * MAX_EXTRA})
        await ctx.info(f"secret={SECRET} {'y' * MAX_MESSAGE}", extra={"deep": deep})
        await ctx.info("round", extra={"loop": loop})
        return "done"

    for log_format in ("text", "json"):
        with connect(configure(LOG_FORMAT=log_format)) as client:
            first, second, third, fourth = call(client, "send_messages").messages
        sent = first["data"]["extra"]
        assert sent["request_id"] == ID
        assert (sent["name"], sent["message"], sent["nan"], sent["password"]) == ("n", "m", None, "***")
        assert second["data"]["extra"].keys() == {"extra_omitted", "request_id"}
        assert third["data"]["extra"]["request_id"] == fourth["data"]["extra"]["request_id"] == ID
        assert third["data"]["msg"] == f"secret=*** {'y' * MAX_MESSAGE}"[:MAX_MESSAGE]
        assert not any(line.startswith("2026-10-01 forged") or SECRET in line for line in logs.error)
    as_json = json.loads(next(line for line in logs.error if line.startswith("{") and "line one" in line))
    assert (as_json["name_"], as_json["message_"], as_json["request_id"]) == ("n", "m", ID)
    assert as_json["message"] == "line one\n2026-10-01 forged"


def test_exception_of_a_tool_is_only_in_the_log(configure: Configure, logs: Logs, tool: Register) -> None:
    @tool
    async def fail(ctx: Context) -> str:  # noqa: ARG001
        raise ValueError(f"in the cellar, password={SECRET}")

    with connect(configure()) as client:
        response = call(client, "fail")
    assert response.result["isError"]
    assert response.result["_meta"][REQUEST_ID_KEY] == ID
    assert response.text == f"Error calling tool 'fail' (request ID {ID})"
    (message,) = response.messages
    assert message["level"] == "error"
    assert message["data"]["extra"] == {"tool": "fail", "request_id": ID}
    written = "\n".join(logs.error)
    assert f"[{ID}]" in next(line for line in logs.error if "Error calling tool 'fail'" in line)
    assert "ValueError: in the cellar, password=***" in written
    assert SECRET not in written
    assert " WARNING [" in next(line for line in logs.error if "tools/call fail failed 0." in line)


def test_rejected_call_returns_the_reason_and_the_id(configure: Configure) -> None:
    with connect(configure()) as client:
        refusals = {
            "An analysis needs at least two numbers.": call(client, "analyze_data", values=[1]),
            "Unknown tool: 'nix'": call(client, "nix"),
            "1 validation error for call[analyze_data]": call(client, "analyze_data", values="none"),
            "Training needs at least two numbers": call(client, "train_model", values=[1]),
            "1 validation error for call[train_model]": call(client, "train_model", values=[1, 2], steps=101),
            "2 validation errors for call[train_model]": call(client, "train_model", values=[0] * 10_001, steps=0),
            "A result may have at most 65536 characters": call(client, "store_result", result={"a": "b" * 65_536}),
        }
    for reason, response in refusals.items():
        assert response.result["isError"], reason
        assert response.text.startswith(reason)
        assert response.text.endswith(f" (request ID {ID})")
        assert response.result["_meta"][REQUEST_ID_KEY] == ID


def begin_session(client: TestClient) -> str:
    """Open an MCP session and return its ID."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    return str(client.post("/mcp", json=body, headers=ACCEPT).headers["mcp-session-id"])


@pytest.mark.parametrize(("stateless", "as_json"), [("true", "true"), ("false", "true"), ("false", "false")])
def test_each_request_has_its_own_id_and_json_responses_have_no_messages(
    configure: Configure, logs: Logs, stateless: str, as_json: str
) -> None:
    ids = [f"{ID}-{number}" for number in range(3)]
    with connect(configure(MCP_STATELESS=stateless, MCP_JSON_RESPONSE=as_json, WORKERS="1")) as client:
        if stateless == "false":
            client.headers["mcp-session-id"] = begin_session(client)
        for one in ids:
            response = call(client, "analyze_data", request_id=one, values=[1, 2])
            assert response.result["_meta"][REQUEST_ID_KEY] == one
            messages = [message["data"]["extra"]["request_id"] for message in response.messages]
            assert messages == ([] if as_json == "true" else [one])
    for one in ids:
        assert len([line for line in logs.error if f"[{one}]" in line]) == 2


def test_sessions_with_several_workers_are_refused(configure: Configure, logs: Logs) -> None:
    with pytest.raises(SystemExit):
        configure(MCP_STATELESS="false", WORKERS="2")
    assert "set WORKERS=1 or MCP_STATELESS=true." in logs.error[-1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{", "is not valid JSON"),
        ('{"a": ""}', "a is neither a URL nor a command"),
        ('{"a": "https://"}', "a is neither a URL (http or https) nor a command"),
        ('{"a": "ws://host/mcp"}', "a is neither"),
        ('{"a": "http://u:x@h:xx/"}', "a is neither"),
        ('{"a": "http://[host"}', "a is neither"),
        ('{"a": "say \'hello"}', "MCP_SERVERS is invalid"),
        ('{"a b": "true"}', "MCP_SERVERS is invalid"),
        (f'{{"a": 5, "{SECRET}": 6}}', "MCP_SERVERS"),
    ],
)
def test_invalid_servers_setting_is_reported(configure: Configure, logs: Logs, value: str, reason: str) -> None:
    with pytest.raises(SystemExit):
        configure(MCP_SERVERS=value)
    assert "The integration mcp does not start." in logs.error[-1]
    assert "MCP_SERVERS" in logs.error[-1]
    assert SECRET not in logs.error[-1]
    assert reason in logs.error[-1] or "validation failed" in logs.error[-1]


def test_only_allowed_hosts_are_accepted(configure: Configure) -> None:
    with connect(configure(MCP_ALLOWED_HOSTS="example.org")) as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        statuses = [
            client.post("/mcp", json=body, headers={"Host": host, **ACCEPT}).status_code
            for host in ("example.org", "example.org:8000", "evil.example")
        ]
    assert statuses == [200, 200, 421]


def test_without_an_http_request_the_id_is_that_of_meta(configure: Configure, logs: Logs) -> None:
    configure()
    received: list[LogMessage] = []

    async def on_message(message: LogMessage) -> None:
        received.append(message)

    async def call_all() -> list[str]:
        async with Client(server, log_handler=on_message) as client:
            metas = [{REQUEST_ID_KEY: ID, PARENT_ID_KEY: "task-0001"}, {REQUEST_ID_KEY: "invalid id"}, None]
            results = [await client.call_tool("analyze_data", {"values": [1, 2]}, meta=meta) for meta in metas]
            return [str((result.meta or {})[REQUEST_ID_KEY]) for result in results]

    ids = asyncio.run(call_all())
    assert ids[0] == ID
    assert all(UUID4.fullmatch(one) for one in ids[1:])
    assert len(set(ids)) == 3
    assert [message.data["extra"]["request_id"] for message in received] == ids
    assert all(len([line for line in logs.error if one in line]) == 2 for one in ids)
    assert any(f"[{ID}] [" in line and " task-0001] " in line for line in logs.error)


def test_concurrent_calls_do_not_mix(configure: Configure, logs: Logs, tool: Register) -> None:
    @tool
    async def log_in_a_thread(ctx: Context, number: int) -> str:
        await ctx.info("before", extra={"number": number})
        await asyncio.sleep(0.01)
        await asyncio.to_thread(logging.getLogger("orders").info, "in a thread %d", number)
        await ctx.info("after", extra={"number": number})
        return current_request_id()

    configure(LOG_FORMAT="json")
    ids = [f"{ID}-{number}" for number in range(40)]
    received: list[tuple[int, str]] = []

    async def on_message(message: LogMessage) -> None:
        received.append((message.data["extra"]["number"], message.data["extra"]["request_id"]))

    async def call_all() -> list[Any]:
        async with Client(server, log_handler=on_message) as client:
            metas = [{REQUEST_ID_KEY: one} for one in ids]
            calls = [client.call_tool("log_in_a_thread", {"number": n}, meta=meta) for n, meta in enumerate(metas)]
            return await asyncio.gather(*calls)

    assert [result.data for result in asyncio.run(call_all())] == ids
    assert sorted(received) == sorted(2 * [*enumerate(ids)])
    lines = [json.loads(line) for line in logs.error]
    for number, one in enumerate(ids):
        own = [line for line in lines if line["request_id"] == one]
        assert {line["number"] for line in own if "number" in line} == {number}
        assert f"in a thread {number}" in [line["message"] for line in own]
        assert len({line["current_id"] for line in own}) == 1
    assert len({line["current_id"] for line in lines if "current_id" in line}) == 40


def test_demo_names_missing_servers(configure: Configure) -> None:
    with connect(configure(MCP_SERVERS='{"model": "false"}')) as client:
        response = client.post("/api/mcp/demo", json={})
    assert response.status_code == 503
    assert response.json()["cause"].startswith("MCP_SERVERS must also name analytics, store;")


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect the clients of other servers to the server in this process."""
    monkeypatch.setattr("app.integrations.mcp.client.transport_of", lambda *_: FastMCPTransport(server))


@pytest.mark.usefixtures("in_memory")
def test_demo_logs_the_messages_of_three_servers(configure: Configure, logs: Logs) -> None:
    servers = dict.fromkeys(("analytics", "model", "store"), "in memory")
    with connect(configure(MCP_SERVERS=json.dumps(servers), LOG_FORMAT="json")) as client:
        done = client.post("/api/mcp/demo", json={"values": [1, 2, 4]}, headers={HEADER: ID})
        refused = client.post("/api/mcp/demo", json={"values": [1]})
    assert UUID4.fullmatch(done.json()["result"])
    assert refused.status_code == 502
    assert refused.json()["cause"].startswith("An analysis needs at least two numbers. (")
    messages = [line for line in map(json.loads, logs.error) if line["request_id"] == ID and "server" in line]
    assert [(line["server"], line["mcp_level"], line["logger"]) for line in messages] == [
        (label, "info", f"app.mcp.{label}") for label in servers
    ]
    assert messages[0]["used"] == 3


def test_killed_server_process_is_replaced(configure: Configure, logs: Logs) -> None:
    """After a failed connection attempt, the next attempt is at least a second later."""
    configure()
    writer = MessageWriter()

    async def call_all() -> None:
        one = Server("own", f"sh -c 'exec {OWN_SERVER}'", get_settings(), 60, writer)
        other = Server("other", "sh -c 'exit 3'", get_settings(), 60, writer)
        assert (await one.call("analyze_data", {"values": [1, 2]})).data["count"] == 2
        for _ in range(2):
            with pytest.raises(NotReady, match="The MCP server other is unavailable"):
                await other.call("analyze_data")
        assert not other._in_flight
        (by_tool,) = (line for line in logs.error if "analysis complete" in line and "own:" not in line)
        os.kill(int(by_tool.partition("[pid:")[2].partition("]")[0]), signal.SIGKILL)
        assert one._connection
        async with asyncio.timeout(30):
            while not is_lost(one._connection.result()):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.01)
        assert (await one.call("analyze_data", {"values": [1, 2]})).data["count"] == 2
        await asyncio.gather(one.close(), other.close())

    asyncio.run(call_all())
    writer.close(5)
    assert len([line for line in logs.error if "The MCP server other is unavailable (" in line]) == 1


@pytest.mark.usefixtures("in_memory")
def test_failed_call_does_not_affect_other_calls(configure: Configure, tool: Register) -> None:
    @tool
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @tool
    async def return_number() -> str:
        return ToolResult(structured_content={"result": 5})  # type: ignore[return-value]

    configure()
    writer = MessageWriter()

    async def call_all() -> None:
        one = Server("own", "in memory", get_settings(), 20, writer)
        await one.call("sleep", {"seconds": 0})
        connection = one._connection
        others = [asyncio.create_task(one.call("sleep", {"seconds": 0.3})) for _ in range(3)]
        await asyncio.sleep(0.05)
        for not_json in (object(), "\ud800", nested(400)):
            with pytest.raises(ToolError, match="The arguments for sleep are not valid JSON"):
                await one.call("sleep", {"seconds": not_json})
        with pytest.raises(ToolError, match="sent an invalid response"):
            await one.call("return_number")
        with pytest.raises(ToolError, match="Unknown tool"):
            await one.call("nix")
        assert [result.data for result in await asyncio.gather(*others)] == 3 * ["slept"]
        one._timeout = 0.5
        slow = asyncio.create_task(one.call("sleep", {"seconds": 5}))
        await asyncio.sleep(0.3)
        in_time = asyncio.create_task(one.call("sleep", {"seconds": 0.3}))
        with pytest.raises(NotReady):
            await slow
        assert (await in_time).data == "slept"
        assert one._connection is connection
        assert not one._in_flight
        await one.close()

    asyncio.run(call_all())
    writer.close(5)


def test_server_process_inherits_few_environment_variables(configure: Configure) -> None:
    configure(LOG_LEVEL="DEBUG", MASKED_LOG="pin", LOG_SHIPPER_URL="https://host/secret", MCP_TIMEOUT="5")
    transport = transport_of("python -m 'a b'", get_settings())
    assert isinstance(transport, StdioTransport)
    assert (transport.command, transport.args) == (sys.executable, ["-m", "a b"])
    env = transport.env or {}
    assert env.keys() == {name for name in os.environ if name.startswith(("LOG_", "MASKED_", "PYTHON"))} - {
        "LOG_SHIPPER_URL"
    }
    assert (env["LOG_LEVEL"], env["MASKED_LOG"]) == ("DEBUG", "pin")


def test_server_at_a_url_gets_the_id_header(configure: Configure) -> None:
    configure(OUTBOUND_HOSTS="other.example")
    transport = transport_of("https://user:pass@host.example:8443/mcp", get_settings())
    assert isinstance(transport, StreamableHttpTransport)
    assert transport.httpx_client_factory
    client = transport.httpx_client_factory()
    assert isinstance(client, OutboundAsyncClient)
    with TaskRecord(ID, "task"):
        for host, sent in {
            "host.example:8443": ID,
            "host.example": None,
            "other.example": ID,
            "evil.example": None,
        }.items():
            request = client._correlation.stamp(httpx2.Request("POST", f"https://{host}/mcp"))
            assert request.headers.get(HEADER) == sent, host
    asyncio.run(client.aclose())


def test_stdio_server_exits_on_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_PATH")
    command = [sys.executable, "-m", "app.integrations.mcp"]
    with ExitStack() as stack:
        running = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
            running[number] = stack.enter_context(process)
            stack.callback(process.kill)
        for number, process in running.items():
            assert process.stderr
            output = next(line for line in process.stderr if "Starting MCP server" in line)
            process.send_signal(number)
            assert process.wait(30) == 0
            assert "Traceback" not in output + process.stderr.read()


PYTHON_LEVELS = dict.fromkeys(("critical", "alert", "emergency"), "CRITICAL") | {"notice": "INFO", "rumour": "WARNING"}
PYTHON_LEVELS |= {level: level.upper() for level in ("debug", "info", "warning", "error")}


@pytest.mark.parametrize("level", PYTHON_LEVELS)
def test_message_becomes_a_log_record(configure: Configure, logs: Logs, level: str) -> None:
    configure(LOG_FORMAT="json", LOG_LEVEL="DEBUG")
    measurements: list[tuple[str, dict[str, str]]] = []
    metric_observers["test"] = lambda name, seconds, labels: measurements.append(
        (name, {**labels, "ok": str(0 <= seconds < 5)})
    )
    extra = {"name": "n", "args": 1, "server": "forged", "exc_info": True, "msg": "m", "request_id": "forged"}
    extra |= {"suppressed": 9, "trace_id": "forged", "n": 5, "": "nameless", "two\nlines": "\x1b[31m"}
    reserved = ("message", "pid", "level", "timestamp", "stack_info", "file", "taskName", "logger_name", "mcp_level")
    extra |= {name: f"its {name}" for name in reserved}
    write(Message.parse("one", level, None, {"msg": "100 % done %s", "extra": extra}, ID))
    line = json.loads(logs.error[-1])
    assert line["level"] == PYTHON_LEVELS[level]
    assert (line["message"], line["request_id"], line["logger"]) == ("one: 100 % done %s", ID, "app.mcp.one")
    assert (line["server"], line["server_"], line["mcp_level"], line["logger_name"]) == ("one", "forged", level, "-")
    assert (line["name_"], line["args_"], line["exc_info_"], line["msg_"], line["n"]) == ("n", 1, True, "m", 5)
    assert (line["suppressed_"], line["trace_id_"]) == (9, "forged")
    for name in reserved:
        assert f"its {name}" in (line.get(name), line.get(f"{name}_")), name
    assert not line.keys() & {"suppressed", "trace_id", "request_id_"}
    assert measurements == [("mcp_log_message", {"server": "one", "level": level, "ok": "True"})]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("plain", "one: plain"),
        (None, 'one: {"data":null}'),
        ([1, {"a": 2}], 'one: {"data":[1,{"a":2}]}'),
        ({"other": 1}, 'one: {"data":{"other":1}}'),
        ({"msg": {"a": 1}, "extra": "none"}, 'one: {"data":{"a":1}}'),
        ({"msg": "x", "extra": {"a": 1, "two words": "b c"}}, "one: x a=1 two words='b c'"),
        ({"msg": "y" * 99_999}, "one: " + "y" * MAX_TEXT),
        ({"msg": "z", "extra": {"a": "b" * MAX_TEXT}}, f"one: z extra_omitted={MAX_TEXT + 8}"),
        ({"msg": f"password={SECRET}", "extra": {"token": SECRET}}, "one: password=*** token=***"),
        ("a\n2026-10-01 forged", "one: a\\n2026-10-01 forged"),
    ],
)
def test_text_of_a_message_of_any_form(configure: Configure, logs: Logs, data: object, text: str) -> None:
    configure()
    write(Message.parse("one", "info", "theirs", data, ID))
    assert logs.error[-1].endswith(f" INFO [{ID}] {text}")


def test_log_id_length_applies_to_messages(configure: Configure, logs: Logs) -> None:
    configure(LOG_ID_LENGTH="8")
    write(Message.parse("one", "info", None, "short", ID))
    assert logs.error[-1].endswith(f" INFO [{ID[:8]}] one: short")


class BlockedHandler(logging.Handler):
    """A handler that blocks until `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.released.wait(10)
        self.texts.append(record.getMessage())


def test_messages_beyond_the_queue_limit_are_dropped_and_counted(configure: Configure) -> None:
    configure()
    slow = BlockedHandler()
    logging.getLogger("app").addHandler(slow)
    writer, began, sent = MessageWriter(), time.monotonic(), MAX_QUEUED + 500
    for number in range(sent):
        writer.put(Message.parse("one", "info", None, f"{number}", ID))
    assert time.monotonic() - began < 5
    slow.released.set()
    writer.close(10)
    written = [message for message in slow.texts if message.startswith("one: ")]
    (report,) = [message for message in slow.texts if "were dropped" in message]
    assert len(written) + int(report.split()[0]) == sent
    assert MAX_QUEUED <= len(written) <= MAX_QUEUED + 1
    assert written == [f"one: {number}" for number in range(len(written))]


def test_claimed_id_is_accepted_only_while_its_call_is_in_flight(configure: Configure) -> None:
    configure()
    ids: list[str] = []

    class RecordingWriter(MessageWriter):
        def put(self, message: Message) -> None:
            ids.append(message.request_id)

    writer = RecordingWriter()
    one = Server("one", "true", get_settings(), 5, writer)

    def id_of_message(claimed: object, *in_flight: str) -> str:
        one._in_flight.clear()
        one._in_flight.update(in_flight)
        data = {"msg": "x", "extra": {"request_id": claimed}} if claimed else "x"
        asyncio.run(one._on_message(LogMessage(level="info", data=data)))
        return ids[-1]

    assert id_of_message("first-id", "first-id", "second-id") == "first-id"
    assert id_of_message("third-id", "first-id", "second-id") == "-"  # no call with this ID is in flight
    assert id_of_message(None, "first-id", "second-id") == "-"
    assert id_of_message(None, "first-id") == "first-id"
    assert id_of_message({"no": "text"}, "first-id") == "first-id"
    assert id_of_message("first-id") == "-"
    with TaskRecord("second-id", "task"):
        assert id_of_message(None, "first-id", "second-id") == "second-id"
    writer.close(1)


def test_newest_results_are_kept(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure()
    monkeypatch.setattr(tools, "MAX_STORED", 5)
    stored.clear()

    async def store() -> None:
        async with Client(server) as client:
            for number in range(7):
                await client.call_tool("store_result", {"result": {"number": number}})

    asyncio.run(store())
    assert [one["number"] for one in stored.values()] == [*range(2, 7)]
    stored.clear()


def test_request_record_is_unbound_after_a_call(configure: Configure) -> None:
    configure()

    async def call_once() -> None:
        async with Client(server) as client:
            await client.call_tool("train_model", {"values": [1, 2]})
            assert current_record.get() is None

    asyncio.run(call_once())
