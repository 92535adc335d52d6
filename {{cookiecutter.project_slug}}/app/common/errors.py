"""Every failure becomes the envelope of `response.py`, with a sentence for the caller and nothing from the inside."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.common.constants import ERROR_LOGGER
from app.common.exceptions import ServiceError
from app.common.request_id import current_request_id

MAX_FAULTS = 100
MAX_FAULTS_IN_CAUSE = 10
MAX_NAME = 100
"""Characters of a name in the place of a fault; a client may send names of any length."""

_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


def phrase_of(status: int) -> str:
    """Return the status' phrase as a sentence, e.g. `Not Found.`; `Error 599.` for a status without one."""
    try:
        return f"{HTTPStatus(status).phrase}."
    except ValueError:
        return f"Error {status}."


def error_response(
    status: int, cause: str, *, code: int | None = None, result: object = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the envelope of a failure; `code` defaults to the HTTP status."""
    if status < HTTPStatus.OK or status in _BODILESS:
        return Response(status_code=status, headers=headers)
    content = {
        "code": status if code is None else code,
        "message": "failed",
        "cause": cause,
        "request_id": current_request_id(),
        "result": result,
    }
    body = to_json(content, inf_nan_mode="null", serialize_unknown=True)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def log_unhandled(error: BaseException) -> None:
    """Log the traceback of an error that no handler caught; here, since not every server does it with the ID."""
    logging.getLogger(ERROR_LOGGER).error("Unhandled %s", type(error).__name__, exc_info=error)


def log_cancelled() -> None:
    """Say of what went on after the response that the server has stopped it."""
    logging.getLogger(ERROR_LOGGER).warning("Cancelled after the response, since the server stops")


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Answer `HTTPException`, raised by an endpoint or by the router (404, 405); its headers are kept."""
    assert isinstance(error, HTTPException)  # noqa: S101
    status, detail = error.status_code, cast("object", error.detail)  # FastAPI's takes any JSON
    if isinstance(detail, str):
        return error_response(status, detail, headers=error.headers)
    return error_response(status, phrase_of(status), result=detail, headers=error.headers)


async def on_validation_error(_: Request, error: Exception) -> Response:
    """Answer 422 with a phrase for each of the first faults; no value that was sent is repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = [
        {"loc": [_short(part) for part in fault["loc"]], "msg": fault["msg"], "type": fault["type"]}
        for fault in error.errors()[:MAX_FAULTS]
    ]
    cause = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:MAX_FAULTS_IN_CAUSE])
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, cause, result=faults)


def _short(part: int | str) -> int | str:
    return part if isinstance(part, int) else part[:MAX_NAME]


async def on_service_error(_: Request, error: Exception) -> Response:
    """Answer what a service raised on purpose."""
    assert isinstance(error, ServiceError)  # noqa: S101
    return error_response(error.status, error.cause, code=error.code)


async def on_unhandled(request: Request, error: Exception) -> Response:
    """Answer 500; only in debug mode the caller learns what happened. The traceback goes to the log."""
    debug = getattr(request.app.state, "debug", False)
    cause = f"{type(error).__name__}: {error}" if debug else "The server failed to answer; the request ID tells where."
    # uvicorn closes the connection after an exception; who is not told sends the next request into nothing (RFC 9112,
    # 9.6). Later versions of HTTP have no such header.
    headers = {"connection": "close"} if request.scope["http_version"].startswith("1") else None
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, cause, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make every failure of the application answer with the envelope."""
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(Exception, on_unhandled)
