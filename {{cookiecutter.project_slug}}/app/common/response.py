"""The response envelope: the shape of every JSON response. It fills in the request ID."""

from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from app.common.constants import NO_REQUEST_ID
from app.common.request_id import current_request_id

T = TypeVar("T")


class Response(BaseModel, Generic[T]):
    """The response envelope: endpoints annotated `-> Response[Item]` return `Response(result=...)`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    code: int = Field(0, description="0 on success, or the error code", examples=[0])
    message: Literal["success", "failed"] = Field("success", description="success or failed", examples=["success"])
    cause: str = Field("", description="why the request failed, for the caller", examples=[""])
    request_id: str = Field(
        "",
        description="the ID of this request, as in the response header and in every log line",
        examples=["079fa7bd-e737-40c5-9edf-6aac536595ad"],
    )
    result: T | None = Field(None, description="the result of the request")

    @model_validator(mode="after")
    def _fill_request_id(self) -> Self:
        # The field must count as set and differ from its default, or response_model_exclude_unset and
        # response_model_exclude_defaults would drop it. Bypasses __setattr__, which would validate again.
        if not self.request_id:
            self.__dict__["request_id"] = current_request_id()
        self.__pydantic_fields_set__.add("request_id")
        return self

    @field_serializer("request_id")
    def _current_request_id(self, value: str) -> str:
        # A response created in another request, or received from another service, must not be sent with that ID.
        current = current_request_id()
        return value if current == NO_REQUEST_ID else current


class ErrorResponse(Response[object]):
    """The error envelope: the shape of every failure."""

    code: int = Field(description="the error code; by default the HTTP status", examples=[404])
    message: Literal["success", "failed"] = Field("failed", description="success or failed", examples=["failed"])
    cause: str = Field("", description="why the request failed, for the caller", examples=["Order 7 does not exist."])
