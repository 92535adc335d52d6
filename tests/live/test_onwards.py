"""One request ID across all queues: request, message, and the task, job, message and request that its handler sends."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.brokers import Nats, Redis
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker, print_lines, wait_for_app_lines

from .probes import HERE, with_probes

pytestmark = pytest.mark.full
WORKERS = {
    "celery": (["celery", "-A", "app.integrations.celery", "worker", "-P", "solo"], " ready."),
    "saq": (["saq", "app.integrations.saq.settings"], "Worker starting"),
}


def test_request_id_propagates_through_http_nats_celery_saq_and_http(connected: Path, tmp_path: Path) -> None:
    """All have the origin's request ID, and the message as parent."""
    probed = with_probes(connected, tmp_path / "project", "celery", "saq", "faststream")
    probe = probed / "app/integrations/onwards_probe"
    probe.mkdir()
    shutil.copy(HERE / "onwards_probe.py", probe / "__init__.py")
    with ExitStack() as stack:
        redis, nats = stack.enter_context(Redis()), stack.enter_context(Nats())
        env = {"CELERY_BROKER_URL": redis.url, "SAQ_URL": redis.url.replace("/0", "/1"), "FASTSTREAM_URL": nats.url}
        service = Service(probed, tmp_path / "service", app="app.main:app", env=env)
        host = f"127.0.0.1:{service.port}"
        service.env["OUTBOUND_HOSTS"] = host
        workers = {
            name: Worker(probed, tmp_path, command, env, ready=ready, name=name)
            for name, (command, ready) in WORKERS.items()
        }
        for worker in workers.values():
            stack.push(worker)
            worker.start(wait=False)
        stack.enter_context(service)
        wait_for(lambda: all(worker.ready in worker.output() for worker in workers.values()), "all workers")
        processes: dict[str, Service | Worker] = {"service": service, **workers}
        service.wait_ready()
        request_id = new_id("onwards")
        response = service.request("POST", f"/probe/onwards?url=http://{host}/api/demo", request_id=request_id)
        assert (response.status, response.json()["request_id"]) == (200, request_id)
        (passing,) = wait_for_app_lines(list(processes.values()), request_id, 1, "passing on")
        assert (passing.parent_id, passing.current_id != "-") == ("-", True)
        for name, text in (("celery", "Debug task 4"), ("saq", "demo complete"), ("service", "working")):
            (line, *_) = wait_for_app_lines([processes[name]], request_id, 1, text)
            assert line.parent_id == passing.current_id, line
            assert line.current_id not in (None, "-", passing.current_id), line
        paths = {line.target.partition("?")[0] for line in service.access_lines(request_id, 2)}
        assert paths == {"/probe/onwards", "/api/demo"}
        print_lines(processes, request_id)
