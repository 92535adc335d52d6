"""FastAPI with one route."""

from envelope import Envelope
from fastapi import FastAPI

app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`


@app.get("/api/bench")
async def bench() -> Envelope:
    """Return the envelope."""
    return Envelope(result="demo")
