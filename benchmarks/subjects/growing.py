"""What grows: the body of the answer and of the request, lines and their length, and the number of loggers."""

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request

PREFIX = "growth"


class Knobs:
    """What the next requests do; one process, so that one is enough."""

    def __init__(self) -> None:
        self.answer = "demo"
        self.lines = 0
        self.text = ""
        self.logger = logging.getLogger(PREFIX)

    def turn(self, answer: int, lines: int, width: int, loggers: int) -> None:
        """Set the characters of the answer, the lines of a request and their characters, and how many loggers exist."""
        self.answer, self.lines, self.text = "x" * answer, lines, "x" * width
        known = logging.root.manager.loggerDict
        for name in [name for name in known if name.startswith(f"{PREFIX}.")]:
            del known[name]
        for number in range(loggers):
            self.logger = logging.getLogger(f"{PREFIX}.{number}")


def add_routes(app: FastAPI, envelope: Any, answer: Callable[[str], Any]) -> None:  # noqa: ANN401 - either's model
    """Put the routes in front of those of the application."""
    knobs, known = Knobs(), len(app.router.routes)

    @app.get("/api/bench")
    async def bench() -> envelope:  # type: ignore[valid-type]
        """Log as much as is set, and answer as much."""
        for _ in range(knobs.lines):
            knobs.logger.info(knobs.text)
        return answer(knobs.answer)

    @app.post("/api/bench")
    async def take(request: Request) -> envelope:  # type: ignore[valid-type]
        """Read the body."""
        await request.body()
        return answer(knobs.answer)

    @app.put("/api/bench")
    async def turn(answer: int, lines: int, width: int, loggers: int) -> None:
        """Set what the next requests do."""
        knobs.turn(answer, lines, width, loggers)

    added = app.router.routes[known:]
    del app.router.routes[known:]
    app.router.routes[:0] = added
