"""Messages of a tool go to the log and to the client; both, like the tool's result, carry the request ID.

Tools use FastMCP's own methods, as in its documentation: `await ctx.info("…", extra={…})` and the other levels.
"""

import logging
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import fastmcp
from fastmcp.exceptions import DisabledError, FastMCPError, NotFoundError
from fastmcp.server.context import Context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import ToolResult
from mcp import MCPDeprecationWarning
from mcp_types import CallToolRequestParams, LoggingLevel
from pydantic_core import from_json

from app.common.constants import REQUEST_ID_KEY
from app.common.context.request_record import current_record
from app.common.logs.extra import with_values
from app.common.logs.formatters import dump_json
from app.common.redaction import redact
from app.common.request_id import current_request_id, new_request_id
from app.common.task_record import extract, inject

LEVELS: Final[dict[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "emergency": logging.CRITICAL,
}
"""The protocol's levels (RFC 5424), and the level of standard logging for each."""

LOGGER: Final = "app.mcp"
MAX_MESSAGE, MAX_EXTRA = 16_384, 65_536
"""Maximum characters sent to clients: FastMCP's client aborts a call whose stream has an event over 1 MiB."""

send_to_client = Context.log
log = logging.getLogger(LOGGER)

# FastMCP's own handlers would write each record a second time, in another format and without the ID.
fastmcp.settings.log_enabled = False
logging.getLogger("fastmcp").handlers.clear()
logging.getLogger("fastmcp").propagate = True
logging.getLogger("fastmcp.server.context.to_client").addFilter(lambda _: False)  # `log_and_send` has logged it
# At INFO it logs one record for each request without a session.
logging.getLogger("mcp.server.streamable_http").addFilter(lambda record: record.levelno > logging.INFO)
warnings.filterwarnings("ignore", "The logging capability is deprecated", MCPDeprecationWarning)


async def log_and_send(
    ctx: Context,
    message: str,
    level: LoggingLevel | None = None,
    logger_name: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Log a message, whatever level the client asked for, and send it; a disconnected client does not stop the tool."""
    caller = sys._getframe(1).f_globals["__name__"]  # noqa: SLF001 - as logging does to find the caller
    text, values = with_values(message, extra or {})
    depth = 3 if caller == Context.__module__ else 2  # `ctx.info` and the like call `ctx.log`
    logging.getLogger(logger_name or LOGGER).log(LEVELS[level or "info"], text, extra=values, stacklevel=depth)
    try:
        await send_to_client(ctx, redact(message)[:MAX_MESSAGE], level, logger_name, values_for_client(extra or {}))
    except Exception as error:
        log.debug("A message could not be sent to the client (%s)", type(error).__name__)


def values_for_client(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON types, masked, with the request ID; omit all of them if they exceed MAX_EXTRA."""
    text = dump_json({str(name): value for name, value in extra.items()})
    try:
        values = redact.value(from_json(text)) if len(text) <= MAX_EXTRA else {"extra_omitted": len(text)}
    except (RecursionError, ValueError):  # too deeply nested
        values = {"extra_omitted": len(text)}
    return {**values, "request_id": current_request_id()}


setattr(Context, "log", log_and_send)  # noqa: B010 - mypy would require the parameter name `self`


class Propagation(Middleware):
    """Binds the request ID to each MCP request: the ID of the HTTP request, or without one (stdio) that in `_meta`."""

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:  # noqa: ANN401
        """Bind the IDs, and log the end of the request: at DEBUG, or at INFO or WARNING for those of WORK_METHODS."""
        name = " ".join(filter(None, (context.method, getattr(context.message, "name", None))))
        state = "failed"
        with extract(carrier_of(context), new_request_id()).begin(name) as record:
            try:
                result = await call_next(context)
                state = "failed" if getattr(result, "is_error", False) else "complete"
            except BaseException as error:
                state = "failed" if isinstance(error, Exception) else "cancelled"
                raise
            finally:
                level = logging.INFO if state == "complete" else logging.WARNING
                level = level if context.method in WORK_METHODS else logging.DEBUG
                record.finish(name, state, level, failed=state == "failed")
        return result

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        """Add the request ID to the result, and report a failure to the client; its traceback goes to the log only."""
        try:
            result = await call_next(context)
        except (FastMCPError, NotFoundError, DisabledError) as error:  # FastMCP would turn them into a result as well
            request_id = current_request_id()
            result = ToolResult(f"{error} (request ID {request_id})", is_error=True)
            if context.fastmcp_context is not None:
                extra = {"tool": context.message.name, "request_id": request_id}
                with suppress(Exception):  # the client has disconnected
                    await send_to_client(context.fastmcp_context, str(error), "error", LOGGER, extra)
        if isinstance(result, ToolResult):
            result.meta = {**(result.meta or {}), REQUEST_ID_KEY: current_request_id()}
        return result


WORK_METHODS: Final = frozenset(("tools/call", "resources/read", "prompts/get"))


def carrier_of(context: MiddlewareContext[Any]) -> dict[str, Any]:
    """Return what carries the IDs: over HTTP those of the current request, whatever `_meta` says; otherwise `_meta`."""
    carrier: dict[str, Any] = {}
    if current_record.get() is not None:
        inject(carrier)
        return carrier
    request = context.fastmcp_context and context.fastmcp_context.request_context
    return {**(request.meta or {})} if request else {}
