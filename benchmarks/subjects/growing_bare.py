"""FastAPI whose lines go to a file by the standard library's own handler and formatter."""

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
app = FastAPI(openapi_url=None)  # no route of its own before ours
add_routes(app, Envelope, lambda text: Envelope(result=text))
