"""FastAPI with the configurable routes; the standard library's handler and formatter write its log lines to a file."""

import logging
import os

from envelope import Envelope
from fastapi import FastAPI
from growing import add_routes

__all__ = ["app"]

logging.basicConfig(
    filename=f"{os.environ['ACCESS_LOG']}.application.log",
    format="%(asctime)s [pid:%(process)d] %(filename)s(line:%(lineno)d) %(levelname)s %(message)s",
    level=logging.INFO,
)
app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`
add_routes(app, Envelope, lambda text: Envelope(result=text))
