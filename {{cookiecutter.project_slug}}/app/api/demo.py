"""Demo routes that show how to follow a request by its ID; delete this module when you no longer need it."""

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
    """Write a log line and respond; both carry the request ID."""
    log.info("demo")
    return Response(result="demo")


@router.get("/wait")
async def wait(seconds: Seconds = 0.1) -> Response[float]:
    """Respond after some seconds; the access log line shows the duration."""
    return Response(result=await demo.wait(seconds))


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def stream(lines: Annotated[int, Query(ge=1, le=10)] = 5, pause: Pause = 0.1) -> StreamingResponse:
    """Stream lines; the access log line is written at the end and has the duration of the whole stream."""
    return StreamingResponse(demo.count(lines, pause), media_type="text/plain")


@router.get("/background")
async def background(tasks: BackgroundTasks, seconds: Seconds = 0.2) -> Response[str]:
    """Respond immediately and continue in a background task, whose log line also carries the request ID."""
    tasks.add_task(demo.clean_up, seconds)
    return Response(result="accepted")


@router.get("/refuse")
async def refuse() -> Response[str]:
    """Fail with a `ServiceError`: the response is the error envelope with an application-specific code."""
    return Response(result=demo.refuse())


@router.get("/fail", include_in_schema=False)
async def fail() -> Response[str]:
    """Fail with an unhandled exception: the response is the error envelope, and the traceback in the log has its ID.

    Not in the OpenAPI document, since no caller should rely on a defect.
    """
    demo.fail()
    return Response(result="never")
