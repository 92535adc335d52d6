"""What the OpenAPI document says of every operation: the ID's header goes in and comes out, failures have one shape."""

from typing import Any

from app.common.response import ErrorResponse

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_ENVELOPE = "ErrorResponse"


def describe(document: dict[str, Any], header_name: str) -> dict[str, Any]:
    """Return the document with the ID's header and the error envelope on every operation."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas[_ENVELOPE] = ErrorResponse.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components.setdefault("parameters", {})["RequestID"] = _parameter(header_name)
    components.setdefault("headers", {})["RequestID"] = {
        "description": "The ID of this request, the same in the body and in every log line.",
        "required": True,
        "schema": {"type": "string"},
    }
    for path in document.get("paths", {}).values():
        for method in _METHODS:
            if method in path:
                _describe_operation(path[method], header_name)
    return document


def _parameter(header_name: str) -> dict[str, Any]:
    # No pattern and no length: a value that does not fit is replaced and never refused.
    return {
        "name": header_name,
        "in": "header",
        "required": False,
        "description": "An ID to follow the request by; a new one is made if it is missing or unusable.",
        "schema": {"type": "string"},
    }


def _describe_operation(operation: dict[str, Any], header_name: str) -> None:
    parameters = operation.setdefault("parameters", [])
    if not any(known.get("name", "").lower() == header_name.lower() for known in parameters):
        parameters.append({"$ref": "#/components/parameters/RequestID"})
    responses = operation["responses"]
    failure = {
        "description": "The request failed; `cause` says why.",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ENVELOPE}"}}},
    }
    responses.setdefault("default", failure)
    if "422" in responses:
        responses["422"] = {**failure, "description": "The request does not fit; `result` lists each fault."}
    for response in responses.values():
        response.setdefault("headers", {})[header_name] = {"$ref": "#/components/headers/RequestID"}
