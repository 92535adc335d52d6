"""The edge accepts and makes IDs by the rule of the service, whose pattern is read from its source."""

import random
import re
from collections.abc import Iterator

import pytest

from scripts.snapshot import ROOT, TEMPLATE
from tests.live.hostile_cases import ACCEPTED_IDS, CONTROLS, REPLACED_IDS, SPACED_IDS, UNTOUCHED_IDS, request
from tests.support.client import new_id

from .edge import MADE, Edge

pytestmark = pytest.mark.full

SOURCE = (ROOT / TEMPLATE / "app/common/request_id.py").read_text()
_PATTERN = re.search(r'^_ACCEPTED = re\.compile\(rb"(.+)"\)\.fullmatch$', SOURCE, re.MULTILINE)
assert _PATTERN is not None
is_acceptable = re.compile(_PATTERN[1].encode()).fullmatch
CLOSE_TO_IT = b"abcZ059_.+/=@-" * 4 + b"~!#$%&*()[]{}|;:,?<>\"'\\^` \t\xe9\x85\x7f\x01"


def generated(count: int) -> Iterator[bytes]:
    """Give values that are nearly IDs, the same ones each time."""
    dice = random.Random(2026)
    for _ in range(count):
        length = dice.choice([1, 7, 8, 9, 20, 36, 127, 128, 129])
        yield bytes(dice.choices(CLOSE_TO_IT if dice.random() < 0.3 else CLOSE_TO_IT[:56], k=length))


def decide(edge: Edge, values: list[bytes]) -> None:
    """Send each value as an ID; the edge and the service's rule decide alike, and the service gets what is decided."""
    with edge.connect() as connection:
        for value in values:
            data = request(b"X-Request-ID: " + value, target=b"/probe/echo").replace(b"Connection: close\r\n", b"")
            connection.send(data)
            answer = connection.answer()
            expected = value.strip(b" \t")
            assert answer.status == 200, value
            assert (answer.one() == expected.decode("latin-1")) is bool(is_acceptable(expected)), value
            assert MADE(answer.one()) or answer.one() == expected.decode()
            assert [one for name, one in answer.json()["result"] if name == "x-request-id"] == [answer.one()]
            assert answer.json()["request_id"] == answer.one()


def test_edge_accepts_the_ids_that_the_service_accepts(edge: Edge) -> None:
    lengths = [b"a" * length for length in (1, 7, 8, 127, 128, 129)]
    spaced = [pattern % new_id().encode() for pattern in SPACED_IDS]
    controls = [b"abcdefgh" + control for control in CONTROLS]
    decide(edge, [*ACCEPTED_IDS, *lengths, *spaced, *UNTOUCHED_IDS, *generated(400)])
    decide(edge, [value for value in REPLACED_IDS if len(value) < 7000])
    for value in controls:
        answer = edge.ask(request(b"X-Request-ID: " + value))
        assert MADE(answer.one()), value
        assert answer.json()["request_id"] == answer.one()


def test_id_that_is_not_sent_exactly_once_is_replaced(edge: Edge) -> None:
    """Two lines, even of one value, and lines of another name are no ID."""
    first, second = (b"X-Request-ID: " + new_id().encode() for _ in range(2))
    for lines in [
        (first, second),
        (first, first),
        (first, b"x-request-id:"),
        (b"X-Request-ID:", first),
        (b"X_Request_ID: abcdefgh",),
        (b"X-Correlation-ID: abcdefgh",),
    ]:
        assert MADE(edge.ask(request(*lines)).one()), lines


def test_made_ids_are_distinct_uuids(edge: Edge) -> None:
    """2,000 requests without an ID have 2,000 of them: UUIDs of version 4, the same in the body."""
    found = set()
    for _ in range(4):
        with edge.connect() as connection:
            connection.send(b"GET /__wait HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
            for answer in (connection.answer() for _ in range(500)):
                assert MADE(answer.one())
                assert answer.json()["request_id"] == answer.one()
                found.add(answer.one())
    assert len(found) == 2000
