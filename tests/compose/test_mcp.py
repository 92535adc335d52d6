"""`docker compose up` with tools for models: through nginx, and to servers in processes of the same container."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.combinations import options
from tests.support.baking import bake
from tests.support.client import new_id
from tests.support.engine import fetch_images
from tests.support.stack import Stack, docker, image_of, say

SERVERS = ("analytics", "model", "store")
HEADERS = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas behind nginx, which ask three servers of their own."""
    answers = dict.fromkeys(options(), False) | {"docker": True, "mcp": True}
    project = bake(repository, tmp_path_factory.mktemp("mcp") / "output", project_slug="tools", **answers)
    fetch_images(project)
    servers = json.dumps(dict.fromkeys(SERVERS, "python -m app.integrations.mcp"))
    with Stack(project, "mcp", MCP_SERVERS=servers, WORKERS="1", API_REPLICAS="2", API_MEMORY="1g") as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def call(request_number: int, tool: str, **arguments: object) -> bytes:
    """Give the body of a call."""
    params = {"name": tool, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": request_number, "method": "tools/call", "params": params}).encode()


def test_a_call_through_nginx(stack: Stack) -> None:
    """One ID in header, message, result, nginx's line, access line and the tool's lines, whichever replica answers."""
    for number in range(6):
        request_id = new_id("mcp")
        body = call(number, "analyze_data", values=[1, 2, 3])
        answer = stack.request("POST", "/mcp", HEADERS, body, request_id=request_id)
        assert (answer.status, answer.one()) == (200, request_id)
        message, result = (
            json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")
        )
        assert message["params"]["data"]["extra"]["request_id"] == request_id
        assert result["result"]["_meta"]["x-request-id"] == request_id
        assert result["id"] == number
        lines: list[dict[str, Any]] = stack.wait_for_lines(request_id, 4, "nginx", "api")
        assert sorted(str(line.get("logger", "access")) for line in lines) == ["access", "app.mcp", "app.task", "nginx"]


def test_other_servers_in_a_hardened_container(stack: Stack) -> None:
    """Their processes start in a container that is read-only and without capabilities; their lines are in its log."""
    request_id = new_id("mcp")
    body = json.dumps({"values": [1, 2, 3]}).encode()
    answer = stack.request("POST", "/api/mcp/demo", HEADERS, body, request_id=request_id, timeout=40)
    assert (answer.status, answer.one(), answer.json()["message"]) == (200, request_id, "success")
    lines = stack.wait_for_lines(request_id, 2 + 3 * 3, "nginx", "api")
    assert {line["server"] for line in lines if "server" in line} == set(SERVERS)
    assert len({line["pid"] for line in lines if "pid" in line}) == 1 + len(SERVERS)
    for line in sorted(lines, key=lambda line: str(line["timestamp"])):
        say({key: line.get(key) for key in ("timestamp", "logger", "pid", "request_id", "message")})
    for index in (1, 2):
        sizes = stack.exec("api", "sh", "-c", "grep VmRSS /proc/[0-9]*/status", index=index)
        say([int(line.split()[-2]) // 1024 for line in sizes.splitlines()])
