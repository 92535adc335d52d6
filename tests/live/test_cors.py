"""Browsers may send the ID and read it, also where the service failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import ID_HEADER, new_id
from tests.support.service import Service

pytestmark = pytest.mark.full
ORIGIN = "https://app.example.com"


@pytest.fixture(scope="module")
def called(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service for pages of one origin."""
    with Service(project, tmp_path_factory.mktemp("cors"), env={"CORS_ORIGINS": ORIGIN}) as service:
        yield service


def names(value: str) -> set[str]:
    """Split a header that lists names."""
    return {name.strip().lower() for name in value.split(",")}


def test_preflight_is_answered_with_the_id_and_allows_its_header(called: Service) -> None:
    """It leaves a line."""
    request_id = new_id("preflight")
    headers = (
        ("Origin", ORIGIN),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", f"{ID_HEADER}, content-type"),
    )
    answer = called.request("OPTIONS", "/probe/async", headers, request_id=request_id)
    assert answer.status in {200, 204}
    assert answer.one() == request_id
    assert answer.one("Access-Control-Allow-Origin") == ORIGIN
    assert ID_HEADER.lower() in names(answer.one("Access-Control-Allow-Headers"))
    line = called.access_line(request_id)
    assert (line.method, line.status, line.flags) == ("OPTIONS", answer.status, ())


def test_id_is_exposed_to_the_known_origin_in_every_answer(called: Service) -> None:
    """Also where the service failed."""
    targets = {"/api/demo": 200, "/nothing": 404, "/probe/items/x": 422, "/probe/teapot": 418, "/probe/fail": 500}
    for path, status in targets.items():
        request_id = new_id("cors")
        answer = called.request("GET", path, (("Origin", ORIGIN),), request_id=request_id)
        assert (answer.status, answer.one()) == (status, request_id)
        assert answer.one("Access-Control-Allow-Origin") == ORIGIN
        assert ID_HEADER.lower() in names(answer.one("Access-Control-Expose-Headers"))


def test_another_origin_may_not_read_its_answer(called: Service) -> None:
    answer = called.request("GET", "/api/demo", (("Origin", "https://evil.example.com"),))
    assert answer.status == 200
    assert answer.all("Access-Control-Allow-Origin") == []
