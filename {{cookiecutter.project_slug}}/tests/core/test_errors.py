"""Failures: a real status, the envelope, a sentence for the caller, and nothing from the inside."""

from collections.abc import Callable

import pytest
from fastapi import HTTPException
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.common.exceptions import ServiceError
from app.main import Application
from tests.support import HEADER, ID, connect

OWN = {HEADER: ID}


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
    response = failing(app, error).get("/fails", headers=OWN)
    code, cause, result = content
    assert response.status_code == status
    assert response.json() == {"code": code, "message": "failed", "cause": cause, "request_id": ID, "result": result}


def test_an_http_exception_keeps_its_headers(app: Application) -> None:
    error = HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Basic"})
    response = failing(app, error).get("/fails", headers=OWN)
    assert (response.headers["WWW-Authenticate"], response.headers.get_list(HEADER)) == ("Basic", [ID])


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int, app: Application) -> None:
    response = failing(app, HTTPException(status)).get("/fails", headers=OWN)
    assert (response.status_code, response.content, response.headers[HEADER]) == (status, b"", ID)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing-here", 404), ("POST", "/api/demo", 405), ("GET", "/api", 404)]
)
def test_router_errors_have_the_envelope(method: str, path: str, status: int, client: TestClient) -> None:
    response = client.request(method, path, headers=OWN)
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


def test_a_validation_error_names_each_fault_and_repeats_no_input(orders: TestClient) -> None:
    response = orders.post("/orders?limit=SECRET1", json={"count": "SECRET2"}, headers=OWN)
    content = response.json()
    assert (response.status_code, content["code"], content["request_id"]) == (422, 422, ID)
    assert "SECRET" not in response.text
    for place in ("query.limit: ", "body.item: ", "body.count: "):
        assert place in content["cause"]
    assert [fault["loc"] for fault in content["result"]] == [["query", "limit"], ["body", "item"], ["body", "count"]]
    assert all(fault.keys() == {"loc", "msg", "type"} for fault in content["result"])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"item": "a", "count": 1e400}', b"null"])
def test_a_body_that_cannot_be_read_is_422(body: bytes, orders: TestClient) -> None:
    response = orders.post("/orders", content=body, headers={"Content-Type": "application/json", **OWN})
    assert (response.status_code, response.json()["request_id"]) == (422, ID)


def test_a_cause_has_at_most_ten_faults(app: Application, client: TestClient) -> None:
    @app.post("/many")
    async def many(numbers: list[int]) -> int:
        return sum(numbers)

    content = client.post("/many", json=["x"] * 500).json()
    assert content["cause"].count("body.") == 10


@pytest.mark.parametrize(("debug", "told"), [("false", False), ("true", True)])
def test_only_in_debug_mode_the_caller_learns_of_a_defect(
    debug: str, told: bool, configure: Callable[..., Application]
) -> None:
    response = failing(configure(DEBUG=debug), RuntimeError("the password is 1234")).get("/fails", headers=OWN)
    content = response.json()
    assert (response.status_code, content["code"], content["request_id"]) == (500, 500, ID)
    assert response.headers["connection"] == "close"  # as uvicorn does after an exception (RFC 9112, 9.6)
    assert ("password" in response.text) is told
    assert ("RuntimeError" in response.text) is told
    assert "Traceback" not in response.text
    assert content["cause"]


def test_a_service_error_says_its_cause_as_a_string() -> None:
    assert str(ServiceError("It cannot be done.")) == "It cannot be done."


@pytest.mark.parametrize("status", [0, 204, 304, 399, 600])
def test_a_service_error_has_the_status_of_a_failure(status: int) -> None:
    with pytest.raises(ValueError, match="from 400 to 599"):
        ServiceError("It cannot be done.", status=status)
