"""An integration for the live tests: an endpoint that calls a tool of another MCP server.

The tests copy this file into the generated project as `app/integrations/mcp_probe/__init__.py`.
"""

import logging
import time
from pathlib import Path
from typing import Annotated, Any

from app.common.response import Response
from app.settings import Settings
from fastapi import Body, FastAPI, Request
from fastmcp.exceptions import ToolError

BLOCK = Path("block")


class BlockingHandler(logging.Handler):
    """A handler that blocks on records of another server's logger `flood` while the file `block` exists."""

    def emit(self, record: logging.LogRecord) -> None:
        while getattr(record, "logger_name", "") == "flood" and BLOCK.exists():
            time.sleep(0.01)


def install(app: FastAPI, _settings: Settings) -> None:
    """Add the endpoint and the handler."""
    logging.getLogger().addHandler(BlockingHandler())

    @app.post("/probe/mcp/{label}/{tool}")
    async def call(
        label: str, tool: str, request: Request, arguments: Annotated[dict[str, Any], Body()]
    ) -> Response[str]:
        try:
            result = await request.app.state.mcp_servers[label].call(tool, arguments)
        except ToolError as error:
            return Response(result=f"refused: {error}")
        return Response(result=result.content[0].text)
