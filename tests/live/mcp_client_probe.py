"""Clients of the project's own packages, run by its Python: a plan a line comes in as JSON, what they saw goes out.

Plan: `url`, and `calls`, all made at once: [{id, tool, arguments, kind: "sdk" or "fastmcp", mode: as they name it}].
"""

import asyncio
import json
import sys
from typing import Any

import httpx2
from fastmcp import Client as FastMcpClient
from fastmcp.client.transports import StreamableHttpTransport
from mcp.client import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client

Json = Any


class Seen:
    """What comes back, by whichever client."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.content: Json = {"messages": [], "progress": [], "headers": []}

    def http(self, **options: Json) -> httpx2.AsyncClient:
        """Return an HTTP client that sends the ID and keeps those that it is sent."""
        options["headers"] = {**(options.get("headers") or {}), "X-Request-ID": self.request_id}
        return httpx2.AsyncClient(**{"timeout": 30, **options}, event_hooks={"response": [self._keep]})

    async def _keep(self, response: httpx2.Response) -> None:
        self.content["headers"].append(response.headers.get_list("x-request-id"))

    async def message(self, message: Json) -> None:
        """Keep a message as it came."""
        self.content["messages"].append({"level": message.level, "logger": message.logger, "data": message.data})

    async def progress(self, done: float, total: float | None, _text: str | None) -> None:
        """Keep how far it is."""
        self.content["progress"].append([done, total])

    def result(self, result: Json) -> None:
        """Keep the result, without its form."""
        self.content["meta"] = result.meta
        self.content["is_error"] = result.is_error
        self.content["text"] = " ".join(getattr(block, "text", "") for block in result.content)


async def by_sdk(url: str, call: Json, seen: Seen) -> str:
    """Call by the client of the protocol's own SDK."""
    async with seen.http() as http:
        transport = streamable_http_client(url, http_client=http)
        settings = {"mode": call["mode"], "log_level": "debug", "logging_callback": seen.message}
        async with SdkClient(transport, **settings) as client:
            answer = await client.call_tool(call["tool"], call["arguments"], progress_callback=seen.progress)  # type: ignore[arg-type]
            seen.result(answer)
            return client.protocol_version


async def by_fastmcp(url: str, call: Json, seen: Seen) -> str:
    """Call by FastMCP's client."""
    transport = StreamableHttpTransport(url, httpx_client_factory=seen.http)  # type: ignore[arg-type]
    async with FastMcpClient(transport, mode=call["mode"], log_handler=seen.message) as client:
        answer = await client.call_tool(
            call["tool"], call["arguments"], progress_handler=seen.progress, raise_on_error=False
        )
        seen.result(answer)
        return str(client.protocol_version)


async def run(url: str, call: Json) -> Json:
    """Make one call on a connection of its own."""
    seen = Seen(call["id"])
    ask = by_sdk if call["kind"] == "sdk" else by_fastmcp
    seen.content["protocol"] = await ask(url, call, seen)
    return seen.content


async def main() -> None:
    """Read plans, print what was seen; between two plans there is no connection that would wait."""
    for line in sys.stdin:
        plan = json.loads(line)
        seen = await asyncio.gather(*(run(plan["url"], call) for call in plan["calls"]))
        sys.stdout.write(f"{json.dumps(seen)}\n")
        sys.stdout.flush()


asyncio.run(main())
