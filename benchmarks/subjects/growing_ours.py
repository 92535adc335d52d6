"""The generated service, with the routes of what grows in front."""

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from app.main import app
from growing import PREFIX, add_routes

__all__ = ["app"]

# Its file, as the service's own modules have one; not the stream besides, which the others do not write to either.
RequestLogHandler(PREFIX, stream=False)
add_routes(app, Response[str], lambda text: Response(result=text))
