"""A failing or hanging readiness check neither ends the worker nor delays the response, and its cause is reported."""

import asyncio
import time
from contextlib import suppress

import pytest

from app.common.exceptions import ServiceError
from app.common.http import readiness
from app.common.http.readiness import failed_checks
from app.common.log_handler import configure_logging
from app.settings import get_settings
from tests.support import Logs

FAILED = "The check failed; the log has the traceback."


@pytest.fixture(autouse=True)
def logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.1)
    configure_logging(get_settings())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ServiceError("The cache is full.", status=507), "The cache is full."),
        (SystemExit("SIZE is missing.\nRATE is invalid."), "SIZE is missing. RATE is invalid."),
        (SystemExit(), FAILED),
        (SystemExit(0), FAILED),
        (SystemExit(3), FAILED),
        (OSError("broker://user:secret@host"), FAILED),
        (asyncio.CancelledError(), "The check was cancelled before the timeout."),
    ],
    ids=repr,
)
def test_failed_check_is_reported_with_its_cause(error: BaseException, cause: str, logs: Logs) -> None:
    async def check() -> None:
        raise error

    assert asyncio.run(failed_checks({"alpha": check})) == [f"alpha: {cause}"]
    *failure, summary = [line.partition("[-] ")[2] for line in logs.error if " [-] " in line]
    assert summary == f"Not ready: alpha: {cause}"
    assert failure == ["The readiness check of alpha failed"] * (cause == FAILED)
    assert sum("Traceback" in line for line in logs.error) == (cause == FAILED)
    assert logs.error.count("    OSError: broker://user:***@host") == isinstance(error, OSError)


def test_hanging_checks_time_out_and_are_reported(logs: Logs) -> None:
    cancelled = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cancelled.set()

    async def ignores_cancellation() -> None:
        for _ in range(15):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    async def passes() -> None:
        pass

    async def run_checks() -> tuple[list[str], float]:
        began = time.monotonic()
        return await failed_checks(
            {"alpha": hangs, "beta": passes, "gamma": ignores_cancellation}
        ), time.monotonic() - began

    causes, seconds = asyncio.run(run_checks())
    assert causes == [f"{name}: The check timed out after 0.1 seconds." for name in ("alpha", "gamma")]
    assert seconds < 1.2  # 1.5 if it waited for the last check
    assert cancelled.is_set()
    assert len(logs.error) == 1


def test_checks_run_concurrently() -> None:
    async def run_checks() -> list[str]:
        both = asyncio.Barrier(2)
        return await failed_checks(dict.fromkeys(("alpha", "beta"), both.wait))  # type: ignore[arg-type]

    assert asyncio.run(run_checks()) == []


def test_check_is_cancelled_with_its_request() -> None:
    async def cancel_checks() -> set[asyncio.Task[object]]:
        checks = asyncio.create_task(failed_checks({"alpha": asyncio.Event().wait}))  # type: ignore[dict-item]
        await asyncio.sleep(0)  # failed_checks creates the task of the check
        await asyncio.sleep(0)  # the check starts to wait
        checks.cancel()
        with suppress(asyncio.CancelledError):
            await checks
        await asyncio.sleep(0)  # the check is cancelled
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(cancel_checks()) == set()
