"""An integration for the live tests: calls of other servers' tools, by their labels.

It is copied into the baked project as `app/integrations/mcp_probe/__init__.py`.
"""

import logging
import os
import time
from typing import Annotated, Any

from app.common.response import Response
from app.settings import Settings
from fastapi import Body, FastAPI, Request
from fastmcp.exceptions import ToolError

Arguments = Annotated[dict[str, Any], Body()]


class SlowHandler(logging.Handler):
    """A sink that takes its time with each record of another server."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "mcp_level"):
            time.sleep(float(os.environ["PROBE_SLOW_SINK"]))


def install(app: FastAPI, _settings: Settings) -> None:
    """Add the endpoint, and the slow sink where one is asked for."""
    if "PROBE_SLOW_SINK" in os.environ:
        logging.getLogger().addHandler(SlowHandler())

    @app.post("/probe/mcp/{label}/{tool}")
    async def call(
        label: str, tool: str, request: Request, arguments: Annotated[dict[str, Any], Body()]
    ) -> Response[str]:
        try:
            result = await request.app.state.mcp_servers[label].call(tool, arguments)
        except ToolError as error:
            return Response(result=f"refused: {error}")
        return Response(result=result.content[0].text)
