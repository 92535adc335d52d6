"""MCP clients for the live tests, run with the Python of the generated project.

Each line of standard input is a plan as JSON: `url`, and `calls`, which are made at the same time. A call is
{id, tool, arguments, kind, mode}: `kind` is "sdk" or "fastmcp", `mode` is the protocol mode of that client.
For each plan, what the clients received is written to standard output, as one line of JSON.
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


class Received:
    """Everything that a client receives during a call."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.content: Json = {"messages": [], "progress": [], "headers": []}

    def http(self, **options: Json) -> httpx2.AsyncClient:
        """Return an HTTP client that sends the ID, and records the IDs in the responses."""
        options["headers"] = {**(options.get("headers") or {}), "X-Request-ID": self.request_id}
        return httpx2.AsyncClient(**{"timeout": 30, **options}, event_hooks={"response": [self._record_id]})

    async def _record_id(self, response: httpx2.Response) -> None:
        self.content["headers"].append(response.headers.get_list("x-request-id"))

    async def message(self, message: Json) -> None:
        """Record a message."""
        self.content["messages"].append({"level": message.level, "logger": message.logger, "data": message.data})

    async def progress(self, done: float, total: float | None, _text: str | None) -> None:
        """Record the progress."""
        self.content["progress"].append([done, total])

    def result(self, result: Json) -> None:
        """Record the result."""
        self.content["meta"] = result.meta
        self.content["is_error"] = result.is_error
        self.content["text"] = " ".join(getattr(block, "text", "") for block in result.content)


async def call_with_sdk(url: str, call: Json, received: Received) -> str:
    """Call a tool with the client of the MCP SDK."""
    async with received.http() as http:
        transport = streamable_http_client(url, http_client=http)
        settings = {"mode": call["mode"], "log_level": "debug", "logging_callback": received.message}
        async with SdkClient(transport, **settings) as client:
            result = await client.call_tool(call["tool"], call["arguments"], progress_callback=received.progress)  # type: ignore[arg-type]
            received.result(result)
            return client.protocol_version


async def call_with_fastmcp(url: str, call: Json, received: Received) -> str:
    """Call a tool with FastMCP's client."""
    transport = StreamableHttpTransport(url, httpx_client_factory=received.http)  # type: ignore[arg-type]
    async with FastMcpClient(transport, mode=call["mode"], log_handler=received.message) as client:
        result = await client.call_tool(
            call["tool"], call["arguments"], progress_handler=received.progress, raise_on_error=False
        )
        received.result(result)
        return str(client.protocol_version)


async def run(url: str, call: Json) -> Json:
    """Make one call, on a new connection."""
    received = Received(call["id"])
    call_tool = call_with_sdk if call["kind"] == "sdk" else call_with_fastmcp
    received.content["protocol"] = await call_tool(url, call, received)
    return received.content


async def main() -> None:
    """Run the plans. No connection stays open between two plans."""
    for line in sys.stdin:
        plan = json.loads(line)
        received = await asyncio.gather(*(run(plan["url"], call) for call in plan["calls"]))
        sys.stdout.write(f"{json.dumps(received)}\n")
        sys.stdout.flush()


asyncio.run(main())
