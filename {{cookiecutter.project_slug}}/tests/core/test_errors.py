"""Failures: the HTTP status, the error envelope, a cause for the caller, and no internal details."""

from collections.abc import Callable

import pytest
from fastapi import HTTPException
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.common.exceptions import ServiceError
from app.main import Application
from tests.support import HEADER, ID, connect

WITH_ID = {HEADER: ID}


def failing(app: Application, error: Exception) -> TestClient:
    @app.get("/fails")
    async def fails() -> None:
        raise error

    return connect(app)


@pytest.mark.parametrize(
    ("error", "status", "content"),
    [
        (HTTPException(404), 404, (404, "Not Found", None)),
        (HTTPException(409, "It is taken."), 409, (409, "It is taken.", None)),
        (HTTPException(409, {"taken_by": "you"}), 409, (409, "Conflict.", {"taken_by": "you"})),
        (HTTPException(400, ["a", "b"]), 400, (400, "Bad Request.", ["a", "b"])),
        (HTTPException(599, {"a": 1}), 599, (599, "Error 599.", {"a": 1})),
        (ServiceError("It cannot be done."), 400, (400, "It cannot be done.", None)),
        (ServiceError("Not now.", status=503), 503, (503, "Not now.", None)),
        (ServiceError("Not now.", status=409, code=4711), 409, (4711, "Not now.", None)),
        (ServiceError("Zero is a code.", code=0), 400, (0, "Zero is a code.", None)),
    ],
)
def test_raised_errors_become_the_envelope(
    error: Exception, status: int, content: tuple[int, str, object], app: Application
) -> None:
    response = failing(app, error).get("/fails", headers=WITH_ID)
    code, cause, result = content
    assert response.status_code == status
    assert response.json() == {"code": code, "message": "failed", "cause": cause, "request_id": ID, "result": result}


def test_an_http_exception_keeps_its_headers(app: Application) -> None:
    error = HTTPException(401, "Credentials are missing.", headers={"WWW-Authenticate": "Basic"})
    response = failing(app, error).get("/fails", headers=WITH_ID)
    assert (response.headers["WWW-Authenticate"], response.headers.get_list(HEADER)) == ("Basic", [ID])


@pytest.mark.parametrize("status", [204, 304])
def test_response_with_status_204_or_304_has_no_body(status: int, app: Application) -> None:
    response = failing(app, HTTPException(status)).get("/fails", headers=WITH_ID)
    assert (response.status_code, response.content, response.headers[HEADER]) == (status, b"", ID)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing-here", 404), ("POST", "/api/demo", 405), ("GET", "/api", 404)]
)
def test_router_errors_have_the_envelope(method: str, path: str, status: int, client: TestClient) -> None:
    response = client.request(method, path, headers=WITH_ID)
    content = response.json()
    assert (response.status_code, content["code"], content["message"]) == (status, status, "failed")
    assert (content["request_id"], content["result"]) == (ID, None)
    assert (status == 405) is ("allow" in response.headers)


class Order(BaseModel):
    item: str
    count: int


@pytest.fixture
def orders(app: Application, client: TestClient) -> TestClient:
    @app.post("/orders")
    async def order(order: Order, limit: int = 3) -> int:
        return order.count + limit

    return client


def test_a_validation_error_lists_each_error_without_the_input(orders: TestClient) -> None:
    response = orders.post("/orders?limit=SECRET1", json={"count": "SECRET2"}, headers=WITH_ID)
    content = response.json()
    assert (response.status_code, content["code"], content["request_id"]) == (422, 422, ID)
    assert "SECRET" not in response.text
    for place in ("query.limit: ", "body.item: ", "body.count: "):
        assert place in content["cause"]
    assert [fault["loc"] for fault in content["result"]] == [["query", "limit"], ["body", "item"], ["body", "count"]]
    assert all(fault.keys() == {"loc", "msg", "type"} for fault in content["result"])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"item": "a", "count": 1e400}', b"null"])
def test_invalid_body_is_422(body: bytes, orders: TestClient) -> None:
    response = orders.post("/orders", content=body, headers={"Content-Type": "application/json", **WITH_ID})
    assert (response.status_code, response.json()["request_id"]) == (422, ID)


def test_a_cause_has_at_most_ten_validation_errors(app: Application, client: TestClient) -> None:
    @app.post("/many")
    async def many(numbers: list[int]) -> int:
        return sum(numbers)

    content = client.post("/many", json=["x"] * 500).json()
    assert content["cause"].count("body.") == 10


@pytest.mark.parametrize(("debug", "has_details"), [("false", False), ("true", True)])
def test_exception_is_shown_to_the_caller_in_debug_mode_only(
    debug: str, has_details: bool, configure: Callable[..., Application]
) -> None:
    response = failing(configure(DEBUG=debug), RuntimeError("the password is 1234")).get("/fails", headers=WITH_ID)
    content = response.json()
    assert (response.status_code, content["code"], content["request_id"]) == (500, 500, ID)
    assert response.headers["connection"] == "close"  # as uvicorn does after an exception (RFC 9112, 9.6)
    assert ("password" in response.text) is has_details
    assert ("RuntimeError" in response.text) is has_details
    assert "Traceback" not in response.text
    assert content["cause"]


def test_str_of_a_service_error_is_its_cause() -> None:
    assert str(ServiceError("It cannot be done.")) == "It cannot be done."


@pytest.mark.parametrize("status", [0, 204, 304, 399, 600])
def test_a_service_error_must_have_a_status_from_400_to_599(status: int) -> None:
    with pytest.raises(ValueError, match="from 400 to 599"):
        ServiceError("It cannot be done.", status=status)
