"""Checks that do what they should not: none ends the worker, none holds its stop, and each is told for what it is."""

import asyncio
import time
from contextlib import suppress

import pytest

from app.common.exceptions import ServiceError
from app.common.log_handler import configure_logging
from app.services import health
from app.services.health import Check
from app.settings import EnvironmentSettings, get_settings, read_settings
from tests.support import Logs


@pytest.fixture(autouse=True)
def logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.1)
    configure_logging(get_settings())


def ask(check: Check) -> list[str]:
    return asyncio.run(health.ask({"alpha": check}))


def test_service_error_of_a_check_is_reported_as_it_is(logs: Logs) -> None:
    async def check() -> None:
        raise ServiceError("The cache is full.", status=507)

    assert ask(check) == ["alpha: The cache is full."]
    assert [line.partition("WARNING ")[2] for line in logs.error] == ["[-] Not ready: alpha: The cache is full."]


def test_a_setting_that_is_missing_is_told_and_ends_nothing(logs: Logs) -> None:
    class AlphaSettings(EnvironmentSettings):
        alpha_size: int
        alpha_rate: int

    async def check() -> None:
        read_settings(AlphaSettings)

    sentences = [f"The environment variable ALPHA_{name} is missing." for name in ("SIZE", "RATE")]
    assert ask(check) == [f"alpha: {' '.join(sentences)}"]
    assert len(logs.error) == 1


@pytest.mark.parametrize("code", [None, 0, 3])
def test_an_exit_without_a_sentence_has_failed(code: int | None, logs: Logs) -> None:
    async def check() -> None:
        raise SystemExit(code)

    assert ask(check) == ["alpha: Its check failed; the log says how."]
    assert sum("Traceback" in line for line in logs.error) == 1


def test_check_cancelled_elsewhere_is_reported_as_such() -> None:
    async def check() -> None:
        raise asyncio.CancelledError

    assert ask(check) == ["alpha: Its check was cancelled, and not by us."]


def test_check_that_ignores_cancellation_is_left_behind(logs: Logs) -> None:
    async def check() -> None:
        for _ in range(30):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    began = time.monotonic()
    assert ask(check) == ["alpha: It did not answer within 0.1 seconds."]  # and asyncio.run() ends
    assert time.monotonic() - began < 2.5  # where it is waited for, 3
    assert len(logs.error) == 1
