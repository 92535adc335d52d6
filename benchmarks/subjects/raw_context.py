"""FastAPI with starlette-context's `RawContextMiddleware`, a pure ASGI middleware."""

from envelope import Envelope
from fastapi import FastAPI
from starlette_context import context
from starlette_context.middleware import RawContextMiddleware
from starlette_context.plugins import RequestIdPlugin

app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`
app.add_middleware(RawContextMiddleware, plugins=(RequestIdPlugin(),))


@app.get("/api/bench")
async def bench() -> Envelope:
    """Return the envelope with the ID."""
    return Envelope(request_id=context["X-Request-ID"], result="demo")
