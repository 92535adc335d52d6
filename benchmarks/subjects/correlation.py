"""FastAPI with asgi-correlation-id, whose filter gives the ID to uvicorn's own access line."""

import logging

from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware, correlation_id
from envelope import Envelope
from fastapi import FastAPI

app = FastAPI(openapi_url=None)  # no route of its own before ours
app.add_middleware(CorrelationIdMiddleware)

for handler in logging.getLogger("uvicorn.access").handlers:
    handler.addFilter(CorrelationIdFilter(default_value="-"))
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(correlation_id)s %(message)s"))


@app.get("/api/bench")
async def bench() -> Envelope:
    """Answer with the ID."""
    return Envelope(request_id=correlation_id.get() or "", result="demo")
