# mypy: ignore-errors
"""Routes that respond immediately, with success or with an error."""

from app.common.log_handler import RequestLogHandler
from app.common.request_id import current_request_id
from app.common.response import Response
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse

log = RequestLogHandler("probe")
api = APIRouter(prefix="/probe")


@api.get("/async")
async def read_async() -> Response[str]:
    """Respond from the event loop."""
    log.info("in async")
    return Response(result=current_request_id())


@api.get("/sync")
def read_sync() -> Response[str]:
    """Respond from the thread pool."""
    log.info("in sync")
    return Response(result=current_request_id())


@api.get("/teapot")
async def read_teapot() -> Response[str]:
    """Raise an HTTPException with a header."""
    raise HTTPException(418, "I am a teapot.", headers={"X-Extra": "kept"})


@api.get("/items/{number}")
async def read_item(number: int) -> Response[int]:
    """Validate a path parameter."""
    return Response(result=number)


@api.get("/fail")
async def read_fail() -> Response[str]:
    """Raise an unhandled error."""
    raise RuntimeError("probe failure")


@api.get("/fail/sync")
def read_fail_sync() -> Response[str]:
    """Raise an unhandled error in a thread."""
    raise RuntimeError("probe failure in a thread")


@api.get("/file")
async def read_file() -> FileResponse:
    """Send this file."""
    return FileResponse(__file__)


@api.get("/empty", status_code=204)
async def read_empty() -> None:
    """Respond without a body."""


@api.api_route("/head", methods=["GET", "HEAD"])
async def read_head() -> Response[str]:
    """Respond with a body to GET, without one to HEAD."""
    return Response(result="head")


@api.post("/echo")
async def read_echo(request: Request) -> Response[int]:
    """Read the whole body."""
    log.info("reading")
    return Response(result=len(await request.body()))


@api.post("/unread")
async def read_unread() -> Response[str]:
    """Respond without reading the body."""
    return Response(result="unread")
