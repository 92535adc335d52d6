"""The clock: it runs while the request is served and stands when the response is over."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import BackgroundTasks
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette_context import context

from app.common.constants import REQUEST_START_TIME_CTX_KEY, REQUEST_TIME_CTX_KEY
from app.common.context.request_record import RequestRecord, current_record
from app.common.request_time import RequestTimePlugin, current_request_time
from app.main import Application
from tests.core.support import http_scope


def test_outside_of_a_request_there_is_no_time() -> None:
    assert current_request_time() is None
    assert asyncio.run(RequestTimePlugin().process_request(HTTPConnection(http_scope()))) is None


@pytest.mark.parametrize(("precision", "expected"), [(3, 1.235), (1, 1.2), (6, 1.234568)])
def test_the_time_is_rounded_as_asked(precision: int, expected: float) -> None:
    record = RequestRecord("id", http_scope())
    record.is_over, record.duration = True, 1.23456789
    token = current_record.set(record)
    assert current_request_time(precision) == expected
    current_record.reset(token)


def test_the_context_has_the_start_and_at_the_end_the_time(app: Application, client: TestClient) -> None:
    seen: list[tuple[bool, float | None]] = []
    final: list[float] = []

    async def look() -> None:
        seen.append((REQUEST_TIME_CTX_KEY in context, current_request_time(9)))
        await asyncio.sleep(0.01)

    @app.get("/looked-at")
    async def looked_at(tasks: BackgroundTasks) -> float:
        await look()
        tasks.add_task(look)
        tasks.add_task(look)
        tasks.add_task(lambda: final.append(round(context[REQUEST_TIME_CTX_KEY], 9)))
        return float(context[REQUEST_START_TIME_CTX_KEY])

    started_at = client.get("/looked-at").json()
    assert started_at > 1_700_000_000
    (known, running), first, second = seen
    assert (known, first) == (False, (True, final[0]))
    assert second == first
    assert running is not None
    assert 0 < running < final[0] - 0.005


def test_the_time_of_a_stream_ends_with_its_last_byte(app: Application, client: TestClient) -> None:
    records: list[RequestRecord | None] = []

    @app.get("/slow")
    async def slow() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                await asyncio.sleep(0.02)
                yield b"part"

        records.append(current_record.get())
        return StreamingResponse(parts())

    assert client.get("/slow").content == b"part" * 3
    (record,) = records
    assert record is not None
    assert record.ttfb is not None
    assert record.ttfb + 0.05 < record.duration < 30
