"""The Celery tasks. `debug` is for the demo: delete it, and the endpoint that sends it, when you no longer need it."""

import logging

from app.integrations.celery import app

SENDS = {1: (2, 2), 2: (3, 4), 3: (4, 4), 4: ()}  # the tasks that each task sends

log = logging.getLogger(__name__)


@app.task
def debug(number: int) -> None:
    """Log a line, and send the next tasks."""
    log.info("Debug task %d", number)
    for next_number in SENDS[number]:
        debug.delay(next_number)
