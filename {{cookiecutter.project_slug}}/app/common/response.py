"""The one shape of every JSON answer, which fills in the request's ID by itself."""

from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from app.common.constants import NO_REQUEST_ID
from app.common.request_id import current_request_id

T = TypeVar("T")


class Response(BaseModel, Generic[T]):
    """What an endpoint returns: `return Response(result=...)`, annotated `-> Response[Item]`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    code: int = Field(0, description="0, or the code of the error", examples=[0])
    message: Literal["success", "failed"] = Field("success", description="whether it worked", examples=["success"])
    cause: str = Field("", description="why it failed, for the caller", examples=[""])
    request_id: str = Field(
        "",
        description="the ID of this request, the same in the response's header and in every log line",
        examples=["079fa7bd-e737-40c5-9edf-6aac536595ad"],
    )
    result: T | None = Field(None, description="what was asked for")

    @model_validator(mode="after")
    def _fill_request_id(self) -> Self:
        # An assigned value counts as set and differs from the default, so that neither response_model_exclude_unset
        # nor response_model_exclude_defaults drops it. Written past __setattr__, which would validate once more.
        if not self.request_id:
            self.__dict__["request_id"] = current_request_id()
        self.__pydantic_fields_set__.add("request_id")
        return self

    @field_serializer("request_id")
    def _current_request_id(self, value: str) -> str:
        # One that was made in another request, or handed on from another service, must not go out under its ID.
        current = current_request_id()
        return value if current == NO_REQUEST_ID else current


class ErrorResponse(Response[object]):
    """The same shape when something went wrong."""

    code: int = Field(description="the code of the error: the HTTP status unless it says more", examples=[404])
    message: Literal["success", "failed"] = Field("failed", description="whether it worked", examples=["failed"])
    cause: str = Field("", description="why it failed, for the caller", examples=["There is nothing at /api/demos."])
