"""The edge accepts and makes IDs by the rule of the service; a test of the service compares the patterns."""

import pytest

from tests.live.hostile_cases import ACCEPTED_IDS, CONTROLS, REPLACED_IDS, SPACED_IDS, UNTOUCHED_IDS, request
from tests.support.client import new_id

from .edge import MADE, Edge

pytestmark = pytest.mark.full

LENGTHS = {length: b"a" * length for length in (1, 7, 8, 127, 128, 129)}
ACCEPTED = [*ACCEPTED_IDS, LENGTHS[8], LENGTHS[127], LENGTHS[128], *(one % new_id().encode() for one in SPACED_IDS)]
REPLACED = [*UNTOUCHED_IDS, LENGTHS[1], LENGTHS[7], LENGTHS[129], *(one for one in REPLACED_IDS if len(one) < 7000)]


@pytest.mark.parametrize(("values", "accepted"), [(ACCEPTED, True), (REPLACED, False)], ids=["accepted", "replaced"])
def test_edge_decides_as_the_service_does_and_hands_it_the_result(
    edge: Edge, values: list[bytes], accepted: bool
) -> None:
    with edge.connect() as connection:
        for value in values:
            data = request(b"X-Request-ID: " + value, target=b"/probe/echo").replace(b"Connection: close\r\n", b"")
            connection.send(data)
            answer = connection.answer()
            assert answer.status == 200, value
            assert (answer.one() == value.strip(b" \t").decode("latin-1")) is accepted, value
            assert accepted or MADE(answer.one())
            assert [one for name, one in answer.json()["result"] if name == "x-request-id"] == [answer.one()]
            assert answer.json()["request_id"] == answer.one()


def test_id_that_is_not_sent_exactly_once_or_has_a_control_character_is_replaced(edge: Edge) -> None:
    """Two lines, even of one value, and lines of another name are no ID."""
    first, second = (b"X-Request-ID: " + new_id().encode() for _ in range(2))
    for lines in [
        (first, second),
        (first, first),
        (first, b"x-request-id:"),
        (b"X-Request-ID:", first),
        (b"X_Request_ID: abcdefgh",),
        (b"X-Correlation-ID: abcdefgh",),
        *((b"X-Request-ID: abcdefgh" + control,) for control in CONTROLS),
    ]:
        answer = edge.ask(request(*lines))
        assert MADE(answer.one()), lines
        assert answer.json()["request_id"] == answer.one()


def test_made_ids_are_distinct_uuids_of_version_4(edge: Edge) -> None:
    found = set()
    for _ in range(4):
        with edge.connect() as connection:
            connection.send(b"GET /__wait HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
            for answer in (connection.answer() for _ in range(500)):
                assert MADE(answer.one())
                assert answer.json()["request_id"] == answer.one()
                found.add(answer.one())
    assert len(found) == 2000
