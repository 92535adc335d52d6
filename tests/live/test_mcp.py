"""MCP over real sockets and pipes: one ID in the client's hands, in each log, and in what other servers say."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import NamedTuple

import pytest

from tests.support.client import Answer, Json, build_request, new_id
from tests.support.lines import AppLine, parse_app
from tests.support.process import Process
from tests.support.service import Service
from tests.support.waiting import wait_for

HERE = Path(__file__).parent
MODERN, LEGACY = "2026-07-28", "2025-11-25"
MODES = {MODERN: MODERN, LEGACY: "legacy"}
OWN = "python -m app.integrations.mcp"
ID_KEY = "x-request-id"
SECRET = "hunter2"
VALUES = [1.0, 2.0, 3.0, 4.0]
TIMEOUT = 4  # seconds: a server of our own takes two to start, where the machine has other things to do
ENV = {"FASTSTREAM_CONSUME": "false", "MCP_TIMEOUT": "60"}


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with tools to probe it by, an endpoint that calls those of others, and a hostile server beside it."""
    project = tmp_path_factory.mktemp("mcp") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    mcp = project / "app/integrations/mcp"
    shutil.copy(HERE / "mcp_tools_probe.py", mcp / "probe_tools.py")
    with (mcp / "tools.py").open("a") as tools:
        tools.write("\nfrom app.integrations.mcp import probe_tools  # noqa: F401, E402\n")
    probe = project / "app/integrations/mcp_probe"
    probe.mkdir()
    shutil.copy(HERE / "mcp_probe.py", probe / "__init__.py")
    shutil.copy(HERE / "mcp_hostile.py", project / "hostile.py")
    return project


def started(project: Path, work: Path, servers: Mapping[str, str] | None = None, **more: Json) -> Service:
    """Return the service, not started yet; `servers`: those that it calls."""
    env = {**ENV, "LOG_FORMAT": "json", **more.pop("env", {})}
    if servers:
        env["MCP_SERVERS"] = json.dumps(servers)
    return Service(project, work, app="app.main:app", env=env, **more)


