"""The server over standard input and output, for a client that starts it: `python -m app.integrations.mcp`."""

import asyncio

from app.common.log_handler import configure_logging, prepare_log_files
from app.integrations import observe_work
from app.integrations.mcp import SETTINGS
from app.integrations.mcp.tools import server
from app.settings import get_settings, read_settings

for set_up in (prepare_log_files, configure_logging, observe_work):
    set_up(get_settings())
server.client_log_level = read_settings(SETTINGS).log_level
asyncio.run(server.run_stdio_async(show_banner=False))
