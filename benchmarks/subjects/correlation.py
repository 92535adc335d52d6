"""FastAPI with asgi-correlation-id, whose log filter adds the ID to uvicorn's access log."""

import logging

from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware, correlation_id
from envelope import Envelope
from fastapi import FastAPI

app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`
app.add_middleware(CorrelationIdMiddleware)

for handler in logging.getLogger("uvicorn.access").handlers:
    handler.addFilter(CorrelationIdFilter(default_value="-"))
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(correlation_id)s %(message)s"))


@app.get("/api/bench")
async def bench() -> Envelope:
    """Return the envelope with the ID."""
    return Envelope(request_id=correlation_id.get() or "", result="demo")
