"""The server over standard input and output, for a client that starts it: `python -m app.integrations.mcp`."""

import asyncio
import atexit
import os
import signal

from app.environment import read_settings
from app.integrations.mcp import SETTINGS
from app.integrations.mcp.tools import server
from app.integrations.processes import set_up_process


def end(*_: object) -> None:
    """End at once with 0, after what is to be done at the end: a thread that waits for input would hold it up."""
    atexit._run_exitfuncs()  # noqa: SLF001 - those of logging, and of whoever counts or sends
    os._exit(0)


set_up_process()
server.client_log_level = read_settings(SETTINGS).log_level
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
asyncio.run(server.run_stdio_async(show_banner=False))