@pytest.fixture(scope="module")
def served(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers that write text."""
    with started(probed, tmp_path_factory.mktemp("served"), env={"LOG_FORMAT": "text", "MCP_LOG_LEVEL": "debug"}) as it:
        yield it


# What a client of the protocol sees


def ask(service: Service, kind: str, protocol: str, calls: list[Json]) -> list[Json]:
    """Let a client of the project's own packages make the calls, each on a connection of its own, all at once."""
    return ask_all(service, [{"kind": kind, "protocol": protocol, **call} for call in calls])


def ask_all(service: Service, calls: list[Json]) -> list[Json]:
    """Do the same where each call says by which client and which protocol it is made."""
    for call in calls:
        call["mode"] = MODES[call["protocol"]]
    plan = {"url": f"http://127.0.0.1:{service.port}/mcp", "calls": calls}
    command = [str(service.project / ".venv/bin/python"), str(HERE / "mcp_client_probe.py")]
    done = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: list[Json] = json.loads(done.stdout)
    assert [one["protocol"] for one in seen] == [call["protocol"] for call in calls]
    return seen


def analysis(request_id: str, values: list[float] = VALUES) -> Json:
    """Return a call of a tool of the demo."""
    return {"id": request_id, "tool": "analyze_data", "arguments": {"values": values}}


CLIENTS = [(kind, protocol) for kind in ("sdk", "fastmcp") for protocol in MODES]
NAMES = [" ".join(pair) for pair in CLIENTS]


@pytest.mark.parametrize(("kind", "protocol"), CLIENTS, ids=NAMES)
def test_one_id(served: Service, kind: str, protocol: str) -> None:
    """In the header, the result, the messages, the access lines and the lines of the tool: the same."""
    request_id = new_id("mcp")
    (seen,) = ask(served, kind, protocol, [analysis(request_id)])
    assert {tuple(values) for values in seen["headers"]} == {(request_id,)}
    assert seen["meta"][ID_KEY] == request_id
    assert [(one["level"], one["data"]["msg"]) for one in seen["messages"]][-2:] == [
        ("debug", "analysis begins"),
        ("info", "analysis complete"),
    ]
    assert {one["data"]["extra"]["request_id"] for one in seen["messages"]} == {request_id}
    accessed = served.access_lines(request_id)
    assert len(accessed) == len(seen["headers"])
    assert {line.target for line in accessed} == {"/mcp"}
    lines = served.app_lines(request_id, 2)
    assert [line.message for line in lines if line.file == "tools.py"][-1] == "analysis complete used=4 outliers=0"
    (last,) = [line for line in lines if line.message.startswith("tools/call analyze_data complete")]
    assert last.current_id not in (None, "-")
    assert {line.current_id for line in lines if line.file == "tools.py"} == {last.current_id}


@pytest.mark.parametrize(("kind", "protocol"), [("sdk", MODERN), ("fastmcp", LEGACY)])
def test_calls_do_not_mix(served: Service, kind: str, protocol: str) -> None:
    """Forty at once, over two workers: each ID has exactly its own messages, lines and result."""
    calls = [analysis(new_id(f"mix{n}"), [float(value) for value in range(n + 2)]) for n in range(40)]
    for number, (call, seen) in enumerate(zip(calls, ask(served, kind, protocol, calls), strict=True)):
        request_id = call["id"]
        assert seen["meta"][ID_KEY] == request_id
        assert {one["data"]["extra"]["request_id"] for one in seen["messages"]} == {request_id}
        assert [one["data"]["extra"].get("used") for one in seen["messages"]][-1] == number + 2
        lines = [line.message for line in served.app_lines(request_id, 2) if line.file == "tools.py"]
        assert lines == [f"analysis complete used={number + 2} outliers=0"]
    told = [line for line in parse_app(served.app_text())[0] if "tools/call analyze_data" in line.message]
    mine = [line for line in told if line.request_id in {call["id"] for call in calls}]
    assert len(mine) == len({line.current_id for line in mine}) == 40
    assert len({line.pid for line in mine}) == 2


# What is delivered in which mode

DELIVERY = [(stateless, as_json) for stateless in ("true", "false") for as_json in ("false", "true")]


@pytest.mark.parametrize(("stateless", "as_json"), DELIVERY)
def test_delivery(probed: Path, tmp_path: Path, stateless: str, as_json: str) -> None:
    """Event streams bring messages and progress, JSON only the result; both protocols, sessions or not."""
    env = {"MCP_STATELESS": stateless, "MCP_JSON_RESPONSE": as_json}
    with started(probed, tmp_path, env=env, workers=1 if stateless == "false" else 2) as service:
        what = {"tool": "train_model", "arguments": {"values": VALUES, "steps": 4}}
        calls: list[Json] = [{"id": new_id("mode"), "kind": kind, "protocol": which, **what} for kind, which in CLIENTS]
        for call, seen in zip(calls, ask_all(service, calls), strict=True):
            assert seen["meta"][ID_KEY] == call["id"]
            assert not seen["is_error"]
            delivered = ([one["data"]["msg"] for one in seen["messages"]], [done for done, _ in seen["progress"]])
            assert delivered == (([], []) if as_json == "true" else (["model trained"], [1, 2, 3, 4])), call
            (line,) = [line for line in service.app_lines(call["id"], 2) if line.file == "tools.py"]
            assert line.message == "model trained"


def test_sessions_need_one_worker(probed: Path, tmp_path: Path) -> None:
    """Sessions in several workers: it does not start, and says why."""
    with started(probed, tmp_path, env={"MCP_STATELESS": "false"}, workers=2, wait=False) as service:
        assert service.process.wait(30) != 0
        assert "MCP_STATELESS is false" in service.app_text()
        assert "set WORKERS=1" in service.app_text()
        assert "Traceback" not in service.app_text()


# Tools that fail, or say what is hard to say


@pytest.mark.parametrize(("kind", "protocol"), CLIENTS, ids=NAMES)
def test_a_tool_fails(served: Service, kind: str, protocol: str) -> None:
    """The client learns that it failed and under which ID; why it did stands in the log alone."""
    request_id, refused_id = new_id("fails"), new_id("refuses")
    calls: list[Json] = [
        {"id": request_id, "tool": "fails", "arguments": {}},
        {"id": refused_id, "tool": "refuses", "arguments": {}},
    ]
    failed, refused = ask(served, kind, protocol, calls)
    assert failed["is_error"]
    assert refused["is_error"]
    assert SECRET not in json.dumps(failed)
    assert "internal" not in json.dumps(failed)
    assert request_id in failed["text"]
    assert failed["meta"][ID_KEY] == request_id
    assert "Only even numbers, please." in refused["text"]
    (told,) = [one for one in failed["messages"] if one["level"] == "error"]
    assert told["data"]["extra"]["request_id"] == request_id
    raised = [line for line in served.app_lines(request_id, 2) if line.exception]
    assert len(raised) == 1
    assert "ValueError: hunter2-is-in-the-exception" in raised[0].exception
    assert raised[0].current_id not in (None, "-")
    ends = [line for line in served.app_records(request_id) if line.message.startswith("tools/call fails failed")]
    assert len(ends) == 1


@pytest.mark.parametrize("protocol", MODES)
def test_hard_to_say(served: Service, protocol: str) -> None:
    """Values that JSON does not know, that are round, large or secret break neither the tool nor the connection."""
    request_id = new_id("hard")
    (seen,) = ask(served, "fastmcp", protocol, [{"id": request_id, "tool": "says_what_json_lacks", "arguments": {}}])
    assert (seen["is_error"], seen["text"]) == (False, "said")
    said = {one["data"]["msg"][:5]: one["data"] for one in seen["messages"]}
    assert set(said) == {"hard ", "round", "large", "yyyyy", "two\nl"}
    assert said["hard "]["extra"]["nan"] is None
    assert said["hard "]["extra"]["name"] == "a"
    assert said["large"]["extra"] == {"extra_omitted": 5_000_011, "request_id": request_id}
    assert len(said["yyyyy"]["msg"]) < 20_000
    assert SECRET not in json.dumps(seen)
    lines = served.app_lines(request_id, 5)
    assert any(line.message.startswith("two\\nlines \\u001b[31m password=***") for line in lines)
    assert not any(line.exception for line in lines), lines


def test_a_client_goes_away(served: Service) -> None:
    """In the middle of a long tool: a line says how it ended, and the next call is served."""
    request_id = new_id("gone")
    with served.connect() as connection:
        connection.send(modern_call(request_id, "takes", {"seconds": 20}))
        served.app_lines(request_id, 2)
        connection.abort()
    wait_for(lambda: [line for line in served.app_records(request_id) if " cancelled " in line.message], "TODO-WHAT")
    lines = served.app_records(request_id)
    assert [line.message for line in lines if line.message == "long tool ends"]
    assert not any(line.exception for line in lines), lines
    assert served.access_line(request_id).flags
    after = ask(served, "sdk", MODERN, [analysis(new_id("after")) for _ in range(4)])
    assert not any(seen["is_error"] for seen in after)


def modern_call(request_id: str, tool: str, arguments: Json, **meta: Json) -> bytes:
    """Return a call as bytes of HTTP, by the protocol that has no handshake."""
    prefix = "io.modelcontextprotocol/"
    known = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientInfo": {"name": "raw", "version": "1"}}
    known |= {f"{prefix}clientCapabilities": {}, f"{prefix}logLevel": "debug", **meta}
    params = {"name": tool, "arguments": arguments, "_meta": known}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Host": "127.0.0.1"}
    headers |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return build_request("POST", "/mcp", headers.items(), body, request_id=request_id)


def test_the_header_wins(served: Service) -> None:
    """Over HTTP the request has an ID already: one in the message's own `_meta` changes nothing."""
    request_id, other = new_id("header"), new_id("meta")
    call = modern_call(request_id, "analyze_data", {"values": VALUES}, **{ID_KEY: other})
    answer = served.raw(call, "POST")
    assert answer.status == 200, answer
    assert answer.one() == request_id
    assert other not in answer.body.decode()
    assert request_id in answer.body.decode()
    assert not served.app_records(other)


# Over standard input and output


class Stdio(Process):
    """A server that is a process, and what it says."""

    def __init__(self, project: Path, work: Path, **env: str) -> None:
        super().__init__(work)
        self.project, self.env = project, {"PATH": os.environ["PATH"], "HOME": str(work), **env}

    def talk(self, *messages: Json) -> list[Json]:
        """Send messages, close its input, and return what it wrote until its end: nothing but JSON-RPC."""
        self.work.mkdir(parents=True, exist_ok=True)
        command = [str(self.project / ".venv/bin/python"), "-m", "app.integrations.mcp"]
        with self.stderr.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=self.project, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err
            )
            assert self._process.stdin
            assert self._process.stdout
            for message in messages:
                self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
                self._process.stdin.flush()
            wanted = sum("id" in message for message in messages)
            said: list[Json] = []
            while sum("id" in one for one in said) < wanted:
                line = self._process.stdout.readline()
                assert line, self.stderr.read_text()[-3000:]
                said.append(json.loads(line))
            rest, _ = self._process.communicate(timeout=20)
            assert not rest, rest
        assert self._process.returncode == 0
        assert all(one["jsonrpc"] == "2.0" for one in said)
        return said


