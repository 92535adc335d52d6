# mypy: ignore-errors
"""WebSockets, and an application that is mounted in the service."""

import asyncio

from app.common.log_handler import RequestLogHandler
from app.common.request_id import current_request_id
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import JSONResponse

log = RequestLogHandler("probe")
api = APIRouter(prefix="/probe")


@api.websocket("/ws/echo")
async def talk_echo(websocket: WebSocket) -> None:
    """Echo messages until the client closes."""
    await websocket.accept()
    log.info("in websocket")
    async for text in websocket.iter_text():
        await websocket.send_text(f"{current_request_id()} {text}")


@api.websocket("/ws/close")
async def talk_close(websocket: WebSocket) -> None:
    """Accept, wait, close."""
    await websocket.accept()
    await asyncio.sleep(0.3)
    await websocket.close(4000, "enough")


@api.websocket("/ws/refuse")
async def talk_refuse(websocket: WebSocket) -> None:
    """Close without accepting."""
    await websocket.close()


@api.websocket("/ws/denial")
async def talk_denial(websocket: WebSocket) -> None:
    """Refuse the handshake with an HTTP response."""
    await websocket.send_denial_response(JSONResponse({"denied": current_request_id()}, 401))


@api.websocket("/ws/fail")
async def talk_fail(websocket: WebSocket, *, accept: bool = True) -> None:
    """Raise an error after or before accepting."""
    if accept:
        await websocket.accept()
    raise RuntimeError("probe websocket failure")


mounted = FastAPI()


@mounted.get("/fail")
async def mounted_fail() -> dict[str, str]:
    """Raise an error in a mounted FastAPI application."""
    raise RuntimeError("probe mounted failure")
