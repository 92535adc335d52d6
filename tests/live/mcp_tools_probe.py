"""Tools for the live tests: they fail, take long, and say what is hard to say.

Copied into the baked project as `app/integrations/mcp/probe_tools.py`, which its `tools.py` is made to import.
"""

import asyncio
import logging
from typing import Any

from app.integrations.mcp.tools import server
from fastmcp import Context
from fastmcp.exceptions import ToolError

log = logging.getLogger("probe.tools")
SECRET = "hunter2-is-in-the-exception"


class Unprintable:
    """Nothing can be said of it."""

    def __str__(self) -> str:
        raise ValueError("unprintable")

    __repr__ = __str__


@server.tool
async def fails(ctx: Context) -> str:
    await ctx.info("about to fail")
    raise ValueError(f"{SECRET} at /srv/internal")


@server.tool
async def refuses() -> str:
    raise ToolError("Only even numbers, please.")


@server.tool
async def says(level: str, text: str, ctx: Context) -> str:
    await ctx.log(text, level=level, extra={"said": text})  # type: ignore[arg-type]
    return text


@server.tool
async def says_what_json_lacks(ctx: Context) -> str:
    loop: list[Any] = []
    loop.append(loop)
    values = {"x": object(), "nan": float("nan"), "inf": float("inf"), "raw": b"\xff\x00", "bad": Unprintable()}
    values |= {"set": {1}, "text": "\ud800", "name": "a", "args": "b", "msg": "c"}
    await ctx.warning("hard to say", extra=values)
    await ctx.warning("round", extra={"loop": loop})
    await ctx.warning("large", extra={"blob": "x" * 5_000_000})
    await ctx.warning("y" * 5_000_000)
    await ctx.warning("two\nlines \x1b[31m", extra={"password": "hunter2-of-a-user", "exc_info": True})
    return "said"


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
