"""The OpenAPI document says what the service does: the ID everywhere, one shape, real results."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.common.response import Response
from app.main import Application
from tests.support import connect


class Item(BaseModel):
    name: str


@pytest.fixture
def document(app: Application) -> dict[str, Any]:
    @app.get("/items/{number}")
    async def item(number: int) -> Response[Item]:
        return Response(result=Item(name=str(number)))

    return app.openapi()


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def resolve(document: dict[str, Any], reference: str) -> Any:  # noqa: ANN401
    found = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_operation_takes_and_gives_the_id(document: dict[str, Any]) -> None:
    assert len(operations(document)) >= 8
    for operation in operations(document):
        references = [parameter["$ref"] for parameter in operation["parameters"] if "$ref" in parameter]
        assert [resolve(document, reference)["name"] for reference in references] == ["X-Request-ID"]
        for response in operation["responses"].values():
            assert resolve(document, response["headers"]["X-Request-ID"]["$ref"])["schema"] == {"type": "string"}


def test_every_operation_may_fail_with_the_envelope(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for status in {"default", "422"} & operation["responses"].keys():
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            assert set(resolve(document, schema["$ref"])["required"]) == set(Response.model_fields)
        assert "default" in operation["responses"]


def test_the_result_has_its_type(document: dict[str, Any]) -> None:
    (reference,) = document["paths"]["/items/{number}"]["get"]["responses"]["200"]["content"][
        "application/json"
    ].values()
    result = resolve(document, reference["$ref"])["properties"]["result"]
    assert {"$ref": "#/components/schemas/Item"} in result["anyOf"]


def test_fastapi_s_own_error_shapes_are_gone(document: dict[str, Any]) -> None:
    assert "422" in document["paths"]["/items/{number}"]["get"]["responses"]
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert references
    for reference in references:
        assert resolve(document, reference)


def test_asked_twice_it_says_the_same(app: Application) -> None:
    first = json.dumps(app.openapi())
    assert json.dumps(app.openapi()) == first


def test_the_header_has_the_name_in_the_settings(configure: Callable[..., Application]) -> None:
    text = json.dumps(configure(REQUEST_ID_HEADER="X-Correlation-ID").openapi())
    assert "X-Correlation-ID" in text
    assert "X-Request-ID" not in text


@pytest.mark.parametrize(("debug", "status"), [("true", 200), ("false", 404)])
@pytest.mark.parametrize("path", ["/api/docs", "/api/openapi.json"])
def test_the_documentation_is_for_debug_mode(
    debug: str, status: int, path: str, configure: Callable[..., Application]
) -> None:
    assert connect(configure(DEBUG=debug)).get(path).status_code == status


@pytest.mark.parametrize("path", ["/redoc", "/docs", "/openapi.json"])
def test_nothing_is_where_fastapi_would_have_it(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 404
