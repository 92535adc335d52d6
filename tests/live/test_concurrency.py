"""IDs never mix and lines are never lost: under load, keep-alive, pipelining, after large bodies, on every loop."""

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
OURS = pytest.mark.parametrize("loaded", [name for name in STACKS if name.startswith("gunicorn")], indirect=True)


@pytest.fixture(scope="module", params=STACKS)
def loaded(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the service on one of the stacks."""
    server, env = STACKS[request.param]
    work = tmp_path_factory.mktemp(request.param)
    with Service(project, work, server=server, app="probe:watched", env=env) as service:
        yield service


@pytest.mark.parametrize(
    ("count", "connections", "batch"), [(1500, 50, 1), (800, 20, BATCH)], ids=["kept", "pipelined"]
)
def test_ids_never_mix(loaded: Service, count: int, connections: int, batch: int) -> None:
    """Every answer has its own ID in header and body; each has one access line and one log line, and no more."""
    requests = requests_to(TARGETS, count)
    send_all(loaded.port, requests, connections=connections, batch=batch)
    ids = Counter(sent.returned_id for sent in requests)
    assert len(ids) == count
    targets = {sent.returned_id: sent.target for sent in requests}
    ours = wait_for_lines(loaded, set(ids))
    assert Counter(request_id for request_id, _ in ours) == ids
    assert all(targets[request_id] == target for request_id, target in ours)
    records, _ = parse_app(loaded.app_text())
    messages = {"/probe/async": "in async", "/probe/sync": "in sync", "/probe/wait": "waited"}
    logged = [(record.request_id, record.message) for record in records if record.request_id in ids]
    assert Counter(logged) == Counter((one, messages[target.split("?")[0]]) for one, target in targets.items())


def wait_for_lines(service: Service, ids: set[str]) -> list[tuple[str, str]]:
    """Return ID and target of all access lines, once each of the IDs has one."""

    def look() -> list[tuple[str, str]]:
        lines = [(line.request_id, line.target) for line in service.access() if line.request_id in ids]
        return lines if ids <= {request_id for request_id, _ in lines} else []

    return wait_for(look, "an access line for each request")


@OURS
def test_nothing_is_inherited_when_pipelined(loaded: Service) -> None:
    """A pipelined request finds no ID of an earlier one in its context."""
    requests = requests_to(TARGETS, 200, without_id=2)
    send_all(loaded.port, requests, connections=4, batch=BATCH)
    assert {value for sent in requests for value in sent.values("X-Inherited")} == {"-"}
    assert len({sent.returned_id for sent in requests}) == 200


@OURS
@pytest.mark.parametrize("target", ["/probe/echo", "/probe/unread"])
def test_nothing_is_inherited_after_a_large_body(loaded: Service, target: str) -> None:
    """A request after one whose large body paused the connection finds no ID in its context."""
    large_id, next_id = new_id("large"), new_id("next")
    large = build_request("POST", target, body=b"x" * 400_000, request_id=large_id, close=False)
    with loaded.connect() as connection:
        half = len(large) // 2
        connection.send(large[:half])
        connection.send(large[half:])
        first = connection.answer()
        assert (first.status, first.one()) == (200, large_id)
        for sent in (next_id, None):
            answer = connection.request("GET", "/probe/async", request_id=sent)
            assert answer.one("X-Inherited") == "-"
            assert answer.one() != large_id
            assert answer.one() == (sent or answer.json()["request_id"])
            loaded.access_line(answer.one())
    loaded.access_line(large_id)
