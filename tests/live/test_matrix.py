"""Every ordinary outcome: one header, one ID everywhere, one access line that is right."""

import re

import pytest

from tests.support.client import Answer, new_id
from tests.support.lines import AccessLine
from tests.support.service import Service
from tests.support.waiting import wait_for

from .cases import CASES, Case

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SLOW = 5.0


def ask(service: Service, case: Case, request_id: str | None) -> Answer:
    """Send what a case says."""
    return service.request(case.method, case.target, case.headers, case.body, request_id=request_id)


def check_line(line: AccessLine, case: Case, answer: Answer) -> None:
    """Check an access line against the case and against what arrived."""
    assert (line.status, line.method, line.target) == (case.status, case.method, case.target)
    assert line.http_version == "1.1"
    assert line.client.startswith("127.0.0.1:")
    assert case.at_least <= line.duration < case.at_least + SLOW
    assert line.flags[: len(case.flags)] == case.flags
    if case.status < 500:
        assert not line.flags
    if line.bytes is not None:
        assert line.bytes == len(answer.body)
        assert line.ttfb is not None
        assert 0 <= line.ttfb <= line.duration


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outcome(service: Service, case: Case) -> None:
    """Status, header, body, access line and log lines of one request agree on the ID that was sent."""
    request_id = new_id("case")
    answer = ask(service, case, request_id)
    assert answer.status == case.status
    assert answer.complete
    assert answer.one() == request_id
    if case.size is not None:
        assert len(answer.body) == case.size
    if case.envelope:
        body = answer.json()
        assert set(body) == {"code", "message", "cause", "request_id", "result"}, body
        assert body["request_id"] == request_id
        failed = case.status >= 400
        assert (body["code"], body["message"]) == ((case.status, "failed") if failed else (0, "success"))
        assert bool(body["cause"]) == failed
    check_line(service.access_line(request_id), case, answer)
    expected = len(case.logs) + bool(case.trace)
    if expected:
        records = service.app_lines(request_id, expected)
        assert len(records) == expected, records
        for message in case.logs:
            assert [record.message for record in records].count(message) == 1, records
        if case.trace:
            trace = next(record for record in records if record.exception)
            assert trace.level == "ERROR"
            assert trace.exception.startswith("Traceback (most recent call last):")
            assert case.trace in trace.exception


@pytest.mark.parametrize("case", [case for case in CASES if not case.at_least], ids=lambda case: case.name)
def test_made_id(service: Service, case: Case) -> None:
    """Without an ID from outside the service makes a UUID4, and it is the same everywhere."""
    answer = ask(service, case, None)
    request_id = answer.one()
    assert UUID4.fullmatch(request_id)
    if case.envelope:
        assert answer.json()["request_id"] == request_id
    check_line(service.access_line(request_id), case, answer)


def test_no_inside_in_error_body(service: Service) -> None:
    """The answer to an unhandled error tells nothing of the inside; the traceback is there once in all logs."""
    request_id = new_id("inside")
    answer = service.request("GET", "/probe/fail", request_id=request_id)
    assert b"probe failure" not in answer.body
    assert b"Traceback" not in answer.body
    assert b"RuntimeError" not in answer.body
    (record,) = service.app_lines(request_id)
    assert record.exception.count("Traceback (most recent call last):") == 1


def test_headers_of_http_exception_are_kept(service: Service) -> None:
    """A header of an HTTPException arrives beside the ID, and its detail is the cause."""
    answer = service.request("GET", "/probe/teapot")
    assert answer.one("X-Extra") == "kept"
    assert answer.json()["cause"] == "I am a teapot."


def test_loggers_nobody_prepared(service: Service) -> None:
    """Plain loggers, library loggers and their children carry the ID; control characters split no line."""
    request_id = new_id("loggers")
    service.request("GET", "/probe/logging", request_id=request_id)
    records = {record.message: record for record in service.app_lines(request_id, 4)}
    assert len(records) == 4, records
    assert records["by plain logger"].level == "INFO"
    assert records["by library logger"].level == "WARNING"
    assert "ValueError: told by a library" in records["by its child"].exception
    assert all(record.file == "work.py" and record.line for record in records.values())
    told = service.app_text()
    assert "\x1b" not in told
    assert "\x00" not in told
    assert not any(line.startswith("second line") for line in told.split("\n"))


def test_shared_response_object(service: Service) -> None:
    """A response object that serves everybody keeps nobody's ID."""
    with service.connect() as connection:
        for number in range(3):
            request_id = new_id(f"shared{number}")
            assert connection.request("GET", "/probe/shared", request_id=request_id).one() == request_id


def test_context(service: Service) -> None:
    """Accessor, starlette-context, request state and request header all know the ID, sent or made."""
    for sent in (new_id("context"), None):
        answer = service.request("GET", "/probe/context", request_id=sent)
        request_id = sent or answer.one()
        known = answer.json()["result"]
        assert known.pop("note") == "written"
        assert set(known.values()) == {request_id}, known


def test_request_time(service: Service) -> None:
    """The clock runs from the door, in seconds, with the precision that was asked for."""
    before, after = service.request("GET", "/probe/time?precision=2").json()["result"]
    assert 0 <= before < after
    assert 0.2 <= after < before + SLOW
    assert round(after, 2) == after


@pytest.mark.parametrize("excluded", ["unset", "defaults"])
def test_exclusion_spares_the_id(service: Service, excluded: str) -> None:
    """`exclude_unset` and `exclude_defaults` take the other fields out of a dict's answer, but not the ID."""
    request_id = new_id("exclude")
    answer = service.request("GET", f"/probe/exclude/{excluded}", request_id=request_id)
    assert answer.json() == {"request_id": request_id, "result": "excluded"}


def test_failing_background(service: Service) -> None:
    """A background task that fails leaves the answer and its line alone; its traceback has the ID, once."""
    request_id = new_id("background")
    answer = service.request("GET", "/probe/background?fail=true", request_id=request_id)
    assert (answer.status, answer.one()) == (200, request_id)
    records = service.app_lines(request_id, 3)
    assert [bool(record.exception) for record in records].count(True) == 1, records
    assert "ValueError: probe background failure" in records[-1].exception
    line = service.access_line(request_id)
    assert line.status == 200
    assert line.duration < 0.4


def test_demo_background(service: Service) -> None:
    """The demo's background task logs with the ID of its request."""
    request_id = new_id("demo-background")
    assert service.request("GET", "/api/demo/background", request_id=request_id).status in {200, 202}
    assert service.app_lines(request_id)
    assert service.access_line(request_id).flags == ()


def test_health_leaves_no_line(service: Service) -> None:
    """Health checks answer with the ID and leave no access line."""
    quiet, loud = new_id("health"), new_id("after-health")
    for path in ("/livez", "/readyz"):
        answer = service.request("GET", path, request_id=quiet)
        assert (answer.status, answer.one()) == (200, quiet)
    service.request("GET", "/api/demo", request_id=loud)
    service.access_line(loud)
    assert quiet not in service.access_text()


def test_every_line_reads(service: Service) -> None:
    """Whatever the access log holds by now is an access line, and no ID that a test made has two."""
    request_id = new_id("last")
    service.request("GET", "/api/demo", request_id=request_id)
    wait_for(lambda: request_id in service.access_text(), "TODO-WHAT")
    ids = [line.request_id for line in service.access()]
    doubled = {one for one in ids if ids.count(one) > 1}
    assert not doubled
