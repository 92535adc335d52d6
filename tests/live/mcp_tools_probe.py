"""Tools for the live tests: they fail, take long, or work in a thread.

Copied into the baked project as `app/integrations/mcp/probe_tools.py`, which its `tools.py` is made to import.
"""

import asyncio
import logging

from app.integrations.mcp.tools import server
from fastmcp import Context

log = logging.getLogger("probe.tools")
SECRET = "hunter2-is-in-the-exception"


@server.tool
async def fails(ctx: Context) -> str:
    await ctx.info("about to fail")
    raise ValueError(f"{SECRET} at /srv/internal")


@server.tool
async def takes(seconds: float, ctx: Context) -> str:
    await ctx.info("long tool begins")
    try:
        for _ in range(int(seconds * 10)):
            await asyncio.sleep(0.1)
            await ctx.info("still at it")
    finally:
        log.info("long tool ends")
    return "done"


@server.tool
def takes_a_thread(ctx: Context) -> str:
    """Work in a thread, as functions that are not asynchronous do."""
    log.info("in a thread for %s", ctx.request_id)
    return "done"
