"""`docker compose up` of a freshly generated service."""

from tests.live.client import new_id

from .stack import Stack


def test_one_id_in_every_place(stack: Stack) -> None:
    """The client's answer, nginx's line, the access line and the application's line have the same ID."""
    request_id = new_id("up")
    answer = stack.request("GET", "/api/demo", request_id=request_id)
    assert answer.status == 200
    assert answer.one() == answer.json()["request_id"] == request_id
    assert len(stack.wait_for_lines(request_id, 3)) == 3
