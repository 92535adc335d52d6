"""Model Context Protocol (MCP): a server at /mcp, and clients of other servers. See docs/mcp.md."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, Request
from fastmcp.exceptions import ToolError
from pydantic import BaseModel, Field, field_validator
from pydantic_settings import SettingsConfigDict
from starlette.routing import Route

from app.common.exceptions import NotReady, ServiceError
from app.common.response import Response
from app.environment import EnvironmentSettings, Words, read_settings
from app.integrations.mcp.client import Server
from app.integrations.mcp.forwarding import MessageWriter
from app.integrations.mcp.tools import server
from app.settings import Settings, get_settings

PATH = "/mcp"
match_url = re.compile(r"https?://([^\s/?#@]+@)?([\w.-]+|\[[\dA-Fa-f:.]+\])(:\d{1,5})?([/?]\S*)?").fullmatch
DEMO_SERVERS = ("analytics", "model", "store")


class McpSettings(EnvironmentSettings):
    """Settings of the MCP server, and of the clients of other servers."""

    model_config = SettingsConfigDict(env_prefix="MCP_")

    log_level: Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"] = Field(
        "info", description="lowest level of the messages that are sent to clients"
    )
    stateless: bool = Field(True, description="no sessions, so any worker can respond; false needs WORKERS=1")
    json_response: bool = Field(False, description="respond with JSON, not event streams; clients get no messages")
    allowed_hosts: Words = Field((), description="hosts accepted besides local ones; empty: any, except on loopback")
    allowed_origins: Words = Field((), description="origins of web pages accepted besides the service's own")
    servers: dict[str, str] = Field({}, repr=False, description='other MCP servers: {"label": "URL or command"}')
    timeout: float = Field(30, gt=0, le=3600, description="seconds to wait for a response of another server")

    @field_validator("servers")
    @classmethod
    def _check_targets(cls, value: dict[str, str]) -> dict[str, str]:
        for label, target in value.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", label):
                raise ValueError("a label must have 1 to 64 letters, digits, - or _")
            if not (match_url(target) if "://" in target.partition(" ")[0] else shlex.split(target)):
                raise ValueError(f"{label} is neither a URL (http or https) nor a command")
        return value


SETTINGS = McpSettings


class Sample(BaseModel):
    """Request body of the demo."""

    values: list[float] = Field([1, 2, 3, 4, 5], max_length=10_000, description="numbers")


def install(app: FastAPI, settings: Settings) -> None:
    """Add the MCP server and the demo endpoint; raise SystemExit for sessions with more than one worker."""
    mcp_settings = read_settings(McpSettings)
    if not mcp_settings.stateless and settings.workers > 1:
        raise SystemExit(
            f"MCP_STATELESS is false, but WORKERS is {settings.workers}, and a session lives in one process: "
            "set WORKERS=1 or MCP_STATELESS=true."
        )
    server.client_log_level = mcp_settings.log_level
    app.state.mcp = server.http_app(
        path=PATH,
        stateless_http=mcp_settings.stateless,
        json_response=mcp_settings.json_response,
        host_origin_protection="auto",
        allowed_hosts=list(mcp_settings.allowed_hosts) or None,
        allowed_origins=list(mcp_settings.allowed_origins) or None,
    )
    app.router.routes.append(Route(PATH, app.state.mcp, include_in_schema=False))
    app.add_api_route("/api/mcp/demo", run_demo, methods=["POST"], tags=["mcp"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the MCP server with the application; at shutdown, close the connections to other servers."""
    mcp_settings, writer = read_settings(McpSettings), MessageWriter()
    options = (get_settings(), mcp_settings.timeout, writer)
    app.state.mcp_servers = {label: Server(label, target, *options) for label, target in mcp_settings.servers.items()}
    try:
        async with app.state.mcp.router.lifespan_context(app.state.mcp):
            yield
    finally:
        await asyncio.gather(*(client.close() for client in app.state.mcp_servers.values()))
        await asyncio.to_thread(writer.close, 1.0)


async def run_demo(request: Request, sample: Sample) -> Response[str]:
    """Call three servers: one analyzes, one trains, one stores. The result is the key of the stored results."""
    servers: dict[str, Server] = request.app.state.mcp_servers
    if missing := [label for label in DEMO_SERVERS if label not in servers]:
        raise NotReady(f"MCP_SERVERS must also name {', '.join(missing)}; see the example in docs/mcp.md.")
    try:
        facts = await servers["analytics"].call("analyze_data", {"values": sample.values})
        model = await servers["model"].call("train_model", {"values": sample.values})
        result = {"facts": facts.structured_content, "model": model.structured_content}
        stored = await servers["store"].call("store_result", {"result": result})
    except ToolError as error:
        raise ServiceError(str(error), status=502) from error
    return Response(result=stored.data)
