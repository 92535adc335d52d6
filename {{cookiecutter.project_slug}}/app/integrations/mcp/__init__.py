"""Tools by MCP: a server at /mcp, and clients of other servers; docs/mcp.md says how to add a tool."""

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
from app.integrations.mcp.forwarding import Messages
from app.integrations.mcp.tools import server
from app.settings import Settings, get_settings

PATH = "/mcp"
URL = re.compile(r"https?://([^\s/?#@]+@)?([\w.-]+|\[[\dA-Fa-f:.]+\])(:\d{1,5})?([/?]\S*)?").fullmatch
DEMO = ("analytics", "model", "store")


class McpSettings(EnvironmentSettings):
    """What may be served to whom, and which other servers there are."""

    model_config = SettingsConfigDict(env_prefix="MCP_")

    log_level: Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"] = Field(
        "info", description="lowest level of what clients are sent"
    )
    stateless: bool = Field(True, description="any worker answers; false: sessions, and WORKERS=1")
    json_response: bool = Field(False, description="JSON instead of event streams: no messages for clients")
    allowed_hosts: Words = Field((), description="hosts in URLs of ours, besides the local ones; empty: any")
    allowed_origins: Words = Field((), description="origins of pages that may call, besides our own")
    servers: dict[str, str] = Field({}, repr=False, description='other servers, in JSON: {"label": "URL or command"}')
    timeout: float = Field(30, gt=0, le=3600, description="seconds for an answer of another server")

    @field_validator("servers")
    @classmethod
    def _targets(cls, value: dict[str, str]) -> dict[str, str]:
        for label, target in value.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", label):
                raise ValueError("a label has letters, digits, - and _")
            if not (URL(target) if "://" in target.partition(" ")[0] else shlex.split(target)):
                raise ValueError(f"{label} is neither a URL (http or https) nor a command")
        return value


SETTINGS = McpSettings


class Sample(BaseModel):
    """What the demo works on."""

    values: list[float] = Field([1, 2, 3, 4, 5], max_length=10_000, description="numbers")


def install(app: FastAPI, settings: Settings) -> None:
    """Serve the tools, and the demo that asks three servers; raises SystemExit for sessions in several workers."""
    own = read_settings(McpSettings)
    if not own.stateless and settings.workers > 1:
        raise SystemExit(
            f"MCP_STATELESS is false, and a session lives in one process, but WORKERS is {settings.workers}: "
            "set WORKERS=1, or leave MCP_STATELESS at true."
        )
    server.client_log_level = own.log_level
    app.state.mcp = server.http_app(
        path=PATH,
        stateless_http=own.stateless,
        json_response=own.json_response,
        host_origin_protection="auto",
        allowed_hosts=list(own.allowed_hosts) or None,
        allowed_origins=list(own.allowed_origins) or None,
    )
    app.router.routes.append(Route(PATH, app.state.mcp, include_in_schema=False))
    app.add_api_route("/api/mcp/demo", run_demo, methods=["POST"], tags=["mcp"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serve while the application does, and let go of the other servers at its end."""
    own, messages = read_settings(McpSettings), Messages()
    given = (get_settings(), own.timeout, messages)
    app.state.mcp_servers = {label: Server(label, target, *given) for label, target in own.servers.items()}
    try:
        async with app.state.mcp.router.lifespan_context(app.state.mcp):
            yield
    finally:
        await asyncio.gather(*(one.close() for one in app.state.mcp_servers.values()))
        await asyncio.to_thread(messages.close, 1.0)


async def run_demo(request: Request, sample: Sample) -> Response[str]:
    """Let one server analyse, a second one train, a third one store; the result is the key under which it is kept."""
    servers: dict[str, Server] = request.app.state.mcp_servers
    if missing := [label for label in DEMO if label not in servers]:
        raise NotReady(f"MCP_SERVERS names no {', '.join(missing)}: docs/mcp.md says how it may look.")
    try:
        facts = await servers["analytics"].call("analyze_data", {"values": sample.values})
        model = await servers["model"].call("train_model", {"values": sample.values})
        kept = {"facts": facts.structured_content, "model": model.structured_content}
        stored = await servers["store"].call("store_result", {"result": kept})
    except ToolError as error:
        raise ServiceError(str(error), status=502) from error
    return Response(result=stored.data)