SHAKE = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
HANDSHAKE: list[Json] = [
    {"id": 0, "method": "initialize", "params": SHAKE},
    {"method": "notifications/initialized"},
]


def tool_call(number: int, tool: str, arguments: Json, **meta: Json) -> Json:
    """Return a call as a message."""
    return {"id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": meta}}


@pytest.mark.parametrize("to_file", [False, True])
def test_stdio(probed: Path, tmp_path: Path, to_file: bool) -> None:
    """Nothing but the protocol on the standard output; the ID of `_meta` in lines and messages, a doubtful one not."""
    logs = tmp_path / "logs"
    env = {"LOG_LEVEL": "DEBUG", **ENV, **({"LOG_PATH": str(logs)} if to_file else {})}
    good, doubtful = new_id("stdio"), "forged\n2026-01-01 INFO x"
    server = Stdio(probed, tmp_path / "server", **env)
    said = server.talk(
        *HANDSHAKE,
        tool_call(1, "analyze_data", {"values": VALUES}, **{ID_KEY: good}),
        tool_call(2, "analyze_data", {"values": VALUES}, **{ID_KEY: doubtful}),
        tool_call(3, "fails", {}, **{ID_KEY: good}),
        tool_call(4, "takes_a_thread", {}, **{ID_KEY: good}),
    )
    results = {one["id"]: one["result"] for one in said if "id" in one}
    assert results[1]["_meta"][ID_KEY] == good
    replaced = results[2]["_meta"][ID_KEY]
    assert len(replaced) == 36
    assert results[3]["isError"]
    assert SECRET not in json.dumps(said)
    server.log_path = logs if to_file else None
    lines, strays = parse_app(server.app_text())
    assert not strays
    threads = [line for line in lines if line.message.startswith("in a thread")]
    assert {line.request_id for line in threads} == {good}
    assert {line.request_id for line in lines if line.message.startswith("analysis complete")} == {good, replaced}
    messages = [one["params"]["data"] for one in said if one.get("method") == "notifications/message"]
    assert {one["extra"]["request_id"] for one in messages} == {good, replaced}


