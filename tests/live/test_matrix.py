"""Every ordinary outcome: one header, one ID everywhere, one access line that is right."""

import re
import time

import pytest

from tests.support.client import Answer, new_id
from tests.support.lines import AccessLine, AppLine
from tests.support.service import Service

from .cases import CASES, Case

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def check_answer(answer: Answer, case: Case) -> None:
    """Check a response against the case; that to an error reveals nothing of the inside."""
    assert (answer.status, answer.complete) == (case.status, True)
    if case.size is not None:
        assert len(answer.body) == case.size
    if case.header:
        assert answer.one(case.header[0]) == case.header[1]
    for word in ("Traceback", *filter(None, case.trace.split(": "))):
        assert word.encode() not in answer.body
    if case.envelope:
        body = answer.json()
        assert set(body) == {"code", "message", "cause", "request_id", "result"}, body
        assert body["request_id"] == answer.one()
        failed = case.status >= 400
        assert (body["code"], body["message"]) == ((case.status, "failed") if failed else (0, "success"))
        assert bool(body["cause"]) == failed
        assert case.cause in (body["cause"] or "")


def check_line(line: AccessLine, case: Case, answer: Answer, took: float) -> None:
    """Check an access line against the case and against what arrived, `took` seconds after it was asked for."""
    assert (line.status, line.method, line.target) == (case.status, case.method, case.target)
    assert line.http_version == "1.1"
    assert line.client.startswith("127.0.0.1:")
    assert case.at_least <= line.duration <= took + 0.001  # which is how it is rounded
    assert line.flags[: len(case.flags)] == case.flags
    if case.status < 500:
        assert not line.flags
    if line.bytes is not None:
        assert line.bytes == len(answer.body)
        assert line.ttfb is not None
        assert 0 <= line.ttfb <= line.duration


def check_records(records: list[AppLine], case: Case) -> None:
    """Check the log records of a request: each message once, and one traceback, if there is one."""
    assert len(records) == len(case.logs) + bool(case.trace), records
    assert sorted(record.message for record in records if not record.exception) == sorted(case.logs)
    if case.trace:
        (trace,) = [record for record in records if record.exception]
        assert trace.level == "ERROR"
        assert trace.exception.startswith("Traceback (most recent call last):")
        assert trace.exception.count("Traceback (most recent call last):") == 1
        assert case.trace in trace.exception


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_response_access_line_and_records_agree_on_one_id(service: Service, case: Case) -> None:
    for sent in (new_id("case"), None):
        began = time.monotonic()
        answer = service.request(case.method, case.target, case.headers, case.body, request_id=sent)
        request_id = answer.one()
        assert request_id == sent if sent else UUID4.fullmatch(request_id)
        check_answer(answer, case)
        line = service.access_line(request_id)
        check_line(line, case, answer, time.monotonic() - began)
        expected = len(case.logs) + bool(case.trace)
        check_records(service.app_lines(request_id, expected) if expected else [], case)


def test_records_of_any_logger_carry_the_id_and_are_one_line_each(service: Service) -> None:
    """Plain loggers, library loggers and their children; control characters split no line."""
    request_id = new_id("loggers")
    service.request("GET", "/probe/logging", request_id=request_id)
    records = {record.message: record for record in service.app_lines(request_id, 4)}
    assert len(records) == 4, records
    assert records["by plain logger"].level == "INFO"
    assert records["by library logger"].level == "WARNING"
    assert "ValueError: told by a library" in records["by its child"].exception
    assert all(record.file == "work.py" and record.line for record in records.values())
    text = service.app_text()
    assert "\x1b" not in text
    assert "\x00" not in text
    assert not any(line.startswith("second line") for line in text.split("\n"))


def test_failing_background_task_is_logged_once_after_the_access_line(service: Service) -> None:
    """It leaves the answer and its line alone; its traceback has the ID."""
    request_id = new_id("background")
    answer = service.request("GET", "/probe/background?fail=true", request_id=request_id)
    assert (answer.status, answer.one()) == (200, request_id)
    records = service.app_lines(request_id, 3)
    assert [bool(record.exception) for record in records] == [False, False, True], records
    assert "ValueError: probe background failure" in records[-1].exception
    line = service.access_line(request_id)
    assert line.status == 200
    assert line.timestamp < records[1].timestamp


@pytest.mark.parametrize("service", ["text"], indirect=True)
def test_health_checks_leave_no_access_line(service: Service) -> None:
    quiet, loud = new_id("health"), new_id("after-health")
    with service.connect() as connection:
        for path in ("/livez", "/readyz"):
            answer = connection.request("GET", path, request_id=quiet)
            assert (answer.status, answer.one()) == (200, quiet)
        connection.request("GET", "/api/demo", request_id=loud)
    service.access_line(loud)
    assert quiet not in service.access_text()
