# mypy: disable-error-code="untyped-decorator"
"""An integration for the live tests, with tasks that retry, fail, exit, time out, or form a canvas.

It is copied into the generated project as `app/integrations/celery_probe/__init__.py`.
"""

import logging
import os
import time
from pathlib import Path

from app.common.outbound import outbound_client
from app.common.response import Response
from app.integrations.celery import app
from app.settings import Settings, get_settings
from celery import Signature, Task, chain, chord, group
from fastapi import FastAPI

log = logging.getLogger(__name__)


@app.task
def slow(mark: str) -> None:
    """Run until the file `mark` is deleted."""
    log.info("slow begins")
    while Path(mark).exists():
        time.sleep(0.02)
    log.info("slow ends")


@app.task(bind=True, max_retries=2)
def flaky(self: Task) -> None:
    log.info("attempt %d", self.request.retries + 1)
    step.delay(self.request.retries)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)


@app.task(bind=True, max_retries=0)
def stubborn(self: Task, password: str) -> None:
    log.info("a password of %d characters", len(password))
    raise self.retry(countdown=0)


@app.task
def step(number: int) -> int:
    log.info("step %d", number)
    return number + 1


@app.task
def total(numbers: list[int]) -> int:
    log.info("total %d", sum(numbers))
    return sum(numbers)


@app.task
def fails(secret: str) -> None:
    log.info("a secret of %d characters", len(secret))
    raise ValueError("it fails on purpose")


@app.task
def on_error(*_: object) -> None:
    log.info("errback")


@app.task(acks_late=False)
def dies() -> None:
    log.info("dies")
    os._exit(1)


@app.task(time_limit=1, acks_late=False)
def hangs() -> None:
    log.info("hangs")
    time.sleep(30)


@app.task
def calls(url: str) -> None:
    with outbound_client(get_settings()) as client:
        log.info("response %d", client.get(url).status_code)


@app.task(ignore_result=True)
def tick() -> None:
    log.info("tick")


def canvas(name: str) -> Signature:
    """Return the signature that the endpoint sends for a name."""
    canvases: dict[str, Signature] = {
        "chain": chain(step.s(0), step.s(), step.s()),
        "group": group(step.s(1), step.s(2)),
        "chord": chord([step.s(1), step.s(2), step.s(3)], total.s()),
        "fails": fails.s("hunter2").on_error(on_error.s()),
        "dies": dies.s().on_error(on_error.s()),
        "hangs": hangs.s().on_error(on_error.s()),
        "flaky": flaky.s(),
        "stubborn": stubborn.s(password="hunter2-again"),
        "unknown": app.signature("no.such.task", kwargs={"password": "hunter2-unknown"}),
    }
    return canvases[name]


def install(service: FastAPI, _settings: Settings) -> None:
    """Add the endpoints that send the tasks."""

    @service.post("/probe/canvas/{name}", status_code=202)
    def send(name: str) -> Response[str]:
        log.info("sending")
        canvas(name).apply_async()
        return Response(result=name)

    @service.post("/probe/slow", status_code=202)
    def send_slow(mark: str) -> Response[str]:
        return Response(result=slow.delay(mark).id)

    @service.post("/probe/calls", status_code=202)
    def send_calls(url: str) -> Response[str]:
        return Response(result=calls.delay(url).id)


if os.environ.get("PROBE_BEAT"):
    app.conf.beat_schedule = {"tick": {"task": tick.name, "schedule": 0.5}}
