"""FastAPI with uvicorn's access log and formatter, with a timestamp before each line."""

import logging

from bare_fastapi import app
from uvicorn.logging import AccessFormatter

__all__ = ["app"]

FORMAT = '[%(asctime)s] %(client_addr)s - "%(request_line)s" %(status_code)s'

for handler in logging.getLogger("uvicorn.access").handlers:
    handler.setFormatter(AccessFormatter(FORMAT, use_colors=False))
