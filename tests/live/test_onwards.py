"""From any of them onwards: a request, a message, and what its handler sets off, all under one ID."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.brokers import Nats, Redis
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.workers import Worker, show, wait_for_trail

WORKERS = {
    "celery": (["celery", "-A", "app.integrations.celery", "worker", "-P", "solo"], " ready."),
    "saq": (["saq", "app.integrations.saq.settings"], "Worker starting"),
}


@pytest.fixture
def probed(connected: Path, tmp_path: Path) -> Path:
    """The service with every integration, and the probe."""
    project = tmp_path / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    probe = project / "app/integrations/onwards_probe"
    probe.mkdir()
    shutil.copy(Path(__file__).with_name("onwards_probe.py"), probe / "__init__.py")
    return project


def test_one_id_through_all_of_them(probed: Path, tmp_path: Path) -> None:
    """HTTP, NATS, Celery, SAQ and HTTP again: one origin, and each one's parent is the message that set it off."""
    with ExitStack() as stack:
        redis, nats = stack.enter_context(Redis()), stack.enter_context(Nats())
        env = {"CELERY_BROKER_URL": redis.url, "SAQ_URL": redis.url.replace("/0", "/1"), "FASTSTREAM_URL": nats.url}
        service = Service(probed, tmp_path / "service", app="app.main:app", env=env)
        host = f"127.0.0.1:{service.port}"
        service.env["OUTBOUND_HOSTS"] = host
        stack.enter_context(service)
        places: dict[str, Service | Worker] = {"service": service}
        for name, (command, ready) in WORKERS.items():
            worker = Worker(probed, tmp_path, command, env, ready=ready, name=name)
            places[name] = stack.enter_context(worker)
        service.wait_ready()
        request_id = new_id("onwards")
        answer = service.request("POST", f"/probe/onwards?url=http://{host}/api/demo", request_id=request_id)
        assert (answer.status, answer.json()["request_id"]) == (200, request_id)
        all_places = list(places.values())
        (passing,) = wait_for_trail(all_places, request_id, 1, "passing on")
        assert (passing.parent_id, passing.current_id != "-") == ("-", True)
        for place, words in (("celery", "Debug task 4"), ("saq", "demo complete"), ("service", "working")):
            (line, *_) = wait_for_trail([places[place]], request_id, 1, words)
            assert line.parent_id == passing.current_id, line
            assert line.current_id not in (None, "-", passing.current_id), line
        paths = {line.target.partition("?")[0] for line in service.access_lines(request_id, 2)}
        assert paths == {"/probe/onwards", "/api/demo"}
        show(places, request_id)
