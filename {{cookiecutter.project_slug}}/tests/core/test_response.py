"""The response envelope: it has the request ID, however an endpoint returns it."""

from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.common.response import ErrorResponse, Response
from app.main import Application
from tests.support import HEADER, ID

WITH_ID = {HEADER: ID}
ENVELOPE = {"code": 0, "message": "success", "cause": "", "request_id": ID}


class Item(BaseModel):
    name: str = "thing"
    price: float | None = None


def test_envelope_has_its_fields_in_order(client: TestClient) -> None:
    expected = ENVELOPE | {"result": "demo"}
    assert list(client.get("/api/demo", headers=WITH_ID).json().items()) == list(expected.items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ENVELOPE | {"result": {"name": "a", "price": None}}),
        ({"response_model_exclude_none": True}, ENVELOPE | {"result": {"name": "a"}}),
        ({"response_model_exclude_unset": True}, {"request_id": ID, "result": {"name": "a"}}),
        ({"response_model_exclude_defaults": True}, {"request_id": ID, "result": {"name": "a"}}),
        ({"response_model_include": {"request_id"}}, {"request_id": ID}),
    ],
)
@pytest.mark.parametrize("form", ["model", "dict"])
def test_response_model_options_do_not_drop_the_id(
    form: str, options: dict[str, Any], expected: dict[str, Any], app: Application, client: TestClient
) -> None:
    @app.get("/item", response_model=Response[Item], **options)
    async def item() -> Any:  # noqa: ANN401
        return Response(result=Item(name="a")) if form == "model" else {"result": {"name": "a"}}

    assert client.get("/item", headers=WITH_ID).json() == expected


def test_result_of_the_wrong_type_is_a_500(app: Application, client: TestClient) -> None:
    @app.get("/wrong", response_model=Response[int])
    async def wrong() -> dict[str, str]:
        return {"result": "no number"}

    response = client.get("/wrong", headers=WITH_ID)
    assert (response.status_code, response.json()["request_id"]) == (500, ID)


def test_id_is_neither_changed_nor_generated_outside_of_a_request() -> None:
    assert Response(result=1).model_dump(exclude_defaults=True) == {"request_id": "-", "result": 1}
    assert Response[str].model_validate({"request_id": ID, "result": "from another service"}).request_id == ID


def test_a_message_is_success_or_failed() -> None:
    with pytest.raises(ValueError, match="success"):
        Response(message="perhaps")


def test_error_envelope_has_the_same_fields() -> None:
    assert ErrorResponse.model_fields.keys() == Response.model_fields.keys()
    assert ErrorResponse(code=404, cause="none").message == "failed"


@pytest.mark.parametrize("model", [Response[Item], ErrorResponse])
def test_the_schema_describes_every_field_and_requires_it(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(mode="serialization")
    assert set(schema["required"]) == {"code", "message", "cause", "request_id", "result"}
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        assert name == "result" or field["examples"]


def test_reused_response_has_the_id_of_the_current_request(app: Application, client: TestClient) -> None:
    shared: Response[str] = Response(result="created before", request_id="another-request")

    @app.get("/shared")
    async def reused() -> Response[str]:
        return shared

    for request_id in ("first-request", "second-request"):
        response = client.get("/shared", headers={HEADER: request_id})
        assert (response.headers[HEADER], response.json()["request_id"]) == (request_id, request_id)
    assert shared.model_dump()["request_id"] == "another-request"
