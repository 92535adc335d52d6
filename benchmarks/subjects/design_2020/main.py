"""The application and its response envelope."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from design_2020.request_context import ContextMiddleware, RequestIdPlugin, RequestTimePlugin, current_request_id


class Response(BaseModel):
    """The response envelope."""

    code: int = Field(0, description="error code", examples=[0])
    message: str = Field("success", description="success or failed", examples=["success"])
    cause: Any = Field("", description="why it failed", examples=[""])
    request_id: str = Field(default_factory=current_request_id, description="ID of the request")
    result: Any = Field(None, description="the result")


app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`
app.add_middleware(ContextMiddleware, plugins=(RequestIdPlugin(), RequestTimePlugin()))


@app.get("/api/bench")
async def bench() -> Response:
    """Return the envelope."""
    return Response(result="demo")
