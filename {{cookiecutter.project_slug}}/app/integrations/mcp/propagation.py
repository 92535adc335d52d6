"""What a tool says goes to the service's log and to its client; both, and the result, have the request's ID.

`await ctx.info("…", extra={…})` and its like do so, as they stand in FastMCP's own documents.
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
"""The protocol's levels (RFC 5424), as those of standard logging."""

LOGGER: Final = "app.mcp"
MAX_MESSAGE, MAX_EXTRA = 16_384, 65_536
"""Characters that are sent; FastMCP's client ends a call whose stream has an event of more than a mebibyte."""

send = Context.log
log = logging.getLogger(LOGGER)

# FastMCP's own handlers would write each line once more, in another form and without the ID.
fastmcp.settings.log_enabled = False
logging.getLogger("fastmcp").handlers.clear()
logging.getLogger("fastmcp").propagate = True
logging.getLogger("fastmcp.server.context.to_client").addFilter(lambda _: False)  # `write_and_send` has written it
# Of each request without a session, at INFO.
logging.getLogger("mcp.server.streamable_http").addFilter(lambda line: line.levelno > logging.INFO)
warnings.filterwarnings("ignore", "The logging capability is deprecated", MCPDeprecationWarning)


async def write_and_send(
    ctx: Context,
    message: str,
    level: LoggingLevel | None = None,
    logger_name: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a line, whatever the client wants to hear, and send it; a client that is gone harms no tool."""
    called_by = sys._getframe(1).f_globals["__name__"]  # noqa: SLF001 - what logging itself asks
    text, values = with_values(message, extra or {})
    depth = 3 if called_by == Context.__module__ else 2  # `info` and its like call `log`
    logging.getLogger(logger_name or LOGGER).log(LEVELS[level or "info"], text, extra=values, stacklevel=depth)
    try:
        await send(ctx, redact(message)[:MAX_MESSAGE], level, logger_name, what_is_sent(extra or {}))
    except Exception as error:
        log.debug("The client gets no messages any more (%s)", type(error).__name__)


def what_is_sent(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON knows them, without secrets, with the ID; too long ones are left out as a whole."""
    text = dump_json({str(name): value for name, value in extra.items()})
    try:
        values = redact.value(from_json(text)) if len(text) <= MAX_EXTRA else {"extra_omitted": len(text)}
    except (RecursionError, ValueError):  # lists in lists, a hundred deep
        values = {"extra_omitted": len(text)}
    return {**values, "request_id": current_request_id()}


setattr(Context, "log", write_and_send)  # noqa: B010 - mypy would have the parameter named `self`


class Propagation(Middleware):
    """Works on each request of a client under its ID: that of the HTTP request, else the one in its `_meta`."""

    async def on_request(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:  # noqa: ANN401
        """Bind the IDs, and write the last line of what does work."""
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
                level = level if context.method in WORK else logging.DEBUG
                record.finish(name, state, level, failed=state == "failed")
        return result

    async def on_call_tool(
        self, context: MiddlewareContext[CallToolRequestParams], call_next: CallNext[CallToolRequestParams, ToolResult]
    ) -> ToolResult:
        """Give the result the ID; of what a tool has failed is in the log, and the client is told that it has."""
        try:
            result = await call_next(context)
        except (FastMCPError, NotFoundError, DisabledError) as error:  # what would become a result in any case
            request_id = current_request_id()
            result = ToolResult(f"{error} (request ID {request_id})", is_error=True)
            if context.fastmcp_context is not None:
                told = {"tool": context.message.name, "request_id": request_id}
                with suppress(Exception):  # a client that is gone
                    await send(context.fastmcp_context, str(error), "error", LOGGER, told)
        if isinstance(result, ToolResult):
            result.meta = {**(result.meta or {}), REQUEST_ID_KEY: current_request_id()}
        return result


WORK: Final = frozenset(("tools/call", "resources/read", "prompts/get"))


def carrier_of(context: MiddlewareContext[Any]) -> dict[str, Any]:
    """Return what tells the IDs: of an HTTP request our own record, whatever the message says; else its `_meta`."""
    carrier: dict[str, Any] = {}
    if current_record.get() is not None:
        inject(carrier)
        return carrier
    request = context.fastmcp_context and context.fastmcp_context.request_context
    return {**(request.meta or {})} if request else {}
