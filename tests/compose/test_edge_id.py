"""nginx accepts and generates IDs by the rule of the service; a test of the service compares the patterns."""

import pytest

from tests.live.hostile_cases import ACCEPTED_IDS, CONTROLS, EMPTY_IDS, REPLACED_IDS, SPACED_IDS, request
from tests.support.client import new_id

from .edge import Nginx, is_uuid4

pytestmark = pytest.mark.full

LENGTHS = {length: b"a" * length for length in (1, 7, 8, 127, 128, 129)}
ACCEPTED = [*ACCEPTED_IDS, LENGTHS[8], LENGTHS[127], LENGTHS[128], *(one % new_id().encode() for one in SPACED_IDS)]
REPLACED = [*EMPTY_IDS, LENGTHS[1], LENGTHS[7], LENGTHS[129], *(one for one in REPLACED_IDS if len(one) < 7000)]


@pytest.mark.parametrize(("values", "accepted"), [(ACCEPTED, True), (REPLACED, False)], ids=["accepted", "replaced"])
def test_nginx_accepts_the_same_ids_as_the_service_and_forwards_the_result(
    nginx: Nginx, values: list[bytes], accepted: bool
) -> None:
    with nginx.connect() as connection:
        for value in values:
            data = request(b"X-Request-ID: " + value, target=b"/probe/echo").replace(b"Connection: close\r\n", b"")
            connection.send(data)
            response = connection.read_response()
            assert response.status == 200, value
            assert (response.header() == value.strip(b" \t").decode("latin-1")) is accepted, value
            assert accepted or is_uuid4(response.header())
            assert [one for name, one in response.json()["result"] if name == "x-request-id"] == [response.header()]
            assert response.json()["request_id"] == response.header()


def test_duplicate_id_or_id_with_a_control_character_is_replaced(nginx: Nginx) -> None:
    """Two header lines, even with the same value, and other header names are not accepted."""
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
        response = nginx.send(request(*lines))
        assert is_uuid4(response.header()), lines
        assert response.json()["request_id"] == response.header()


def test_generated_ids_are_distinct_uuids_of_version_4(nginx: Nginx) -> None:
    found = set()
    for _ in range(4):
        with nginx.connect() as connection:
            connection.send(b"GET /__wait HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
            for response in (connection.read_response() for _ in range(500)):
                assert is_uuid4(response.header())
                assert response.json()["request_id"] == response.header()
                found.add(response.header())
    assert len(found) == 2000
