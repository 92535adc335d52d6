"""The tasks; delete this one, and the endpoint that sends it, when you have seen what one request sets off."""

import logging

from app.integrations.celery import app

SENDS = {1: (2, 2), 2: (3, 4), 3: (4, 4), 4: ()}  # which ones each task sends

log = logging.getLogger(__name__)


@app.task
def debug(number: int) -> None:
    """Log a line, and send what comes next."""
    log.info("Debug task %d", number)
    for following in SENDS[number]:
        debug.delay(following)
