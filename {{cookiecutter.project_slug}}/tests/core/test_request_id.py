"""Request IDs: which are accepted, what new ones look like, and where they appear."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import RFC_4122, UUID

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.common.context.observers import log_filters
from app.common.log_handler import RequestLogHandler
from app.common.middlewares import ContextMiddleware
from app.common.request_id import (
    RequestIDLogFilter,
    RequestIdPlugin,
    current_request_id,
    is_acceptable,
    new_request_id,
)
from app.main import Application
from tests.core.support import http_scope
from tests.support import HEADER, ID, UUID4, Logs, connect

UUIDS = [ID, ID.upper(), ID.replace("-", "")]
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ACCEPTED = [*UUIDS, ULID, TRACE_PARENT, "Zm9vYmFyL2Jheis_=+/x", "20261001.1658@host.example", "a1234567", "a" * 128]
REPLACED = [
    "", "a123456", "a" * 129, "-" * 36, "-" * 60_000, f"-{ID}", f"{ID}\n", f"{ID}\nforged", f"{ID}\rforged",
    "with a blank", "with\ta-tab", "with\0a-nul", "with\x1b[31mred", 'with"quote', f"{ID},{ID}", "a;b;c;d;e",
    "%0a%0d%0a%0d", "<script>alert(1)</script>", "${jndi:ldap://x}", "ärger-und-not", "abcdefgh\x85",
    "\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668",
]  # fmt: skip


def test_new_id_is_a_random_uuid_in_canonical_form() -> None:
    ids = {new_request_id() for _ in range(500)}
    assert len(ids) == 500
    for text in ids:
        uuid = UUID(text)
        assert (str(uuid), uuid.version, uuid.variant) == (text, 4, RFC_4122)
    assert {text[19] for text in ids} == set("89ab")


@pytest.mark.parametrize("value", ACCEPTED)
def test_valid_id_is_accepted(value: str, client: TestClient) -> None:
    assert is_acceptable(value.encode())
    response = client.get("/api/demo", headers={HEADER: value})
    assert response.headers.get_list(HEADER) == [value]
    assert response.json()["request_id"] == value


@pytest.mark.parametrize("value", REPLACED, ids=lambda value: value[:20])
def test_invalid_id_is_replaced_and_the_request_served(value: str, client: TestClient) -> None:
    assert not is_acceptable(value.encode())
    response = client.get("/api/demo", headers=[(HEADER.encode(), value.encode())])
    assert response.status_code == 200
    assert UUID4.fullmatch(response.headers[HEADER])
    assert response.json()["request_id"] == response.headers[HEADER]


@pytest.mark.parametrize("values", [[ID, ID], [ID, "another-id"], ["", ID]])
def test_several_id_headers_are_replaced(values: list[str], client: TestClient) -> None:
    response = client.get("/api/demo", headers=[(HEADER, value) for value in values])
    assert UUID4.fullmatch(response.headers[HEADER])
    assert response.headers[HEADER] not in values


@pytest.mark.parametrize(
    ("trust", "peer", "accepted"),
    [
        *[("always", peer, True) for peer in ("203.0.113.9", "127.0.0.1")],
        *[("proxies", peer, True) for peer in ("127.0.0.1", "10.1.2.3")],
        *[("proxies", peer, False) for peer in ("203.0.113.9", "not-an-address")],
        *[("never", peer, False) for peer in ("203.0.113.9", "127.0.0.1")],
    ],
)
def test_request_id_trust_decides_whose_ids_are_accepted(
    trust: str, peer: str, accepted: bool, configure: Callable[..., Application]
) -> None:
    app = configure(REQUEST_ID_TRUST=trust, FORWARDED_ALLOW_IPS="127.0.0.1, 10.0.0.0/8")
    for more in ({}, {"X-Forwarded-For": "192.0.2.1"}):
        response = connect(app, peer).get("/api/demo", headers={HEADER: ID, **more})
        assert (response.headers[HEADER] == ID) is accepted


def test_trust_depends_on_the_peer_and_not_on_x_forwarded_for(configure: Callable[..., Application]) -> None:
    app = configure(REQUEST_ID_TRUST="proxies")
    headers = {HEADER: ID, "X-Forwarded-For": "127.0.0.1"}
    assert connect(app, "203.0.113.9").get("/api/demo", headers=headers).headers[HEADER] != ID
    headers = {HEADER: ID, "X-Forwarded-For": "203.0.113.9"}
    assert connect(app, "127.0.0.1").get("/api/demo", headers=headers).headers[HEADER] == ID


def test_the_header_has_the_name_in_the_settings(configure: Callable[..., Application]) -> None:
    client = connect(configure(REQUEST_ID_HEADER="X-Correlation-ID"))
    response = client.get("/api/demo", headers={"x-correlation-id": ID, HEADER: "another-id"})
    assert response.headers["X-Correlation-ID"] == response.json()["request_id"] == ID
    assert HEADER not in response.headers


@pytest.mark.parametrize(
    ("plugin", "incoming", "expected"),
    [
        (RequestIdPlugin(generator=lambda: "made-here"), [], "made-here"),
        (RequestIdPlugin(generator=lambda: "made-here"), [ID.encode()], ID),
        (RequestIdPlugin(generator=lambda: "made-here"), [b"invalid id"], "made-here"),
        (RequestIdPlugin(generator=lambda: "made-here", validator=lambda _: False), [ID.encode()], "made-here"),
        (RequestIdPlugin(validator=lambda value: value == b"short"), [b"short"], "short"),
        (RequestIdPlugin(transformer=str.upper), [b"abcdefgh"], "ABCDEFGH"),
        (RequestIdPlugin(generator=lambda: "made-here", transformer=str.upper), [], "MADE-HERE"),
    ],
)
def test_generator_validator_and_transformer(plugin: RequestIdPlugin, incoming: Sequence[bytes], expected: str) -> None:
    assert plugin.choose(incoming, from_proxy=False) == expected


@pytest.mark.parametrize(
    "plugin",
    [
        RequestIdPlugin(generator=lambda: str(1 / 0)),
        RequestIdPlugin(transformer=lambda _: "ü€"),
        RequestIdPlugin(generator=lambda: "two words"),
        RequestIdPlugin(generator=lambda: ""),
        RequestIdPlugin(validator=lambda _: True),
    ],
)
def test_new_uuid_is_used_if_a_callable_of_the_policy_fails(
    plugin: RequestIdPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    assert UUID4.fullmatch(plugin.choose([b"a\x1b[31m\x85\r\nforged"], from_proxy=False))
    assert "returned no valid ID" in caplog.text
    assert "forged" not in caplog.text


def test_rejected_value_is_not_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.get("/api/demo", headers={HEADER: "<evil value>"})
    assert "demo" in caplog.text
    assert "evil" not in caplog.text


@pytest.mark.parametrize("headers", [{}, {HEADER: ID}, {HEADER: "invalid id"}])
def test_application_sees_the_final_id(headers: dict[str, str], app: Application, client: TestClient) -> None:
    @app.get("/seen")
    async def seen(request: Request) -> list[str]:
        return [*request.headers.getlist(HEADER), request.state.request_id, request.headers["X-Other"]]

    response = client.get("/seen", headers={**headers, "X-Other": "stays"})
    assert response.json() == [response.headers[HEADER], response.headers[HEADER], "stays"]


def test_request_header_is_unchanged_if_update_request_header_is_false() -> None:
    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        text = ",".join(HTTPConnection(scope).headers.getlist(HEADER))
        await PlainTextResponse(f"{text} {current_request_id()}")(scope, receive, send)

    outermost = ContextMiddleware(
        seen, plugins=[RequestIdPlugin(update_request_header=False, generator=lambda: "made")]
    )
    assert connect(outermost).get("/", headers={HEADER: "invalid id"}).text == "invalid id made"
    assert connect(outermost).get("/").text == " made"


def test_the_filter_stamps_each_record_once() -> None:
    record = logging.makeLogRecord({"msg": "text"})
    assert RequestIDLogFilter().filter(record)
    assert record.request_id == "-"  # type: ignore[attr-defined]
    stamped = logging.makeLogRecord({"request_id": ID})
    assert RequestIDLogFilter().filter(stamped)
    assert stamped.request_id == ID  # type: ignore[attr-defined]


def test_record_must_pass_every_log_filter_of_integrations() -> None:
    log_filters["first"], log_filters["second"] = lambda record: record.levelno > 10, lambda record: record.levelno < 30
    passing = [n for n in (10, 20, 30) if RequestIDLogFilter().filter(logging.makeLogRecord({"levelno": n}))]
    assert passing == [20]


def test_record_rejected_by_a_log_filter_is_in_no_file(configure: Callable[..., Application], logs: Logs) -> None:
    configure()
    log_filters["test"] = lambda record: record.getMessage() != "noise"
    for name in ("test", "elsewhere"):
        log = RequestLogHandler(name, file=name == "test")
        log.error("noise")
        log.error("news")
    for file in ("test.log", "error.log"):
        (line,) = logs.lines(file)
        assert line.endswith(" news")


def test_plugin_works_in_the_middlewares_of_starlette_context() -> None:
    connection = HTTPConnection(http_scope(headers=[(b"x-request-id", ID.encode())]))
    assert asyncio.run(RequestIdPlugin().process_request(connection)) == ID
