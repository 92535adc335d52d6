"""MCP tools for the live tests: one fails, one runs for a long time, one runs in a thread.

The tests copy this file into the generated project as `app/integrations/mcp/probe_tools.py`, and `tools.py` imports it.
"""

import asyncio
import logging

from app.integrations.mcp.tools import server
from fastmcp import Context

log = logging.getLogger("probe.tools")
SECRET = "hunter2-is-in-the-exception"


@server.tool
async def fail(ctx: Context) -> str:
    await ctx.info("about to fail")
    raise ValueError(f"{SECRET} at /srv/internal")


@server.tool
async def run_long(seconds: float, ctx: Context) -> str:
    await ctx.info("long tool started")
    try:
        for _ in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            await ctx.info("still running")
    finally:
        log.info("long tool ended")
    return "done"


@server.tool
def run_in_thread(ctx: Context) -> str:
    """Run in a thread, as FastMCP does with functions that are not asynchronous."""
    log.info("in a thread for %s", ctx.request_id)
    return "done"
