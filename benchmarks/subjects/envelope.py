"""The answer that every subject gives: the shape of the service's, so that each has the same bytes to make."""

from pydantic import BaseModel

NO_ID = "00000000-0000-4000-8000-000000000000"
"""What stands for the ID where a subject has none; as long as one."""


class Envelope(BaseModel):
    """What an endpoint returns."""

    code: int = 0
    message: str = "success"
    cause: str = ""
    request_id: str = NO_ID
    result: str | None = None