# The client half: three servers of our own


class Told(NamedTuple):
    """A record of what another server said, all its keys, and who wrote it."""

    record: AppLine
    keys: Json


def records(service: Service, label: str | None = None) -> list[Told]:
    """Return what other servers, or one of them, said, as far as it is written."""
    found = []
    for line in service.app_text().split("\n"):
        if '"mcp_level":' in line:
            (record,), _ = parse_app(line)
            found.append(Told(record, json.loads(line)))
    return [told for told in found if label in (None, told.keys["server"])]


def post(service: Service, target: str, body: Json, request_id: str | None = None) -> Answer:
    """Send JSON."""
    return service.request("POST", target, JSON, json.dumps(body).encode(), request_id=request_id)


def wait_for_records(service: Service, label: str, request_id: str, number: int = 1) -> list[Told]:
    """Wait for what a server said in a request's call."""

    def mine() -> list[Told]:
        return [one for one in records(service, label) if one.record.request_id == request_id]

    wait_for(lambda: len(mine()) >= number, f"{number} record(s) of {label}")
    return mine()


JSON = [("Content-Type", "application/json")]


def call(service: Service, label: str, tool: str, request_id: str | None = None, /, **arguments: Json) -> Answer:
    """Let the service call a tool of another server."""
    return post(service, f"/probe/mcp/{label}/{tool}", arguments, request_id)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*own, *(one for child in own for one in children(child))]


def alive(pids: list[int]) -> list[int]:
    """Return those of the processes that have not ended."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [pid for pid, state in states.items() if state.exists() and " Z " not in state.read_text()]


SAID: dict[str, tuple[str, Json]] = {
    "analytics": ("analysis complete", {"used": 3, "outliers": 0}),
    "model": ("model trained", {"steps": 10, "slope": 1.0}),
    "store": ("result stored", {"key": None}),
}


def test_the_demo(probed: Path, tmp_path: Path) -> None:
    """Forty requests at once through three servers: each ID has its own lines in four processes, and nobody else's."""
    servers = dict.fromkeys(SAID, OWN)
    with started(probed, tmp_path, servers, workers=1) as service:
        ids = [new_id(f"demo{n}") for n in range(40)]

        def ask_one(request_id: str) -> str:
            answer = post(service, "/api/mcp/demo", {"values": [1, 2, 3]}, request_id)
            assert (answer.status, answer.one()) == (200, request_id), answer
            return str(answer.json()["result"])

        with ThreadPoolExecutor(40) as threads:
            keys = dict(zip(ids, threads.map(ask_one, ids), strict=True))
        assert len(set(keys.values())) == 40
        wait_for(lambda: len(records(service)) >= 120, "120 records")
        (own_pid,) = service.workers()
        assert len(children(own_pid)) == 3
        every_record, every_line = records(service), parse_app(service.app_text())[0]
        for request_id in ids:
            lines = [line for line in every_line if line.request_id == request_id]
            told = [one for one in every_record if one.record.request_id == request_id]
            assert {one.keys["server"]: one.record.message for one in told} == {
                label: f"{label}: {text}" for label, (text, _) in SAID.items()
            }
            assert len(told) == 3
            for one in told:
                values = SAID[one.keys["server"]][1]
                wanted = {name: keys[request_id] if name == "key" else value for name, value in values.items()}
                assert {name: one.keys[name] for name in wanted} == wanted
                assert (one.keys["mcp_level"], one.keys["logger_name"]) == ("info", "-")
                assert (one.record.level, one.record.pid) == ("INFO", own_pid)
            theirs = [line for line in lines if line.file == "tools.py"]
            assert Counter(line.message for line in theirs) == Counter(text for text, _ in SAID.values())
            assert len({line.pid for line in theirs}) == 3
            assert own_pid not in {line.pid for line in theirs}
        pids = children(own_pid)
        assert service.stop() == 0
        assert not alive(pids)


LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "notice": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "critical": "CRITICAL",
    "alert": "CRITICAL",
    "emergency": "CRITICAL",
}


def test_levels(probed: Path, tmp_path: Path) -> None:
    """All eight levels, over HTTP from the service itself and over stdio, as those of standard logging."""
    with started(probed, tmp_path, {"pipe": "python hostile.py"}, env={"LOG_LEVEL": "DEBUG"}, workers=1) as it:
        request_id = new_id("levels")
        said = {"logger": "its own", "data": {"msg": "said", "extra": {"n": 1}}}
        messages = [{"level": level, **said} for level in LEVELS]
        assert call(it, "pipe", "say", request_id, messages=messages).status == 200
        wait_for(lambda: len(records(it)) == 8, "TODO-WHAT")
        assert {one.keys["mcp_level"]: one.record.level for one in records(it)} == LEVELS
        assert {one.record.request_id for one in records(it)} == {request_id}
        assert {one.keys["logger_name"] for one in records(it)} == {"its own"}
        assert {one.keys["n"] for one in records(it)} == {1}


# The client half: servers that are not as they should be


@pytest.fixture(scope="module")
def hostile(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker with a good server and a bad one."""
    servers = {"bad": "python hostile.py", "good": OWN}
    work = tmp_path_factory.mktemp("hostile")
    with started(probed, work, servers, env={"MCP_TIMEOUT": f"{TIMEOUT}"}, workers=1) as service:
        wait_for(
            lambda: call(service, "good", "analyze_data", values=VALUES).status == 200, "the good server", seconds=60
        )
        yield service


def assert_well(service: Service) -> None:
    """The other server answers, and so does the service itself."""
    request_id = new_id("well")
    answer = call(service, "good", "analyze_data", request_id, values=VALUES)
    assert answer.status == 200, answer
    wait_for_records(service, "good", request_id)
    assert service.request("GET", "/livez").status == 200


def assert_back(service: Service, label: str = "bad") -> None:
    """The bad one is used again."""
    wait_for(lambda: call(service, label, "own_pid").json()["result"], "its return")


GARBAGE = [
    "", "nonsense", "{}", "[]", "null", "\x1b[31m", '{"jsonrpc":"2.0"}', '{"jsonrpc":"2.0","id":999,"result":{}}',
    '{"jsonrpc":"2.0","method":"notifications/message"}',
    '{"jsonrpc":"2.0","method":"notifications/message","params":[]}',
    '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"loud","data":"x"}}',
    '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":7,"data":"x"}}',
    '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}',
    '{"jsonrpc":"2.0","method":"notifications/unknown","params":{}}',
    '{"jsonrpc":"2.0","method":"no/such","id":"7","params":{}}',
    '{"jsonrpc":"2.0","method":"sampling/createMessage","id":8,"params":{}}',
]  # fmt: skip
DATA = ["plain text", 5, None, True, [1, 2], {"no": "msg"}, {"msg": 5}, {"msg": {"a": [1]}}, {"msg": "m", "extra": "e"}]


def test_garbage(hostile: Service) -> None:
    """What is no message is passed over, and data of whatever kind is written."""
    request_id = new_id("garbage")
    messages = [{"level": "info", "data": data} for data in DATA]
    answer = call(hostile, "bad", "say", request_id, lines=GARBAGE, messages=messages)
    assert (answer.status, answer.json()["result"]) == (200, "said"), answer
    told = [one.record.message for one in wait_for_records(hostile, "bad", request_id, len(DATA))]
    assert len(told) == len(DATA)
    assert told[:2] == ["bad: plain text", 'bad: {"data":5}']
    assert "could not be written" not in hostile.app_text()
    assert not parse_app(hostile.app_text())[1]
    assert_well(hostile)


EXTRA = {
    **{name: f"its {name}" for name in ("name", "message", "msg", "args", "exc_info", "server", "mcp_level", "pid")},
    **{name: f"its {name}" for name in ("logger_name", "level", "timestamp", "stack_info", "file", "taskName")},
    "two\nlines": "two\nlines \x1b[31m",
    "password": f"{SECRET}-of-theirs",
    "": "nameless",
}


def test_hostile_extras(hostile: Service) -> None:
    """No name breaks a record or passes for one of ours; no value makes a second line, or is a secret."""
    request_id = new_id("extras")
    message = {"level": "error", "logger": "l\nogger", "data": {"msg": "m\n2026-01-01 forged", "extra": EXTRA}}
    nan = '{"level":"info","data":{"msg":"nan","extra":{"nan":NaN,"inf":Infinity}}}'
    assert call(hostile, "bad", "say", request_id, messages=[message, nan]).status == 200
    assert call(hostile, "bad", "big", request_id, size=5_000_000).status == 200

    def told() -> dict[str, Told]:
        mine = [one for one in records(hostile, "bad") if one.record.request_id == request_id]
        return {one.record.message[5:10].strip(): one for one in mine}

    wait_for(lambda: {"large", "deep"} <= set(told()), "the last")
    first = told()["m\n202"]
    assert first.record.message == "bad: m\n2026-01-01 forged"
    assert (first.keys["server"], first.keys["mcp_level"], first.record.level) == ("bad", "error", "ERROR")
    for name in EXTRA.keys() - {"two\nlines", "password", ""}:
        assert f"its {name}" in (first.keys.get(name), first.keys.get(f"{name}_")), name
    assert first.keys["password"] == "***"
    assert SECRET not in hostile.app_text()
    assert max(map(len, hostile.app_text().split("\n"))) < 60_000
    assert "could not be written" not in hostile.app_text()
    assert_well(hostile)


def test_a_claimed_id(hostile: Service) -> None:
    """A server that names the ID of a request which does not call it is not believed."""
    other, request_id = new_id("victim"), new_id("claimer")
    messages = [{"level": "info", "data": {"msg": "claim", "extra": {"request_id": other}}}]
    assert call(hostile, "bad", "say", request_id, messages=messages).status == 200
    wait_for_records(hostile, "bad", request_id)
    assert not hostile.app_records(other)
    assert other not in hostile.app_text()


@pytest.mark.parametrize("how", ["idle", "in a call"])
def test_it_dies(hostile: Service, how: str) -> None:
    """Killed: its callers are told at once, the others do not notice, and it is started again."""
    assert_back(hostile)
    pid = int(call(hostile, "bad", "own_pid").json()["result"])
    if how == "idle":
        with suppress(ProcessLookupError):  # what the test before did to it may have ended it just now
            os.kill(pid, SIGKILL)
        wait_for(lambda: not alive([pid]), "TODO-WHAT")
    else:
        request_id, began = new_id("dies"), time.monotonic()
        answer = call(hostile, "bad", "die", request_id)
        assert (answer.status, answer.json()["cause"]) == (503, "The MCP server bad does not answer.")
        assert time.monotonic() - began < TIMEOUT - 1
        assert [line for line in hostile.app_lines(request_id) if "bad does not answer" in line.message]
    assert_well(hostile)
    answer = call(hostile, "bad", "own_pid")
    assert answer.status == 200, answer
    assert int(answer.json()["result"]) != pid


def test_it_hangs_in_a_call(hostile: Service) -> None:
    """Stopped: its caller waits for MCP_TIMEOUT, the others not at all, and it is started anew; the old one ends."""
    assert_back(hostile)
    pid = int(call(hostile, "bad", "own_pid").json()["result"])
    try:
        with ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            waiting = threads.submit(call, hostile, "bad", "hang")
            assert_well(hostile)
            assert waiting.result().status == 503
            assert TIMEOUT - 0.1 < time.monotonic() - began < TIMEOUT + 3
        assert_back(hostile)
        assert int(call(hostile, "bad", "own_pid").json()["result"]) != pid
        wait_for(lambda: not alive([pid]), "its end")
    finally:
        for one in alive([pid]):
            os.kill(one, SIGKILL)


def test_it_hangs_at_connect(probed: Path, tmp_path: Path) -> None:
    """A process that says nothing, and ends for nobody: callers wait for MCP_TIMEOUT; nothing is left of it."""
    servers = {"mute": "python hostile.py --mute --deaf", "none": "no-such-command", "good": OWN}
    with started(probed, tmp_path, servers, env={"MCP_TIMEOUT": f"{TIMEOUT}"}, workers=1) as service:
        wait_for(
            lambda: call(service, "good", "analyze_data", values=VALUES).status == 200, "the good server", seconds=60
        )
        began = time.monotonic()
        with ThreadPoolExecutor(3) as threads:
            waiting = [threads.submit(call, service, "mute", "own_pid") for _ in range(2)]
            assert_well(service)
            answers = [one.result() for one in waiting]
        assert [answer.status for answer in answers] == [503, 503]
        took = time.monotonic() - began
        sys.stdout.write(f"told after {took:.2f} s\n")
        assert TIMEOUT - 0.1 < took < TIMEOUT + 2
        began = time.monotonic()
        assert call(service, "none", "own_pid").status == 503
        assert time.monotonic() - began < TIMEOUT - 1
        assert "Traceback" not in service.app_text()
        (worker,) = service.workers()
        wait_for(lambda: len(children(worker)) == 1, "end of the mute one")
        time.sleep(1.1)  # it is not tried again before
        threading.Thread(target=answers_to, args=(service, "mute"), daemon=True).start()
        wait_for(lambda: len(children(worker)) == 2, "TODO-WHAT")
        pids = children(worker)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 20
        assert not alive(pids)
        assert "did not stop" not in service.app_text()


def test_it_ends_while_one_hangs(probed: Path, tmp_path: Path) -> None:
    """A service that is told to end does so in time, and leaves no process, not even one that is stopped."""
    servers = {"bad": "python hostile.py", "good": OWN}
    with started(probed, tmp_path, servers, workers=1) as service:
        assert_well(service)
        pid = int(call(service, "bad", "own_pid").json()["result"])
        os.kill(pid, SIGSTOP)
        began = time.monotonic()
        try:
            assert service.stop() == 0
            assert time.monotonic() - began < 20
            assert not alive([pid])
        finally:
            for one in alive([pid]):
                os.kill(one, SIGKILL)
        assert "did not stop" not in service.app_text()
        at = {line.message: datetime.fromisoformat(line.timestamp) for line in parse_app(service.app_text())[0]}
        waited = at["Application shutdown complete."] - at["Waiting for application shutdown."]
        assert waited > timedelta(seconds=1.5), "the lifespan has left it to others"


def test_a_worker_is_killed(probed: Path, tmp_path: Path) -> None:
    """Its servers end with it, and the next worker starts its own."""
    with started(probed, tmp_path, {"bad": "python hostile.py", "good": OWN}, workers=1) as service:
        assert_well(service)
        assert_back(service)
        (worker,) = service.workers()
        pids = children(worker)
        assert len(pids) == 2
        os.kill(worker, SIGKILL)
        wait_for(lambda: not alive(pids), "the end of its servers")
        wait_for(lambda: service.workers() not in ([], [worker]), "the next worker")
        wait_for(lambda: answers(service), "its answer")
        assert_well(service)


def answers(service: Service) -> bool:
    """Tell whether somebody answers."""
    try:
        return service.request("GET", "/livez").status == 200
    except (OSError, EOFError):
        return False


def answers_to(service: Service, label: str) -> bool:
    """Tell whether a call comes through, while the service may be ending."""
    try:
        return call(service, label, "own_pid").status == 200
    except (OSError, EOFError):
        return False


class Watch:
    """Asks /livez again and again, and looks at the memory of a process, while a block runs."""

    def __init__(self, service: Service, pid: int) -> None:
        self.service, self.pid = service, pid
        self.seconds: list[float] = []
        self.kibibytes: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        ordered = sorted(self.seconds)
        sys.stdout.write(
            f"/livez: {len(ordered)} times, median {ordered[len(ordered) // 2] * 1000:.1f} ms, "
            f"99 % {ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms, longest {ordered[-1] * 1000:.1f} ms; "
            f"memory {self.kibibytes[0] // 1024} to {max(self.kibibytes) // 1024} MiB\n"
        )

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            assert self.service.request("GET", "/livez").status == 200
            self.seconds.append(time.monotonic() - began)
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.kibibytes.append(int(status.partition("VmRSS:")[2].split()[0]))
            time.sleep(0.02)


def written_and_left_out(service: Service, label: str, text: str) -> tuple[int, int]:
    """Return how many messages were written, and how many are told to have been too many."""
    lines = [json.loads(line) for line in service.app_text().split("\n")[:-1] if line.startswith("{")]
    written = sum(line.get("server") == label and text in line["message"] for line in lines)
    told = [line["message"].split() for line in lines if line["message"].endswith("were too many to be written")]
    return written, sum(int(words[0]) for words in told if words[6] == label)


def assert_all_counted(service: Service, number: int) -> None:
    """Each message of the flood is written, or told once to have been too many."""
    wait_for(lambda: sum(written_and_left_out(service, "bad", "flood")) >= number, "every message")
    time.sleep(0.2)
    written, left_out = written_and_left_out(service, "bad", "flood")
    sys.stdout.write(f"{written} written, {left_out} too many\n")
    assert written + left_out == number


@pytest.mark.parametrize("slow", ["", "0.003"], ids=["sink", "slow sink"])
def test_flood(probed: Path, tmp_path: Path, slow: str) -> None:
    """10,000 messages in each of three seconds: the loop goes on, memory stays, and each message is accounted for."""
    servers = {"bad": "python hostile.py", "good": OWN}
    env = {"PROBE_SLOW_SINK": slow} if slow else {}
    with started(probed, tmp_path, servers, env=env, workers=1) as service:
        assert_well(service)
        assert_back(service)
        (worker,) = service.workers()
        request_id, number = new_id("flood"), 30_000
        with Watch(service, worker) as watch, ThreadPoolExecutor(1) as threads:
            flooded = threads.submit(
                call, service, "bad", "flood", request_id, number=number, per_second=10_000, request_id=request_id
            )
            ids = [new_id("beside")]
            while not flooded.done():
                assert call(service, "good", "analyze_data", ids[-1], values=VALUES).status == 200
                ids.append(new_id("beside"))
                time.sleep(0.1)
            answer = flooded.result()
            assert answer.status == 200, answer
            sys.stdout.write(f"the server took {answer.json()['result']} s\n")
        assert_all_counted(service, number)
        assert "were too many" in service.app_text() or not slow
        assert sorted(watch.seconds)[int(len(watch.seconds) * 0.9)] < 0.5
        assert max(watch.kibibytes) - watch.kibibytes[0] < 64 * 1024
        told = [one.record for one in records(service, "bad")]
        assert {one.request_id for one in told} == {request_id}
        beside = {one.record.request_id for one in records(service, "good")}
        assert set(ids[:-1]) <= beside
        if slow:
            with Watch(service, worker) as watch:
                answer = call(service, "bad", "flood", request_id, number=1100, per_second=9000, lists=1500)
                assert answer.status == 200, answer
            assert max(watch.kibibytes) - watch.kibibytes[0] < 48 * 1024
        later = new_id("later")
        assert call(service, "bad", "say", later, messages=[{"level": "info", "data": "later"}]).status == 200
        wait_for_records(service, "bad", later)
        assert_all_counted(service, number + (1100 if slow else 0))


def test_over_http(probed: Path, tmp_path: Path) -> None:
    """A server behind a URL: gone, back at the same port, hanging, and the service itself, under one ID."""
    with started(probed, tmp_path / "other", workers=2) as other:
        port = other.port
        hostile = Hostile(probed, tmp_path / "hostile")
        servers = {"bad": f"http://127.0.0.1:{hostile.port}/mcp", "good": f"http://127.0.0.1:{port}/mcp"}
        with started(probed, tmp_path / "service", servers, env={"MCP_TIMEOUT": "2"}, workers=1) as service:
            refused = [new_id("refused") for _ in range(3)]
            assert [call(service, "bad", "own_pid", one).status for one in refused] == [503, 503, 503]
            with hostile:
                assert_back(service)
                claims = [{"level": "info", "data": {"msg": "claim", "extra": {"request_id": one}}} for one in refused]
                assert call(service, "bad", "say", messages=claims).status == 200
                wait_for(lambda: len(records(service, "bad")) == len(claims), "TODO-WHAT")
                assert not {one.record.request_id for one in records(service, "bad")} & set(refused)
                answer = call(service, "bad", "say", lines=["nonsense"])
                assert (answer.status, answer.json()["cause"]) == (503, "The MCP server bad does not answer.")
                for _ in range(6):
                    request_id = new_id("http")
                    messages = [{"level": "info", "data": {"msg": "over http", "extra": {}}}]
                    assert call(service, "bad", "say", request_id, messages=messages).status == 200
                    wait_for_records(service, "bad", request_id)
                    mine = new_id("own")
                    assert call(service, "good", "analyze_data", mine, values=VALUES).status == 200
                    assert {line.target for line in other.access_lines(mine)} == {"/mcp"}
                    assert [line for line in other.app_lines(mine, 2) if line.message == "analysis complete"]
                    wait_for_records(service, "good", mine)
                os.kill(hostile.process.pid, SIGSTOP)
                began = time.monotonic()
                assert call(service, "bad", "own_pid").status == 503
                assert 1.9 < time.monotonic() - began < 6
                assert_well(service)
                os.kill(hostile.process.pid, SIGCONT)
                assert_back(service)
            assert call(service, "bad", "own_pid").status == 503
            assert_well(service)
            with hostile:
                assert_back(service)
            # Back before anybody has noticed: it does not know the session any more.
            with hostile:
                assert_back(service)
                assert call(service, "bad", "own_pid").json()["result"] == f"{hostile.process.pid}"
            assert service.stop() == 0


class Hostile(Process):
    """The hostile server over HTTP, at a port that stays."""

    def __init__(self, project: Path, work: Path) -> None:
        super().__init__(work)
        work.mkdir()
        self.project = project
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def __enter__(self) -> Hostile:
        with self.stdout.open("ab") as out, self.stderr.open("ab") as err:
            command = [sys.executable, str(self.project / "hostile.py"), f"{self.port}"]
            self._process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        wait_for(self._listens, "the hostile server")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, *_: object) -> None:
        self.kill()
