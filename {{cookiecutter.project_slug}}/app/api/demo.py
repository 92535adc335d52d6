"""What a newcomer calls to see that every request can be followed; delete it when you have seen it."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from fastapi.responses import StreamingResponse

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from app.services import demo

log = RequestLogHandler("demo")
router = APIRouter(prefix="/demo", tags=["demo"])

Seconds = Annotated[float, Query(ge=0, allow_inf_nan=False, description="seconds")]


@router.get("")
async def show() -> Response[str]:
    """Log a line and answer; both carry the ID."""
    log.info("demo")
    return Response(result="demo")


@router.get("/wait")
async def wait(seconds: Seconds = 0.1) -> Response[float]:
    """Answer after a while; the access line shows how long it took."""
    return Response(result=await demo.wait(seconds))


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def stream(
    lines: Annotated[int, Query(ge=1, le=100)] = 5,
    pause: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)] = 0.1,
) -> StreamingResponse:
    """Answer line by line; the access line is written at the end and counts the whole time."""
    return StreamingResponse(demo.count(lines, pause), media_type="text/plain")


@router.get("/background")
async def background(
    tasks: BackgroundTasks, pause: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0.2
) -> Response[str]:
    """Answer at once and go on working; the line of that work carries the ID as well."""
    tasks.add_task(demo.clean_up, pause)
    return Response(result="accepted")


@router.get("/fail")
async def fail() -> Response[str]:
    """Run into a defect: the answer keeps its shape, and the traceback in the log carries the ID."""
    demo.fail()
    return Response(result="never")
