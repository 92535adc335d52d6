"""Sends messages with one library, and prints the CPU time per message in microseconds.

`sender.py celery|saq|faststream bare|ours COUNT` runs in the service's environment and folder. `bare` uses the library
as its documentation shows, `ours` as the service does.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

WARM_UP = 200


def time_calls(send: Callable[[], object], count: int) -> float:
    """Call `send` `count` times and return the seconds of CPU time."""
    for _ in range(WARM_UP):
        send()
    began = time.process_time()
    for _ in range(count):
        send()
    return time.process_time() - began


async def time_awaits(send: Callable[[], Awaitable[Any]], count: int) -> float:
    """Await `send()` `count` times and return the seconds of CPU time."""
    for _ in range(WARM_UP):
        await send()
    began = time.process_time()
    for _ in range(count):
        await send()
    return time.process_time() - began


def celery_bare(count: int) -> float:
    """Send as in Celery's "First Steps"."""
    from celery import Celery

    app = Celery("bare", broker=os.environ["CELERY_BROKER_URL"])

    @app.task
    def debug(number: int) -> int:
        return number

    return time_calls(lambda: debug.delay(4), count)


def celery_ours(count: int) -> float:
    """Send as the service does while it handles a request."""
    from app.integrations.celery.tasks import debug

    begin_request()
    return time_calls(lambda: debug.delay(4), count)


def saq_bare(count: int) -> float:
    """Enqueue as in SAQ's example."""
    from saq import Queue

    async def run() -> float:
        queue = Queue.from_url(os.environ["SAQ_URL"])
        await queue.connect()
        seconds = await time_awaits(lambda: queue.enqueue("demo"), count)
        await queue.disconnect()
        return seconds

    return asyncio.run(run())


def saq_ours(count: int) -> float:
    """Enqueue as the service does while it handles a request."""
    from app.integrations.saq import get_queue

    async def run() -> float:
        begin_request()
        queue = get_queue()
        seconds = await time_awaits(lambda: queue.enqueue("demo"), count)
        await queue.disconnect()
        return seconds

    return asyncio.run(run())


def faststream_bare(count: int) -> float:
    """Publish to a stream as in FastStream's documentation."""
    from faststream.nats import JStream, NatsBroker

    async def run() -> float:
        stream = JStream("bare", subjects=["bare.>"])
        broker = NatsBroker(os.environ["FASTSTREAM_URL"])
        broker.subscriber("bare.demo", stream=stream)
        publisher = broker.publisher("bare.demo", stream=stream)
        await broker.start()
        seconds = await time_awaits(lambda: publisher.publish("demo"), count)
        await broker.stop()
        return seconds

    return asyncio.run(run())


def faststream_ours(count: int) -> float:
    """Publish as the service does while it handles a request."""
    from app.integrations.faststream import broker, demo, ready

    async def run() -> float:
        begin_request()
        await broker.start()
        for _ in range(100):
            try:
                await ready()
                break
            except Exception:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        seconds = await time_awaits(lambda: demo.publish("demo"), count)
        await broker.stop()
        return seconds

    return asyncio.run(run())


def begin_request() -> None:
    """Set a current request, so that the following messages carry its ID."""
    from app.common.context.request_record import RequestRecord, current_record

    current_record.set(RequestRecord("5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a", {"type": "http"}))


if __name__ == "__main__":
    messages = int(sys.argv[3])
    print(globals()[f"{sys.argv[1]}_{sys.argv[2]}"](messages) / messages * 1e6)
