"""FastAPI and one route."""

from envelope import Envelope
from fastapi import FastAPI

app = FastAPI()


@app.get("/api/bench")
async def bench() -> Envelope:
    """Answer."""
    return Envelope(result="demo")
