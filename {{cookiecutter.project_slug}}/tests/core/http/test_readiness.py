"""Checks that do what they should not: none ends the worker or delays the answer, and each is named with its fault."""

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

FAILED = "Its check failed; the log says how."


@pytest.fixture(autouse=True)
def logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.1)
    configure_logging(get_settings())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ServiceError("The cache is full.", status=507), "The cache is full."),
        (SystemExit("SIZE is missing.\nRATE is bad."), "SIZE is missing. RATE is bad."),
        (SystemExit(), FAILED),
        (SystemExit(0), FAILED),
        (SystemExit(3), FAILED),
        (OSError("broker://user:secret@host"), FAILED),
        (asyncio.CancelledError(), "Its check was cancelled, and not by us."),
    ],
    ids=repr,
)
def test_check_that_fails_is_named_with_its_reason(error: BaseException, told: str, logs: Logs) -> None:
    async def check() -> None:
        raise error

    assert asyncio.run(failed_checks({"alpha": check})) == [f"alpha: {told}"]
    *failure, summary = [line.partition("[-] ")[2] for line in logs.error if " [-] " in line]
    assert summary == f"Not ready: alpha: {told}"
    assert failure == ["The readiness check of alpha failed"] * (told == FAILED)
    assert sum("Traceback" in line for line in logs.error) == (told == FAILED)
    assert logs.error.count("    OSError: broker://user:***@host") == isinstance(error, OSError)


def test_checks_that_hang_are_cut_off_and_named(logs: Logs) -> None:
    cut_off = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            cut_off.set()

    async def ignores_cancellation() -> None:
        for _ in range(15):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    async def passes() -> None:
        pass

    async def ask() -> tuple[list[str], float]:
        began = time.monotonic()
        return await failed_checks(
            {"alpha": hangs, "beta": passes, "gamma": ignores_cancellation}
        ), time.monotonic() - began

    told, seconds = asyncio.run(ask())
    assert told == [f"{name}: It did not answer within 0.1 seconds." for name in ("alpha", "gamma")]
    assert seconds < 1.2  # where the last is waited for, 1.5
    assert cut_off.is_set()
    assert len(logs.error) == 1


def test_checks_run_side_by_side() -> None:
    async def go() -> list[str]:
        both = asyncio.Barrier(2)
        return await failed_checks(dict.fromkeys(("alpha", "beta"), both.wait))  # type: ignore[arg-type]

    assert asyncio.run(go()) == []


def test_check_does_not_outlive_its_request() -> None:
    async def go() -> set[asyncio.Task[object]]:
        asked = asyncio.create_task(failed_checks({"alpha": asyncio.Event().wait}))  # type: ignore[dict-item]
        await asyncio.sleep(0)  # it creates the task of the check
        await asyncio.sleep(0)  # the check waits
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0)  # the check hears of it
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(go()) == set()
