"""Starlette with one route."""

from envelope import NO_ID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def bench(_request: Request) -> JSONResponse:
    """Return the envelope."""
    return JSONResponse({"code": 0, "message": "success", "cause": "", "request_id": NO_ID, "result": "demo"})


app = Starlette(routes=[Route("/api/bench", bench)])
