"""FastAPI and one route."""

from envelope import Envelope
from fastapi import FastAPI

app = FastAPI(openapi_url=None)  # no route of its own before ours


@app.get("/api/bench")
async def bench() -> Envelope:
    """Answer."""
    return Envelope(result="demo")
