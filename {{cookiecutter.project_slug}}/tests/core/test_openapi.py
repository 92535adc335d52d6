"""The OpenAPI document: the request ID header, the error envelope, and the types of results."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

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


def test_every_operation_has_the_id_header_in_request_and_response(document: dict[str, Any]) -> None:
    assert len(operations(document)) >= 8
    for operation in operations(document):
        references = [parameter["$ref"] for parameter in operation["parameters"] if "$ref" in parameter]
        assert [resolve(document, reference)["name"] for reference in references] == ["X-Request-ID"]
        for response in operation["responses"].values():
            assert resolve(document, response["headers"]["X-Request-ID"]["$ref"])["schema"] == {"type": "string"}


def test_every_operation_has_the_error_envelope_and_no_schema_of_fastapi(document: dict[str, Any]) -> None:
    assert "422" in document["paths"]["/items/{number}"]["get"]["responses"]
    for operation in operations(document):
        assert "default" in operation["responses"]
        for status in {"default", "422"} & operation["responses"].keys():
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            assert set(resolve(document, schema["$ref"])["required"]) == set(Response.model_fields)
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()


def test_the_result_has_its_type(document: dict[str, Any]) -> None:
    content = document["paths"]["/items/{number}"]["get"]["responses"]["200"]["content"]
    result = resolve(document, content["application/json"]["schema"]["$ref"])["properties"]["result"]
    assert {"$ref": "#/components/schemas/Item"} in result["anyOf"]


def test_every_reference_can_be_resolved(document: dict[str, Any]) -> None:
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert references
    assert all(resolve(document, reference) for reference in references)


def test_document_is_the_same_each_time(app: Application) -> None:
    first = json.dumps(app.openapi())
    assert json.dumps(app.openapi()) == first


def test_the_header_has_the_name_in_the_settings(configure: Callable[..., Application]) -> None:
    text = json.dumps(configure(REQUEST_ID_HEADER="X-Correlation-ID").openapi())
    assert "X-Correlation-ID" in text
    assert "X-Request-ID" not in text


@pytest.mark.parametrize(
    ("debug", "path", "status"),
    [
        ("true", "/api/docs", 200),
        ("true", "/api/openapi.json", 200),
        *[("true", path, 404) for path in ("/redoc", "/docs", "/openapi.json")],
        *[("false", path, 404) for path in ("/api/docs", "/api/openapi.json", "/redoc", "/docs", "/openapi.json")],
    ],
)
def test_documentation_is_served_in_debug_mode_only(
    debug: str, path: str, status: int, configure: Callable[..., Application]
) -> None:
    assert connect(configure(DEBUG=debug)).get(path).status_code == status
