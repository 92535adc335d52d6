"""The MCP server and its tools. The tools here are for the demo: replace them with your own."""

import asyncio
import statistics
from math import isfinite
from typing import Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from pydantic import Field

from app.common.logs.formatters import dump_json
from app.common.request_id import new_request_id
from app.environment import project_metadata
from app.integrations.mcp.propagation import Propagation

MAX_STORED, MAX_SIZE = 1000, 65_536
"""Maximum number of stored results, and the maximum length of one as JSON, in characters."""
Numbers = Annotated[list[float], Field(max_length=10_000)]

server = FastMCP(project_metadata().get("name", "service"), mask_error_details=True, middleware=[Propagation()])
stored: dict[str, dict[str, Any]] = {}


@server.tool
async def analyze_data(values: Numbers, ctx: Context) -> dict[str, Any]:
    """Describe numbers: count, mean, standard deviation, and outliers (over three deviations from the mean)."""
    await ctx.debug("analysis begins", extra={"received": len(values)})
    numbers = [value for value in values if isfinite(value)]
    if len(numbers) < 2:  # noqa: PLR2004
        await ctx.error("too little data", extra={"usable": len(numbers), "needed": 2})
        raise ToolError("An analysis needs at least two numbers.")
    if len(numbers) < len(values):
        await ctx.warning("values left out", extra={"left_out": len(values) - len(numbers)})
    mean, deviation = statistics.fmean(numbers), statistics.stdev(numbers)
    outliers = [number for number in numbers if abs(number - mean) > 3 * deviation]
    await ctx.info("analysis complete", extra={"used": len(numbers), "outliers": len(outliers)})
    return {"count": len(numbers), "mean": mean, "deviation": deviation, "outliers": outliers}


@server.tool
async def train_model(
    values: Numbers, ctx: Context, steps: Annotated[int, Field(ge=1, le=100)] = 10
) -> dict[str, float]:
    """Fit a line through the numbers, step by step, and report the progress."""
    if len(values) < 2:  # noqa: PLR2004
        raise ToolError("Training needs at least two numbers.")
    slope = intercept = 0.0
    for step in range(1, steps + 1):
        seen = values[: max(2, len(values) * step // steps)]
        slope, intercept = statistics.linear_regression(range(len(seen)), seen)
        await ctx.report_progress(step, steps)
        await asyncio.sleep(0)  # lets other tasks run
    await ctx.info("model trained", extra={"steps": steps, "slope": slope})
    return {"slope": slope, "intercept": intercept}


@server.tool
async def store_result(result: dict[str, Any], ctx: Context) -> str:
    """Store a result in the memory of this process, which holds the newest thousand, and return its key."""
    if len(dump_json(result)) > MAX_SIZE:
        raise ToolError(f"A result may have at most {MAX_SIZE} characters of JSON.")
    key = new_request_id()
    stored[key] = result
    if len(stored) > MAX_STORED:
        del stored[next(iter(stored))]
        await ctx.warning("oldest result dropped", extra={"kept": MAX_STORED})
    await ctx.info("result stored", extra={"key": key})
    return key
