"""Responses to refused requests."""

import asyncio
import json
from collections.abc import Callable

import pytest
from starlette.types import ASGIApp

from app.common.http.refusals import REFUSAL_KEY, Refusal, RefusalMiddleware
from app.common.middlewares import ContextMiddleware
from tests.core.support import drive, http_scope
from tests.support import ID


@pytest.mark.parametrize(
    "wrap_app", [ContextMiddleware, lambda app: ContextMiddleware(RefusalMiddleware(app), refuses=False)]
)
def test_context_middleware_alone_responds_to_refusals_and_large_bodies(wrap_app: Callable[[ASGIApp], ASGIApp]) -> None:
    """Also without `create_app`, in any ASGI application."""
    scope = {**http_scope(), REFUSAL_KEY: Refusal(431, "Too much.")}
    assert asyncio.run(drive(wrap_app(never), scope))[0]["status"] == 431
    large = http_scope(method="POST", headers=[(b"content-length", b"11")])
    assert asyncio.run(drive(ContextMiddleware(never, max_body_bytes=10), large))[0]["status"] == 413


async def never(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize(("status", "extra"), [(400, set()), (426, {b"upgrade", b"sec-websocket-version"})])
def test_refused_request_never_reaches_the_application(status: int, extra: set[bytes]) -> None:
    scope = http_scope(headers=[(b"x-request-id", ID.encode())])
    scope[REFUSAL_KEY] = Refusal(status, "It cannot be served.")
    start, body = asyncio.run(drive(ContextMiddleware(RefusalMiddleware(never)), scope))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"connection"], headers[b"x-request-id"]) == (status, b"close", ID.encode())
    assert headers.keys() - {b"content-type", b"content-length", b"connection", b"x-request-id"} == extra
    content = json.loads(body["body"])
    assert (content["code"], content["cause"], content["request_id"]) == (status, "It cannot be served.", ID)
