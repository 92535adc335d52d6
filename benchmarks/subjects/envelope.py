"""The response of every subject: the service's response envelope, so that all serialize the same number of bytes."""

from pydantic import BaseModel

NO_ID = "00000000-0000-4000-8000-000000000000"
"""Placeholder of the same length for subjects without a request ID."""


class Envelope(BaseModel):
    """The response envelope."""

    code: int = 0
    message: str = "success"
    cause: str = ""
    request_id: str = NO_ID
    result: str | None = None
