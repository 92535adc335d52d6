"""Exception handlers: respond to every failure with the error envelope of `response.py`, without internal details."""

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
"""Maximum length, in characters, of a field name in a validation error; clients may send names of any length."""

_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


def phrase_of(status: int) -> str:
    """Return the reason phrase of an HTTP status as a sentence, e.g. `Not Found.`; `Error 599.` if it has none."""
    try:
        return f"{HTTPStatus(status).phrase}."
    except ValueError:
        return f"Error {status}."


def error_response(
    status: int, cause: str, *, code: int | None = None, result: object = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the error envelope, without a body for 1xx, 204 and 304; `code` defaults to the HTTP status."""
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
    """Log the traceback of an unhandled exception; not every server would log it with the request ID."""
    logging.getLogger(ERROR_LOGGER).error("Unhandled %s", type(error).__name__, exc_info=error)


def log_cancelled() -> None:
    """Log that the server cancelled work that was still running after the response."""
    logging.getLogger(ERROR_LOGGER).warning("Cancelled after the response, because the server is stopping")


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Respond to an `HTTPException` of an endpoint or of the router (404, 405), with the exception's headers."""
    assert isinstance(error, HTTPException)  # noqa: S101
    status, detail = error.status_code, cast("object", error.detail)  # FastAPI allows any JSON value
    if isinstance(detail, str):
        return error_response(status, detail, headers=error.headers)
    return error_response(status, phrase_of(status), result=detail, headers=error.headers)


async def on_validation_error(_: Request, error: Exception) -> Response:
    """Respond with 422 and the first validation errors; values that the client sent are not repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = [
        {"loc": [_truncate(part) for part in fault["loc"]], "msg": fault["msg"], "type": fault["type"]}
        for fault in error.errors()[:MAX_FAULTS]
    ]
    cause = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:MAX_FAULTS_IN_CAUSE])
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, cause, result=faults)


def _truncate(part: int | str) -> int | str:
    return part if isinstance(part, int) else part[:MAX_NAME]


async def on_service_error(_: Request, error: Exception) -> Response:
    """Respond to a `ServiceError` with its status, code and cause."""
    assert isinstance(error, ServiceError)  # noqa: S101
    return error_response(error.status, error.cause, code=error.code)


async def on_unhandled(request: Request, error: Exception) -> Response:
    """Respond with 500; only in debug mode, the cause shows the exception. `log_unhandled` logs the traceback."""
    debug = getattr(request.app.state, "debug", False)
    cause = f"{type(error).__name__}: {error}" if debug else "Internal server error; find it in the log by request ID."
    # uvicorn closes the connection after an exception; without this header the client may send its next request on it
    # (RFC 9112, 9.6). HTTP/2 and later have no such header.
    headers = {"connection": "close"} if request.scope["http_version"].startswith("1") else None
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, cause, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Register the exception handlers, so that every failure of the application has the error envelope."""
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(Exception, on_unhandled)
