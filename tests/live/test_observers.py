"""One request with every option on: its ID is in each place where somebody may look for it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.brokers import Nats, Redis
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.waiting import wait_for

from .test_metrics import exemplar_of
from .test_sentry import Sentry
from .test_tracing import Collector

PROBE = """
import logging

import structlog
from fastapi import FastAPI
from structlog.contextvars import bind_contextvars

from app.settings import Settings


def install(app: FastAPI, settings: Settings) -> None:
    @app.get("/observed/{number}")
    async def observed(number: int) -> None:
        bind_contextvars(number=number)
        structlog.get_logger("observed").info("by structlog", password="hunter2")
        logging.getLogger("observed").info("by logging")
        raise RuntimeError("it failed, token=hunter2")
"""


@pytest.fixture(scope="module")
def observed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service with every option, and give it an endpoint that fails."""
    project = tmp_path_factory.mktemp("observed") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "app/integrations/observed").mkdir()
    (project / "app/integrations/observed/__init__.py").write_text(PROBE, "utf-8")
    return project


def test_one_request_everywhere(observed: Path, tmp_path: Path) -> None:
    """In header, body, lines, access line, span, event and exemplar, under the same trace, and no secret in any."""
    with Collector(observed, tmp_path) as collector, Sentry() as sentry, Redis() as redis, Nats() as nats:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "SENTRY_DSN": sentry.dsn,
            "SENTRY_TRACES_SAMPLE_RATE": "1",
            "CELERY_BROKER_URL": redis.url,
            "SAQ_URL": redis.url,
            "FASTSTREAM_URL": nats.url,
            "LOG_FORMAT": "json",
        }
        with Service(observed, tmp_path / "service", app="app.main:app", env=env) as service:
            request_id = new_id("observed")
            answer = service.request("GET", "/observed/7", request_id=request_id)
            assert (answer.status, answer.one(), answer.json()["request_id"]) == (500, request_id, request_id)
            access = service.access_line(request_id)
            told = wait_for(lambda: lines if len(lines := service.app_records(request_id)) >= 3 else [], "TODO-WHAT")
            (span,) = collector.wait(1, request_id)
            (event,) = sentry.wait("event", request_id)
            (transaction,) = sentry.wait("transaction", request_id)
            exemplar = wait_for(lambda: exemplar_of(service, request_id), "TODO-WHAT")
            raw = [line for line in (service.app_text() + service.access_text()).splitlines() if request_id in line]
    assert [line.message for line in told] == ["by structlog", "by logging", "Unhandled RuntimeError"]
    contents = [json.loads(line) for line in raw]
    assert {one["trace_id"] for one in contents} == {span["trace_id"]}
    assert {one["number"] for one in contents} == {7}
    assert (span["name"], span["attributes"]["request_id"]) == ("GET /observed/{number}", request_id)
    assert (event["tags"]["request_id"], event["transaction"].rpartition(".")[2]) == (request_id, "observed")
    assert transaction["tags"]["request_id"] == request_id
    assert exemplar
    assert exemplar.labels["route"] == "/observed/{number}"
    assert access.status == 500
    assert access.duration == pytest.approx(span["seconds"], abs=0.001)
    assert "hunter2" not in "".join(raw) + json.dumps([span, event, transaction])
