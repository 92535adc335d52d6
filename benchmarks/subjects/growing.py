"""Routes whose response size, number and length of log lines, and number of loggers can be configured."""

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request

PREFIX = "growth"


class Workload:
    """What the next requests do; one object is enough, because the service has one worker process."""

    def __init__(self) -> None:
        self.response = "demo"
        self.lines = 0
        self.text = ""
        self.logger = logging.getLogger(PREFIX)

    def configure(self, response: int, lines: int, width: int, loggers: int) -> None:
        """Set the characters of the response, the log lines per request, the characters per line, and the loggers."""
        self.response, self.lines, self.text = "x" * response, lines, "x" * width
        existing = logging.root.manager.loggerDict
        for name in [name for name in existing if name.startswith(f"{PREFIX}.")]:
            del existing[name]
        for number in range(loggers):
            self.logger = logging.getLogger(f"{PREFIX}.{number}")


def add_routes(app: FastAPI, envelope: Any, respond: Callable[[str], Any]) -> None:  # noqa: ANN401 - any response model
    """Add the routes before those of the application."""
    workload, count = Workload(), len(app.router.routes)

    @app.get("/api/bench")
    async def bench() -> envelope:  # type: ignore[valid-type]
        """Write the configured log lines, and return the configured response."""
        for _ in range(workload.lines):
            workload.logger.info(workload.text)
        return respond(workload.response)

    @app.post("/api/bench")
    async def read_body(request: Request) -> envelope:  # type: ignore[valid-type]
        """Read the request body, and return the configured response."""
        await request.body()
        return respond(workload.response)

    @app.put("/api/bench")
    async def configure(response: int, lines: int, width: int, loggers: int) -> None:
        """Configure what the next requests do."""
        workload.configure(response, lines, width, loggers)

    added = app.router.routes[count:]
    del app.router.routes[count:]
    app.router.routes[:0] = added
