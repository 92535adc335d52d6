"""The generated service with the configurable routes before its own."""

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from app.main import app
from growing import PREFIX, add_routes

__all__ = ["app"]

# A log file, as for the loggers of the service; no stream, because the compared applications do not write to one.
RequestLogHandler(PREFIX, stream=False)
add_routes(app, Response[str], lambda text: Response(result=text))
