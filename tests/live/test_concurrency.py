"""IDs never mix and no line is lost: with keep-alive, pipelining and large bodies, on every event loop."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import build_request, new_id
from tests.support.lines import parse_app
from tests.support.load import requests_to, send_all
from tests.support.service import Service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

TARGETS = ("/probe/async", "/probe/sync", "/probe/async?n=2", "/probe/wait?seconds=0.002")
BATCH = 10

STACKS = {
    "gunicorn-uvloop-httptools": ("gunicorn", {"LOOP": "uvloop"}),
    "gunicorn-asyncio-httptools": ("gunicorn", {"LOOP": "asyncio"}),
    "uvicorn-uvloop-h11": ("uvicorn-h11-uvloop", {}),
}
GUNICORN_STACKS = [name for name in STACKS if name.startswith("gunicorn")]
on_gunicorn = pytest.mark.parametrize("service", GUNICORN_STACKS, indirect=True)


@pytest.fixture(scope="module", params=STACKS)
def service(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the service on one of the stacks."""
    server, env = STACKS[request.param]
    work = tmp_path_factory.mktemp(request.param)
    with Service(project, work, server=server, app="probe:app_with_inherited_id", env=env) as running:
        yield running


@pytest.mark.parametrize(
    ("count", "connections", "batch"), [(1500, 50, 1), (800, 20, BATCH)], ids=["keep-alive", "pipelined"]
)
def test_ids_never_mix(service: Service, count: int, connections: int, batch: int) -> None:
    """Each response has its own ID in header and body, and exactly one access log line and one log record."""
    requests = requests_to(TARGETS, count)
    send_all(service.port, requests, connections=connections, batch=batch)
    ids = Counter(sent.returned_id for sent in requests)
    assert len(ids) == count
    targets = {sent.returned_id: sent.target for sent in requests}
    ours = wait_for_lines(service, set(ids))
    assert Counter(request_id for request_id, _ in ours) == ids
    assert all(targets[request_id] == target for request_id, target in ours)
    records, _ = parse_app(service.app_text())
    messages = {"/probe/async": "in async", "/probe/sync": "in sync", "/probe/wait": "waited"}
    logged = [(record.request_id, record.message) for record in records if record.request_id in ids]
    assert Counter(logged) == Counter((one, messages[target.split("?")[0]]) for one, target in targets.items())


def wait_for_lines(service: Service, ids: set[str]) -> list[tuple[str, str]]:
    """Wait until each ID has an access log line; return ID and target of all these lines."""

    def look() -> list[tuple[str, str]]:
        lines = [(line.request_id, line.target) for line in service.access() if line.request_id in ids]
        return lines if ids <= {request_id for request_id, _ in lines} else []

    return wait_for(look, "an access log line for each request")


@on_gunicorn
def test_pipelined_request_inherits_no_id(service: Service) -> None:
    """A pipelined request finds no ID of an earlier one in its context."""
    requests = requests_to(TARGETS, 200, without_id=2)
    send_all(service.port, requests, connections=4, batch=BATCH)
    assert {value for sent in requests for value in sent.values("X-Inherited")} == {"-"}
    assert len({sent.returned_id for sent in requests}) == 200


@on_gunicorn
@pytest.mark.parametrize("target", ["/probe/echo", "/probe/unread"])
def test_request_after_a_large_body_inherits_no_id(service: Service, target: str) -> None:
    """A large body pauses the connection; the next request still finds no ID in its context."""
    large_id, next_id = new_id("large"), new_id("next")
    large = build_request("POST", target, body=b"x" * 400_000, request_id=large_id, close=False)
    with service.connect() as connection:
        half = len(large) // 2
        connection.send(large[:half])
        connection.send(large[half:])
        first = connection.read_response()
        assert (first.status, first.header()) == (200, large_id)
        for sent in (next_id, None):
            response = connection.request("GET", "/probe/async", request_id=sent)
            assert response.header("X-Inherited") == "-"
            assert response.header() != large_id
            assert response.header() == (sent or response.json()["request_id"])
            service.access_line(response.header())
    service.access_line(large_id)
