"""Every ordinary outcome: one ID header, the same ID everywhere, one correct access log line."""

import re
import time

import pytest

from tests.support.client import Response, new_id
from tests.support.lines import AccessLine, AppLine
from tests.support.service import Service

from .cases import CASES, Case

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def check_response(response: Response, case: Case) -> None:
    """Check a response against the case; an error response must contain no internal details."""
    assert (response.status, response.complete) == (case.status, True)
    if case.size is not None:
        assert len(response.body) == case.size
    if case.header:
        assert response.header(case.header[0]) == case.header[1]
    for word in ("Traceback", *filter(None, case.trace.split(": "))):
        assert word.encode() not in response.body
    if case.envelope:
        body = response.json()
        assert set(body) == {"code", "message", "cause", "request_id", "result"}, body
        assert body["request_id"] == response.header()
        failed = case.status >= 400
        assert (body["code"], body["message"]) == ((case.status, "failed") if failed else (0, "success"))
        assert bool(body["cause"]) == failed
        assert case.cause in (body["cause"] or "")


def check_line(line: AccessLine, case: Case, response: Response, took: float) -> None:
    """Check an access log line against the case and the response, which arrived `took` seconds after the request."""
    assert (line.status, line.method, line.target) == (case.status, case.method, case.target)
    assert line.http_version == "1.1"
    assert line.client.startswith("127.0.0.1:")
    assert case.at_least <= line.duration <= took + 0.001  # the duration is rounded to milliseconds
    assert line.flags[: len(case.flags)] == case.flags
    if case.status < 500:
        assert not line.flags
    if line.bytes is not None:
        assert line.bytes == len(response.body)
        assert line.ttfb is not None
        assert 0 <= line.ttfb <= line.duration


def check_records(records: list[AppLine], case: Case) -> None:
    """Check the log records of a request: each message once, and at most one traceback."""
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
        response = service.request(case.method, case.target, case.headers, case.body, request_id=sent)
        request_id = response.header()
        assert request_id == sent if sent else UUID4.fullmatch(request_id)
        check_response(response, case)
        line = service.access_line(request_id)
        check_line(line, case, response, time.monotonic() - began)
        expected = len(case.logs) + bool(case.trace)
        check_records(service.app_lines(request_id, expected) if expected else [], case)


def test_records_of_all_loggers_have_the_id_and_one_line_each(service: Service) -> None:
    """Plain loggers, library loggers and their children; control characters split no line."""
    request_id = new_id("loggers")
    service.request("GET", "/probe/logging", request_id=request_id)
    records = {record.message: record for record in service.app_lines(request_id, 4)}
    assert len(records) == 4, records
    assert records["by plain logger"].level == "INFO"
    assert records["by library logger"].level == "WARNING"
    assert "ValueError: raised by a library" in records["by its child"].exception
    assert all(record.file == "work.py" and record.line for record in records.values())
    text = service.app_text()
    assert "\x1b" not in text
    assert "\x00" not in text
    assert not any(line.startswith("second line") for line in text.split("\n"))


def test_failing_background_task_is_logged_once_after_the_access_line(service: Service) -> None:
    """It does not change the response or its access log line; its traceback has the ID."""
    request_id = new_id("background")
    response = service.request("GET", "/probe/background?fail=true", request_id=request_id)
    assert (response.status, response.header()) == (200, request_id)
    records = service.app_lines(request_id, 3)
    assert [bool(record.exception) for record in records] == [False, False, True], records
    assert "ValueError: probe background failure" in records[-1].exception
    line = service.access_line(request_id)
    assert line.status == 200
    assert line.timestamp < records[1].timestamp


@pytest.mark.parametrize("service", ["text"], indirect=True)
def test_health_checks_are_not_in_the_access_log(service: Service) -> None:
    excluded, logged = new_id("health"), new_id("after-health")
    with service.connect() as connection:
        for path in ("/livez", "/readyz"):
            response = connection.request("GET", path, request_id=excluded)
            assert (response.status, response.header()) == (200, excluded)
        connection.request("GET", "/api/demo", request_id=logged)
    service.access_line(logged)
    assert excluded not in service.access_text()
