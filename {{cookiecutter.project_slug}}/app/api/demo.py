"""What a newcomer calls to see that every request can be followed; delete it when you have seen it."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from fastapi.responses import StreamingResponse

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from app.services import demo

log = RequestLogHandler("demo")
router = APIRouter(prefix="/demo", tags=["demo"])

Seconds = Annotated[float, Query(ge=0, le=2, allow_inf_nan=False, description="seconds")]
Pause = Annotated[float, Query(ge=0, le=0.2, allow_inf_nan=False, description="seconds before each line")]


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
async def stream(lines: Annotated[int, Query(ge=1, le=10)] = 5, pause: Pause = 0.1) -> StreamingResponse:
    """Answer line by line; the access line is written at the end and counts the whole time."""
    return StreamingResponse(demo.count(lines, pause), media_type="text/plain")


@router.get("/background")
async def background(tasks: BackgroundTasks, seconds: Seconds = 0.2) -> Response[str]:
    """Answer at once and go on working; the line of that work carries the ID as well."""
    tasks.add_task(demo.clean_up, seconds)
    return Response(result="accepted")


@router.get("/refuse")
async def refuse() -> Response[str]:
    """Say no, as a service does that cannot do its work: the answer has a code of its own."""
    return Response(result=demo.refuse())


@router.get("/fail", include_in_schema=False)
async def fail() -> Response[str]:
    """Run into a defect: the answer keeps its shape, and the traceback in the log carries the ID.

    Not in the OpenAPI document, since no caller should count on a defect.
    """
    demo.fail()
    return Response(result="never")
