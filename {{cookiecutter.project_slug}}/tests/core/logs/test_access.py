"""The access log line: one per request, with status and duration; client input is escaped and secrets are masked."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.common.constants import ACCESS_LOG_FORMAT
from app.common.context.observers import log_fields
from app.common.context.request_record import RequestRecord
from app.common.logs.access import JsonAccessFormatter, RequestAccessFormatter, write_access_line
from app.common.logs.access_fields import FIELDS, client_of, percent_encode, policy, query_of, request_line_of
from app.common.logs.handlers import LogFileHandler, LogStreamHandler
from app.common.request_id import set_logged_length
from app.environment import PROJECT_ROOT
from app.main import Application
from app.settings import Settings
from tests.core.support import http_scope
from tests.support import HEADER, ID, Logs, connect


def finished_record(**changes: Any) -> RequestRecord:  # noqa: ANN401
    """Return the record of a request that took 1.234 seconds."""
    scope = http_scope(**changes)
    if scope["type"] == "websocket":
        del scope["method"]
    record = RequestRecord(ID, scope)
    record.status, record.bytes_sent = 200, 42
    record.ttfb, record.is_over, record.duration = 0.5, True, 1.2344
    record.ended_at = record.started_at + 1.2344
    return record


def line_of(record: RequestRecord, fmt: str) -> str:
    return RequestAccessFormatter(fmt).format(logging.makeLogRecord({"request": record}))


def test_access_line_has_the_default_format(client: TestClient, logs: Logs) -> None:
    connect(client.app, "192.0.2.7").get("/api/demo?a=1&b=%20", headers={HEADER: ID})
    (line,) = logs.access
    pattern = rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}}[+-]\d{{4}}\] {ID} 200 (\d+\.\d{{3}})s 192\.0\.2\.7:50000 - "
    assert re.fullmatch(pattern + r'"GET /api/demo\?a=1&b=%20 HTTP/1\.1"', line)


def test_format_can_contain_every_field() -> None:
    record = finished_record(
        method="PUT",
        raw_path=b"/a b",
        query_string=b"c=d",
        http_version="2",
        headers=[(b"user-agent", b'tester "x" \x1b[0m\n')],
    )
    record.flags = ["client_disconnect", "incomplete"]
    expected = {
        "asctime": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4}",
        "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}",
        "request_id": ID,
        "method": "PUT",
        "path": "/a%20b",
        "query": "c=d",
        "http_version": "2",
        "status": "200",
        "status_code": "200",
        "duration": r"1\.234",
        "request_time": r"1\.234",
        "ttfb": r"0\.500",
        "bytes": "42",
        "client": r"192\.0\.2\.1:50000",
        "client_addr": r"192\.0\.2\.1:50000",
        "user_agent": r"tester \\\"x\\\" \\u001b\[0m\\n",
        "flags": "client_disconnect,incomplete",
        "flags_suffix": " client_disconnect,incomplete",
        "request_line": r"PUT /a%20b\?c=d HTTP/2",
    }
    assert expected.keys() == FIELDS.keys()
    for field, pattern in expected.items():
        assert re.fullmatch(f"<{pattern}>", line_of(record, f"<%({field})s>")), field


def test_format_can_contain_a_percent_sign() -> None:
    assert line_of(finished_record(), "100%% %(status)s") == "100% 200"


@pytest.mark.parametrize(
    ("fmt", "message"),
    [
        *[(fmt, "Invalid access log format") for fmt in ("%(status)d", "100% %(status)s", "%(nope)d", "%s%")],
        *[
            (fmt, r"Unknown access log fields: nothing\. Known: asctime, .*ttfb")
            for fmt in ("%(nothing)s", "%(status)s %(nothing)s")
        ],
    ],
)
def test_invalid_format_raises_when_the_formatter_is_created(fmt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RequestAccessFormatter(fmt)


def test_unknown_values_are_hyphens() -> None:
    record = RequestRecord(ID, http_scope(client=None))
    assert line_of(record, "%(ttfb)s %(client)s %(flags)s%(flags_suffix)s %(user_agent)s") == "- - - "


def test_json_access_line_has_the_documented_fields() -> None:
    record = finished_record(
        query_string=b"token=x", headers=[(b"user-agent", "\u2028\x1b[0m".encode("utf-8") + b'"\n')]
    )
    policy.configure((), ("token",))
    line = JsonAccessFormatter().format(logging.makeLogRecord({"request": record}))
    assert line.splitlines() == [line]
    content = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", content.pop("timestamp"))
    assert content.pop("user_agent").endswith('"\n')
    assert content == {
        "request_id": ID,
        "method": "GET",
        "path": "/",
        "query": "token=***",
        "http_version": "1.1",
        "status": 200,
        "duration": 1.2344,
        "ttfb": 0.5,
        "bytes": 42,
        "client": "192.0.2.1:50000",
        "flags": [],
    }


HOSTILE = [
    finished_record(),
    finished_record(query_string=b"a=1&token=secret", method="PUT", http_version="2"),
    finished_record(raw_path=b'/"a"\\\n\xff', headers=[(b"user-agent", b'"x"\\\xff\x1b')]),
    finished_record(client=None, raw_path=None, path="/\u00fc"),
    finished_record(type="websocket", client=("2001:db8::1", 0)),
]


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """Return the access log records that `logging` has handled, and not the fast path."""
    handled = list[logging.LogRecord]()
    logger = logging.getLogger("app.access")

    def handle(record: logging.LogRecord) -> None:
        handled.append(record)
        logging.Logger.handle(logger, record)

    monkeypatch.setattr(logger, "handle", handle)
    monkeypatch.setattr(logger, "filters", [])
    return handled


def set_handler(handler: logging.Handler, formatter: logging.Formatter | None = None) -> logging.Handler:
    """Make this the only handler of the access logger."""
    logger = logging.getLogger("app.access")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    handler.setFormatter(formatter or RequestAccessFormatter())
    return handler


def write_all(handler: logging.Handler, formatter: logging.Formatter) -> None:
    """Write the line of each hostile request, with and without flags and added fields."""
    set_handler(handler, formatter)
    for request, flags in product(HOSTILE, ([], ["client_disconnect", "incomplete"])):
        request.flags = flags
        write_access_line(request)
        log_fields["test"] = lambda: {"trace": "a b\n\u2028", "status": "theirs"}
        write_access_line(request)
        del log_fields["test"]
    handler.close()


@pytest.mark.parametrize("formatter", [RequestAccessFormatter(), JsonAccessFormatter()])
@pytest.mark.parametrize("length", [0, 8], ids=["", "truncated IDs"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_fast_path_writes_the_same_bytes_as_logging(
    kind: str, length: int, formatter: logging.Formatter, tmp_path: Path, handled: list[logging.LogRecord]
) -> None:
    set_logged_length(length)
    for name, count in (("fast", 0), ("slow", 20)):
        with (tmp_path / name).open("w", encoding="ascii") as stream:
            handler = LogFileHandler(tmp_path / name) if kind == "file" else LogStreamHandler(stream)
            if name == "slow":
                handler.addFilter(lambda _: True)  # a filter must see each record, so there is no fast path
            write_all(handler, formatter)
        assert len(handled) == count
    assert (tmp_path / "fast").read_bytes() == (tmp_path / "slow").read_bytes()
    assert (tmp_path / "fast").read_bytes().count(b"\n") == 20


def test_custom_format_writes_the_same_fields_as_the_default_format() -> None:
    default, custom = RequestAccessFormatter(), RequestAccessFormatter(ACCESS_LOG_FORMAT + " ")
    for request, flags in product(HOSTILE, ([], ["a"], ["a", "b"])):
        request.flags = flags
        assert default.format_request(request, {}) + " " == custom.format_request(request, {})


@pytest.mark.parametrize(
    "change",
    [
        lambda logger, _: logger.addFilter(lambda _: False),
        lambda _, handler: handler.addFilter(lambda _: False),
        lambda _, handler: handler.setLevel(logging.WARNING),
        lambda logger, _: setattr(logger, "handlers", []),
    ],
    ids=["logger's filter", "handler's filter", "handler's level", "no handler"],
)
def test_filters_and_levels_of_logger_and_handler_are_respected(
    change: Callable[[logging.Logger, logging.Handler], None], tmp_path: Path, handled: list[logging.LogRecord]
) -> None:
    handler = set_handler(LogFileHandler(tmp_path / "a.log"))
    change(logging.getLogger("app.access"), handler)
    write_access_line(finished_record())
    handler.close()
    assert len(handled) == 1
    assert (tmp_path / "a.log").read_bytes() == b""


def test_patched_call_handlers_receives_each_access_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: received.append(record))
    set_handler(LogFileHandler(tmp_path / "a.log"))
    write_access_line(finished_record())
    assert [record.getMessage() for record in received] == ["GET / HTTP/1.1 200"]


def test_root_logger_gets_access_records_when_they_propagate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_handler(LogFileHandler(tmp_path / "a.log"))
    logging.getLogger("app.access").propagate = True
    write_access_line(finished_record(query_string=b"a=b"))
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("app.access", "GET /?a=b HTTP/1.1 200")
    assert vars(record)["request_id"] == ID


class CustomHandler(LogFileHandler):
    pass


class CustomFormatter(RequestAccessFormatter):
    pass


@pytest.mark.parametrize(
    ("kind", "formatter"), [(CustomHandler, RequestAccessFormatter()), (LogFileHandler, CustomFormatter())]
)
def test_custom_handler_or_formatter_class_is_used(
    kind: type[LogFileHandler], formatter: logging.Formatter, tmp_path: Path, handled: list[logging.LogRecord]
) -> None:
    set_handler(kind(tmp_path / "a.log"), formatter)
    write_access_line(finished_record())
    assert len(handled) == 1


def test_write_error_is_reported_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], handled: list[logging.LogRecord]
) -> None:
    set_handler(LogFileHandler(tmp_path / "log" / "a.log"))
    shutil.rmtree(tmp_path / "log")
    write_access_line(finished_record())
    assert handled == []
    assert "Log lines are being lost" in capsys.readouterr().err


@pytest.mark.parametrize("formatter", [RequestAccessFormatter(), JsonAccessFormatter()])
def test_record_of_another_logger_is_formatted_as_its_message_on_one_line(formatter: logging.Formatter) -> None:
    line = formatter.format(logging.makeLogRecord({"msg": "one\ntwo"}))
    assert "one\\ntwo" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", ""),
        (b"page=2&sort=up", "page=2&sort=up"),
        (b"page=2&access_token=abc&sort=up", "page=2&access_token=***&sort=up"),
        (b"PassWord=abc", "PassWord=***"),
        (b"p%61ssword=abc", "p%61ssword=***"),
        (b"client+secret=abc", "client+secret=***"),
        (b"api_key=a=b=c", "api_key=***"),
        (b"api-key=", "api-key=***"),
        (b"token=a&token=b", "token=***&token=***"),
        (b"credentials[]=a&X-Amz-Signature=b", "credentials[]=***&X-Amz-Signature=***"),
        (b"a=1;token=abc;b=2", "a=1;token=***;b=2"),
        (b"x" * 300 + b"token=abc", "x" * 300 + "token=***"),
        (b"token", "token"),
        (b"q=token", "q=token"),
        (b"&&=", "&&="),
    ],
)
def test_secrets_in_the_query_are_masked(query: bytes, expected: str) -> None:
    policy.configure((), Settings.model_fields["masked_query"].default)
    assert query_of(finished_record(query_string=query)) == expected


def test_masked_query_names_are_a_setting(configure: Callable[..., Application], logs: Logs) -> None:
    client = connect(configure(MASKED_QUERY="Pin, iban"))
    client.get("/api/demo?pin=1&IBAN=2&token=3")
    assert '"GET /api/demo?pin=***&IBAN=***&token=3 HTTP/1.1"' in logs.access[0]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/plain/path", "/plain/path"),
        (b"/a b\tc", "/a%20b%09c"),
        (b"/a\nb\r\n", "/a%0Ab%0D%0A"),
        (b'/"quoted"\\', "/%22quoted%22%5C"),
        (b"/\x1b[31m\x00\x7f", "/%1B[31m%00%7F"),
        ("/ü\u2028".encode(), "/%C3%BC%E2%80%A8"),
        (b"/%0d%0a", "/%0d%0a"),
        (b"/%(name)s %s", "/%(name)s%20%s"),
    ],
)
def test_path_is_percent_encoded(raw: bytes, expected: str) -> None:
    assert percent_encode(raw) == expected
    assert line_of(finished_record(raw_path=raw), "%(request_line)s") == f"GET {expected} HTTP/1.1"


def test_decoded_path_is_logged_if_there_is_no_raw_path() -> None:
    assert (
        request_line_of(finished_record(raw_path=None, path="/ü\n\ud800", query_string=b"a"))
        == "GET /%C3%BC%0A??a HTTP/1.1"
    )


def test_long_target_and_user_agent_are_truncated() -> None:
    record = finished_record(
        raw_path=b"/" * 100_000, query_string=b"a" * 100_000, headers=[(b"user-agent", b"a" * 100_000)]
    )
    assert len(request_line_of(record)) < 20_000
    assert len(line_of(record, "%(user_agent)s")) == 256


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("2001:DB8::0:1", 80), "[2001:db8::1]:80"),
        (("192.0.2.1", 0), "192.0.2.1"),
        (("2001:db8::1", 0), "[2001:db8::1]"),
        (("testclient", 80), "-"),
        (("evil\n\x1b", 80), "-"),
        (("", 0), "-"),
        (None, "-"),
    ],
)
def test_client_address_is_canonical_or_a_hyphen(client: tuple[str, int] | None, expected: str) -> None:
    assert client_of(finished_record(client=client)) == expected


def test_excluded_path_is_logged_only_if_the_request_fails(configure: Callable[..., Application], logs: Logs) -> None:
    client = connect(configure(ACCESS_LOG_EXCLUDE="/api/demo"))
    client.get("/api/demo")
    client.put("/api/demo")
    client.get("/livez")
    assert [line.split()[-2] for line in logs.access] == ["/api/demo", "/livez"]


def test_disabled_access_logger_writes_no_line(logs: Logs, client: TestClient) -> None:
    logging.getLogger("app.access").setLevel(logging.WARNING)
    client.get("/api/demo")
    assert logs.access == []


@pytest.mark.parametrize(("method", "size"), [("GET", 5), ("HEAD", 0)])
def test_bytes_count_the_body_that_was_sent(
    method: str, size: int, app: Application, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_api_route("/text", lambda: PlainTextResponse("12345"), methods=["GET", "HEAD"])
    client.request(method, "/text")
    assert [vars(record)["request"].bytes_sent for record in caplog.records if record.name == "app.access"] == [size]


def test_edited_access_log_format_takes_effect(logs: Logs) -> None:
    """To change the access log line, it is enough to edit `ACCESS_LOG_FORMAT`."""
    code = (
        "from app.common import constants; constants.ACCESS_LOG_FORMAT = '%(status)s of %(path)s'\n"
        "from starlette.testclient import TestClient; from app.main import app; TestClient(app).get('/api/demo')"
    )
    subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, check=True, capture_output=True)
    assert logs.access == ["200 of /api/demo"]


@pytest.mark.parametrize(
    "scope",
    [
        {"path": "/livez"},
        {"path": "/service/livez", "root_path": "/service"},
        {"path": "/service/livez", "root_path": "/service/part", "app_root_path": "/service"},
        {"path": "/livez", "root_path": "/service"},  # a server that removes the prefix from the path
    ],
)
def test_excluded_path_is_excluded_below_a_prefix(scope: dict[str, str], configure: Callable[..., Application]) -> None:
    configure(ACCESS_LOG_EXCLUDE="/livez")
    assert policy.excludes(scope)
    assert not policy.excludes({**scope, "path": f"/other{scope['path']}"})


def test_excluded_path_below_a_mount_is_logged(app: Application, logs: Logs) -> None:
    app.mount("/sub", Starlette(routes=[Route("/livez", PlainTextResponse("alive"))]))
    client = connect(app)
    assert [client.get(path).status_code for path in ("/sub/livez", "/livez")] == [200, 200]
    assert ["/sub/livez" in line for line in logs.access] == [True]
