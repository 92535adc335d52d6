"""`docker compose up` with the option mcp: calls through nginx, and a stdio server in the same container."""

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

OWN_URL = "http://127.0.0.1:8000/mcp"
SERVERS = {"analytics": "python -m app.integrations.mcp", "model": OWN_URL, "store": OWN_URL}
HEADERS = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker behind nginx. Of its three MCP servers, it starts one itself; the other two are the service itself."""
    answers = dict.fromkeys(options(), False) | {"docker": True, "mcp": True}
    project = bake(repository, tmp_path_factory.mktemp("mcp") / "output", project_slug="tools", **answers)
    fetch_images(project)
    sizes = {"WORKERS": "1", "API_REPLICAS": "1", "API_MEMORY": "1g"}
    with Stack(
        project, "mcp", COMPOSE_FILE=write_override(project), MCP_SERVERS=json.dumps(SERVERS), **sizes
    ) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def test_messages_and_result_have_one_id_behind_nginx(stack: Stack) -> None:
    """It is in the header, the message, the result, nginx's line, the access log line and the tool's records."""
    request_id = new_id("mcp")
    params = {"name": "analyze_data", "arguments": {"values": [1, 2, 3]}}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
    response = stack.request("POST", "/mcp", HEADERS, body, request_id=request_id)
    assert (response.status, response.header()) == (200, request_id)
    message, result = (
        json.loads(line[6:]) for line in response.body.decode().splitlines() if line.startswith("data: ")
    )
    assert message["params"]["data"]["extra"]["request_id"] == request_id
    assert result["result"]["_meta"]["x-request-id"] == request_id
    assert result["id"] == 7
    lines = stack.wait_for_lines(request_id, 4, "nginx", "api")
    assert sorted(str(line.get("logger", "access")) for line in lines) == ["access", "app.mcp", "app.task", "nginx"]


def test_stdio_server_starts_in_a_hardened_container(stack: Stack) -> None:
    """The container is read-only and has no capabilities. Its log has the records of the stdio server, too."""
    request_id = new_id("mcp")
    body = json.dumps({"values": [1, 2, 3]}).encode()
    response = stack.request("POST", "/api/mcp/demo", HEADERS, body, request_id=request_id, timeout=40)
    assert (response.status, response.header(), response.json()["message"]) == (200, request_id, "success")
    lines = stack.wait_for_lines(request_id, 2 + 3 * 3, "nginx", "api")
    assert {line["server"] for line in lines if "server" in line} == SERVERS.keys()
    assert len({line["pid"] for line in lines if "pid" in line}) == 2
