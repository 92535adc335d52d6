# mypy: ignore-errors
"""Routes that answer at once, well or badly."""

import asyncio
from typing import Any

from app.common.log_handler import RequestLogHandler
from app.common.request_id import current_request_id
from app.common.request_time import current_request_time
from app.common.response import Response
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette_context import context

log = RequestLogHandler("probe")
shared_answer = PlainTextResponse("shared")
api = APIRouter(prefix="/probe")


@api.get("/async")
async def read_async() -> Response[str]:
    """Answer from the event loop."""
    log.info("in async")
    return Response(result=current_request_id())


@api.get("/sync")
def read_sync() -> Response[str]:
    """Answer from the thread pool."""
    log.info("in sync")
    return Response(result=current_request_id())


def refuse() -> None:
    """Raise what a dependency raises on purpose."""
    log.info("in dependency")
    raise HTTPException(409, "The dependency refused.")


async def stumble() -> None:
    """Raise what a dependency raises by mistake."""
    raise LookupError("dependency failure")


@api.get("/depends/refuse", dependencies=[Depends(refuse)])
@api.get("/depends/fail", dependencies=[Depends(stumble)])
async def read_depends() -> Response[str]:
    """Never get here."""
    return Response(result="unreachable")


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
    """Raise what nobody handles."""
    raise RuntimeError("probe failure")


@api.get("/fail/sync")
def read_fail_sync() -> Response[str]:
    """Raise what nobody handles, in a thread."""
    raise RuntimeError("probe failure in a thread")


@api.get("/file")
async def read_file() -> FileResponse:
    """Send this file."""
    return FileResponse(__file__)


@api.get("/empty", status_code=204)
async def read_empty() -> None:
    """Answer without a body."""


@api.api_route("/head", methods=["GET", "HEAD"])
async def read_head() -> Response[str]:
    """Answer with and without a body."""
    return Response(result="head")


@api.get("/shared")
async def read_shared() -> PlainTextResponse:
    """Send the same response object to everybody."""
    return shared_answer


@api.get("/exclude/unset", response_model=Response[str], response_model_exclude_unset=True)
@api.get("/exclude/defaults", response_model=Response[str], response_model_exclude_defaults=True)
async def read_excluded() -> dict[str, str]:
    """Leave the envelope to FastAPI."""
    return {"result": "excluded"}


@api.post("/echo")
async def read_echo(request: Request) -> Response[int]:
    """Read the whole body."""
    log.info("reading")
    return Response(result=len(await request.body()))


@api.post("/unread")
async def read_unread() -> Response[str]:
    """Answer without a look at the body."""
    return Response(result="unread")


@api.get("/own-header")
async def read_own_header() -> JSONResponse:
    """Set the header that is not ours to set, twice."""
    answer = JSONResponse({"own": True}, headers={"X-Request-ID": "from-the-endpoint"})
    answer.headers.append("x-request-id", "and-once-more")
    return answer


@api.get("/context")
async def read_context(request: Request) -> Response[dict[str, Any]]:
    """Tell the ID as every accessor knows it."""
    context["note"] = "written"
    seen = {
        "accessor": current_request_id(),
        "context": context["X-Request-ID"],
        "state": request.state.request_id,
        "header": request.headers.get("x-request-id"),
        "note": context.get("note"),
    }
    return Response(result=seen)


@api.get("/time")
async def read_time(precision: int = 3) -> Response[list[float | None]]:
    """Tell the time of the request so far, before and after a wait."""
    before = current_request_time(precision)
    await asyncio.sleep(0.2)
    return Response(result=[before, current_request_time(precision)])
