"""The application: order of middlewares, CORS, and metadata."""

import asyncio
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.common.http.refusals import REFUSAL_KEY, Refusal
from app.environment import project_metadata
from app.main import Application
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

ORIGIN = "https://app.example.org"


@pytest.fixture
def browser(configure: Callable[..., Application]) -> TestClient:
    app = configure(CORS_ORIGINS=ORIGIN, MAX_BODY_BYTES="10")

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError

    client = connect(app)
    client.headers["Origin"] = ORIGIN
    return client


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/demo", b"", 200),
        ("GET", "/none", b"", 404),
        ("GET", "/api/demo/wait?seconds=x", b"", 422),
        ("POST", "/api/demo", b"x" * 11, 413),
        ("GET", "/defect", b"", 500),
    ],
)
def test_browser_can_read_the_id_of_every_response(
    method: str, path: str, body: bytes, status: int, browser: TestClient
) -> None:
    response = browser.request(method, path, content=body, headers={HEADER: ID})
    assert (response.status_code, response.headers.get_list(HEADER)) == (status, [ID])
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert response.headers["Access-Control-Expose-Headers"] == HEADER


def test_browser_can_send_the_id(browser: TestClient, logs: Logs) -> None:
    preflight = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": f"{HEADER}, Authorization"}
    response = browser.options("/api/demo", headers=preflight)
    assert response.status_code == 200
    assert HEADER.lower() in response.headers["Access-Control-Allow-Headers"].lower()
    assert response.headers[HEADER]
    assert len(logs.access) == 1


def test_other_origins_get_no_cors_headers(browser: TestClient) -> None:
    response = browser.get("/api/demo", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(("origins", "with_credentials"), [("*", False), (ORIGIN, True)])
def test_credentials_are_allowed_for_listed_origins_only(
    origins: str, with_credentials: bool, configure: Callable[..., Application]
) -> None:
    headers = connect(configure(CORS_ORIGINS=origins)).get("/api/demo", headers={"Origin": ORIGIN}).headers
    assert ("Access-Control-Allow-Credentials" in headers) is with_credentials


def test_cors_is_off_by_default(client: TestClient) -> None:
    headers = client.get("/api/demo", headers={"Origin": ORIGIN}).headers
    assert not any(name.startswith("access-control-") for name in headers)


def test_application_has_the_metadata_of_the_project(app: Application) -> None:
    project = project_metadata()
    assert (app.title, app.version, app.description) == (project["name"], project["version"], project["description"])


def test_refusals_of_the_server_have_cors_headers(browser: TestClient) -> None:
    scope = http_scope(headers=[(b"origin", ORIGIN.encode())])
    scope[REFUSAL_KEY] = Refusal(431, "Too much.")
    start, *_ = asyncio.run(drive(browser.app, scope))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"access-control-allow-origin"]) == (431, ORIGIN.encode())
    assert headers[b"access-control-expose-headers"] == HEADER.encode()


def test_telemetry_of_fastapi_is_off(app: Application) -> None:
    # operation_spans is on by default, but it only adds detail to features that are off.
    assert [name for name, is_on in app._telemetry.items() if is_on is True] == ["operation_spans"]


def test_user_middleware_is_inside_of_our_stack(app: Application, logs: Logs) -> None:
    """As in Starlette; so the response to its exception has the ID, too."""

    @app.middleware("http")
    async def broken(*_: object) -> None:
        raise RuntimeError

    response = connect(app).get("/api/demo", headers={HEADER: ID})
    assert (response.status_code, response.headers[HEADER], response.json()["request_id"]) == (500, ID, ID)
    assert [f" {ID} 500 " in line for line in logs.access] == [True]
    assert Application.build_middleware_stack is FastAPI.build_middleware_stack
