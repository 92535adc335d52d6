"""`docker compose up` with tools for models: through nginx, and to servers in processes of the same container."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.combinations import options
from tests.support.baking import bake
from tests.support.client import new_id
from tests.support.engine import fetch_images
from tests.support.stack import Stack, docker, image_of, write_override

pytestmark = pytest.mark.full

ITSELF = "http://127.0.0.1:8000/mcp"
SERVERS = {"analytics": "python -m app.integrations.mcp", "model": ITSELF, "store": ITSELF}
HEADERS = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker behind nginx, which calls a server that it starts, and itself as two others."""
    answers = dict.fromkeys(options(), False) | {"docker": True, "mcp": True}
    project = bake(repository, tmp_path_factory.mktemp("mcp") / "output", project_slug="tools", **answers)
    fetch_images(project)
    sizes = {"WORKERS": "1", "API_REPLICAS": "1", "API_MEMORY": "1g"}
    with Stack(
        project, "mcp", COMPOSE_FILE=write_override(project), MCP_SERVERS=json.dumps(SERVERS), **sizes
    ) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def test_messages_and_result_pass_nginx_under_one_id(stack: Stack) -> None:
    """It is in the header, the message, the result, nginx's record, the access record and those of the tool."""
    request_id = new_id("mcp")
    params = {"name": "analyze_data", "arguments": {"values": [1, 2, 3]}}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
    answer = stack.request("POST", "/mcp", HEADERS, body, request_id=request_id)
    assert (answer.status, answer.one()) == (200, request_id)
    message, result = (json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: "))
    assert message["params"]["data"]["extra"]["request_id"] == request_id
    assert result["result"]["_meta"]["x-request-id"] == request_id
    assert result["id"] == 7
    lines = stack.wait_for_lines(request_id, 4, "nginx", "api")
    assert sorted(str(line.get("logger", "access")) for line in lines) == ["access", "app.mcp", "app.task", "nginx"]


def test_server_starts_in_a_hardened_container(stack: Stack) -> None:
    """It is read-only and without capabilities; the records of the server's process are in its log."""
    request_id = new_id("mcp")
    body = json.dumps({"values": [1, 2, 3]}).encode()
    answer = stack.request("POST", "/api/mcp/demo", HEADERS, body, request_id=request_id, timeout=40)
    assert (answer.status, answer.one(), answer.json()["message"]) == (200, request_id, "success")
    lines = stack.wait_for_lines(request_id, 2 + 3 * 3, "nginx", "api")
    assert {line["server"] for line in lines if "server" in line} == SERVERS.keys()
    assert len({line["pid"] for line in lines if "pid" in line}) == 2
