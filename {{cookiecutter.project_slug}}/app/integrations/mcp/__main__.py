"""The MCP server over standard input and output (stdio), started by its client: `python -m app.integrations.mcp`."""

import asyncio
import atexit
import os
import signal

from app.environment import read_settings
from app.integrations.mcp import SETTINGS
from app.integrations.mcp.tools import server
from app.integrations.processes import set_up_process


def exit_immediately(*_: object) -> None:
    """Run the exit handlers, then exit with 0; a normal exit would wait for the thread that reads standard input."""
    atexit._run_exitfuncs()  # noqa: SLF001 - flushes logs and whatever integrations still have to send
    os._exit(0)


set_up_process()
server.client_log_level = read_settings(SETTINGS).log_level
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, exit_immediately)
asyncio.run(server.run_stdio_async(show_banner=False))
