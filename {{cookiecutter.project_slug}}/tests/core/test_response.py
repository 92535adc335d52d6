"""The envelope: the ID is in it whatever way an endpoint takes to return it."""

from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from app.common.response import ErrorResponse, Response
from app.main import Application
from tests.support import HEADER, ID

OWN = {HEADER: ID}
WHOLE = {"code": 0, "message": "success", "cause": "", "request_id": ID}


class Item(BaseModel):
    name: str = "thing"
    price: float | None = None


def test_the_shape_and_its_order(client: TestClient) -> None:
    expected = WHOLE | {"result": "demo"}
    assert list(client.get("/api/demo", headers=OWN).json().items()) == list(expected.items())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, WHOLE | {"result": {"name": "a", "price": None}}),
        ({"response_model_exclude_none": True}, WHOLE | {"result": {"name": "a"}}),
        ({"response_model_exclude_unset": True}, {"request_id": ID, "result": {"name": "a"}}),
        ({"response_model_exclude_defaults": True}, {"request_id": ID, "result": {"name": "a"}}),
        ({"response_model_include": {"request_id"}}, {"request_id": ID}),
    ],
)
@pytest.mark.parametrize("form", ["model", "dict"])
def test_the_id_survives_every_way_to_leave_fields_out(
    form: str, options: dict[str, Any], expected: dict[str, Any], app: Application, client: TestClient
) -> None:
    @app.get("/item", response_model=Response[Item], **options)
    async def item() -> Any:  # noqa: ANN401
        return Response(result=Item(name="a")) if form == "model" else {"result": {"name": "a"}}

    assert client.get("/item", headers=OWN).json() == expected


def test_a_result_that_does_not_fit_is_a_defect(app: Application, client: TestClient) -> None:
    @app.get("/wrong", response_model=Response[int])
    async def wrong() -> dict[str, str]:
        return {"result": "no number"}

    response = client.get("/wrong", headers=OWN)
    assert (response.status_code, response.json()["request_id"]) == (500, ID)


def test_outside_of_a_request_a_given_id_is_kept_and_none_is_made() -> None:
    assert Response(result=1).model_dump(exclude_defaults=True) == {"request_id": "-", "result": 1}
    assert Response[str].model_validate({"request_id": ID, "result": "from another service"}).request_id == ID


def test_a_message_is_success_or_failed() -> None:
    with pytest.raises(ValueError, match="success"):
        Response(message="perhaps")


def test_a_failure_has_the_same_fields() -> None:
    assert ErrorResponse.model_fields.keys() == Response.model_fields.keys()
    assert ErrorResponse(code=404, cause="none").message == "failed"


@pytest.mark.parametrize("model", [Response[Item], ErrorResponse])
def test_the_schema_describes_every_field_and_requires_it(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(mode="serialization")
    assert set(schema["required"]) == {"code", "message", "cause", "request_id", "result"}
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        assert name == "result" or field["examples"]


def test_a_response_that_outlives_its_request_goes_out_under_the_right_id(app: Application, client: TestClient) -> None:
    kept: Response[str] = Response(result="made before", request_id="somebody-else-1")

    @app.get("/kept")
    async def reused() -> Response[str]:
        return kept

    for request_id in ("first-request", "second-request"):
        response = client.get("/kept", headers={HEADER: request_id})
        assert (response.headers[HEADER], response.json()["request_id"]) == (request_id, request_id)
    assert kept.model_dump()["request_id"] == "somebody-else-1"
