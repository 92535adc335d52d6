"""The duration of a request: it grows while the request is served, and is final once the response is complete."""

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


def test_there_is_no_duration_outside_of_a_request() -> None:
    assert current_request_time() is None
    assert asyncio.run(RequestTimePlugin().process_request(HTTPConnection(http_scope()))) is None


@pytest.mark.parametrize(("precision", "expected"), [(3, 1.235), (1, 1.2), (6, 1.234568)])
def test_duration_is_rounded_to_the_precision(precision: int, expected: float) -> None:
    record = RequestRecord("id", http_scope())
    record.is_over, record.duration = True, 1.23456789
    token = current_record.set(record)
    assert current_request_time(precision) == expected
    current_record.reset(token)


def test_context_has_the_start_and_at_the_end_the_duration(app: Application, client: TestClient) -> None:
    samples: list[tuple[bool, float | None]] = []
    final: list[float] = []

    async def sample() -> None:
        samples.append((REQUEST_TIME_CTX_KEY in context, current_request_time(9)))
        await asyncio.sleep(0.01)

    @app.get("/sampled")
    async def sampled(tasks: BackgroundTasks) -> float:
        await sample()
        tasks.add_task(sample)
        tasks.add_task(sample)
        tasks.add_task(lambda: final.append(round(context[REQUEST_TIME_CTX_KEY], 9)))
        return float(context[REQUEST_START_TIME_CTX_KEY])

    started_at = client.get("/sampled").json()
    assert started_at > 1_700_000_000
    (is_in_context, running), first, second = samples
    assert (is_in_context, first) == (False, (True, final[0]))
    assert second == first
    assert running is not None
    assert 0 < running < final[0] - 0.005


def test_duration_of_a_stream_ends_with_its_last_byte(app: Application, client: TestClient) -> None:
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
