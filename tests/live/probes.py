"""Copies of the service with tasks, jobs and messages that wait or fail, and endpoints that send them."""

import shutil
from pathlib import Path

HERE = Path(__file__).parent
QUEUES = ("celery", "saq", "faststream")

SAQ_JOBS = """

import asyncio
import os
import time
from pathlib import Path

from saq import CronJob


async def flaky(ctx):
    log.info("attempt %d", ctx["job"].attempts)
    if ctx["job"].attempts == 1:
        raise ValueError("not yet")


async def slow(ctx, *, seconds=0, mark=""):
    log.info("begun %d", ctx["job"].attempts)
    while mark and Path(mark).exists():
        await asyncio.sleep(0.02)
    await asyncio.sleep(seconds)
    log.info("ended")


def blocking(ctx):
    log.info("begun")
    time.sleep(0.2)
    log.info("ended")


async def asking(ctx):
    log.info("asked for %s", await ctx["worker"].queue.apply("answering", poll_interval=0.05))


async def answering(ctx):
    return 42


async def hiding(ctx, *, password):
    raise RuntimeError("it did not work")


async def aborting(ctx):
    job = await ctx["worker"].queue.enqueue("slow", seconds=30, timeout=60)
    await asyncio.sleep(1.1)
    await job.abort("not wanted any more")


async def later(ctx, *, owner):
    log.info("owned by %s", owner)


async def tick(ctx):
    log.info("tick")
    await ctx["worker"].queue.enqueue("later", owner="cron")


JOBS = {
    "functions": (*JOBS["functions"], flaky, slow, blocking, asking, answering, hiding, aborting, later),
    "cron_jobs": [CronJob(tick, cron="* * * * * *")] if os.environ.get("PROBE_CRON") else [],
}
"""

SAQ_ROUTES = """
import json

from fastapi import Request

from app.common.response import Response
from app.integrations.saq import get_queue


def install(app, settings):
    @app.post("/probe/{function}", status_code=202)
    async def probe(function: str, request: Request) -> Response[str]:
        options = {name: json.loads(value) for name, value in request.query_params.items()}
        job = await get_queue().enqueue(function, **options)
        return Response(result=job.key)
"""

MESSAGES = """

import asyncio
from pathlib import Path

on_slow, slow = channel("slow")
on_slower, slower = channel("slower")
on_bad, bad = channel("bad")
on_odd, odd = channel("odd")
_, result = channel("result")


async def wait(text: str) -> None:
    log.info("wait begins")
    while Path(text).exists():
        await asyncio.sleep(0.02)
    log.info("wait ends")


async def fail(_text: str) -> None:
    raise RuntimeError("on purpose")


async def give(_text: str) -> Any:
    return object()


if settings.consume or IS_WORKER:
    on_slow(wait)
    on_slower(wait)
    on_bad(fail)
    on_odd(result(give))

demo_only = install


def install(app: "FastAPI", service: "Settings") -> None:
    demo_only(app, service)

    @app.post("/probe/slow", status_code=202)
    async def publish_slow(mark: str) -> Response[str]:
        await slow.publish(mark)
        return Response()

    @app.post("/probe/slower", status_code=202)
    async def publish_slower(mark: str) -> Response[str]:
        await slower.publish(mark)
        return Response()

    @app.post("/probe/bad", status_code=202)
    async def publish_bad() -> Response[str]:
        await bad.publish("")
        return Response()

    @app.post("/probe/odd", status_code=202)
    async def publish_odd(what: str) -> Response[str]:
        if what == "object":
            await result.publish(object())
        elif what == "nowhere":
            await broker.publish("", "nowhere")
        else:
            await odd.publish("")
        return Response()
"""


def with_probes(connected: Path, copy: Path, *queues: str) -> Path:
    """Copy the service, remove all task queues but `queues`, and add a probe to each of those."""
    shutil.copytree(connected, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    folder = copy / "app" / "integrations"
    for queue in set(QUEUES) - set(queues):
        shutil.rmtree(folder / queue)
    packages = {"celery_probe": (HERE / "celery_probe.py").read_text("utf-8"), "saq_probe": SAQ_ROUTES}
    for name, code in packages.items():
        if name.removesuffix("_probe") in queues:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code, "utf-8")
    for path, code in {"saq/jobs.py": SAQ_JOBS, "faststream/__init__.py": MESSAGES}.items():
        if path.partition("/")[0] in queues:
            (folder / path).write_text((folder / path).read_text("utf-8") + code, "utf-8")
    return copy
