"""Add the request ID header and the error envelope to every operation of the OpenAPI document."""

from typing import Any

from app.common.response import ErrorResponse

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_ENVELOPE = "ErrorResponse"


def describe(document: dict[str, Any], header_name: str) -> dict[str, Any]:
    """Return the document with the request ID header and the error envelope on every operation."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas[_ENVELOPE] = ErrorResponse.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components.setdefault("parameters", {})["RequestID"] = _parameter(header_name)
    components.setdefault("headers", {})["RequestID"] = {
        "description": "The ID of this request, as in the body and in every log line.",
        "required": True,
        "schema": {"type": "string"},
    }
    for path in document.get("paths", {}).values():
        for method in _METHODS:
            if method in path:
                _describe_operation(path[method], header_name)
    return document


def _parameter(header_name: str) -> dict[str, Any]:
    # No pattern and no length, since an invalid ID is replaced, never refused.
    return {
        "name": header_name,
        "in": "header",
        "required": False,
        "description": "The request ID; if it is missing or invalid, the service generates a new one.",
        "schema": {"type": "string"},
    }


def _describe_operation(operation: dict[str, Any], header_name: str) -> None:
    parameters = operation.setdefault("parameters", [])
    if not any(parameter.get("name", "").lower() == header_name.lower() for parameter in parameters):
        parameters.append({"$ref": "#/components/parameters/RequestID"})
    responses = operation["responses"]
    failure = {
        "description": "The request failed; `cause` says why.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ENVELOPE}"}}},
    }
    responses.setdefault("default", failure)
    if "422" in responses:
        responses["422"] = {**failure, "description": "The request is invalid; `result` lists the errors."}
    for response in responses.values():
        response.setdefault("headers", {})[header_name] = {"$ref": "#/components/headers/RequestID"}
