"""How a request is answered that is refused."""

import asyncio
import json

import pytest

from app.common.http.refusals import REFUSAL_KEY, Refusal, RefusalMiddleware
from app.common.middlewares import ContextMiddleware
from tests.core.support import drive, http_scope
from tests.support import ID


async def never(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize(("status", "extra"), [(400, set()), (426, {b"upgrade", b"sec-websocket-version"})])
def test_a_refusal_is_answered_instead_of_being_served(status: int, extra: set[bytes]) -> None:
    scope = http_scope(headers=[(b"x-request-id", ID.encode())])
    scope[REFUSAL_KEY] = Refusal(status, "It cannot be served.")
    start, body = asyncio.run(drive(ContextMiddleware(RefusalMiddleware(never)), scope))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"connection"], headers[b"x-request-id"]) == (status, b"close", ID.encode())
    assert headers.keys() - {b"content-type", b"content-length", b"connection", b"x-request-id"} == extra
    content = json.loads(body["body"])
    assert (content["code"], content["cause"], content["request_id"]) == (status, "It cannot be served.", ID)
