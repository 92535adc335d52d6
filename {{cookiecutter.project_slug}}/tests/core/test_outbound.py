"""Outbound HTTP clients: which requests carry the request ID, and the log record of each exchange."""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple

import httpx2
import pytest
from starlette.testclient import TestClient

from app.common import outbound
from app.common.outbound import OutboundAsyncClient, OutboundClient, outbound_async_client, outbound_client
from app.common.request_id import current_request_id
from app.main import create_app
from app.settings import Settings
from tests.support import HEADER, ID

# Without the proxies of the environment, and without CA certificates, which take 20 ms to load.
DEFAULTS: dict[str, Any] = {"trust_env": False, "verify": False, "follow_redirects": True}
SET_BY_HAND = {HEADER.lower(): "set-by-hand"}
current: ContextVar[str] = ContextVar("current", default="-")


class Received(NamedTuple):
    """One request as the server received it."""

    url: str
    ids: list[str]
    body: bytes = b""


class Web(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A transport that returns the given responses, then 200."""

    def __init__(self, *responses: httpx2.Response) -> None:
        self.responses = list(responses)
        self.seen: list[Received] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.SyncByteStream)
        self.seen.append(Received(str(request.url), request.headers.get_list(HEADER), b"".join(request.stream)))
        return self.responses.pop(0) if self.responses else httpx2.Response(200)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)  # so that tasks take turns
        return self.handle_request(request)

    @property
    def ids(self) -> list[list[str]]:
        return [seen.ids for seen in self.seen]


def redirecting(*urls: str, status: int = 307) -> Web:
    return Web(*(httpx2.Response(status, headers={"Location": url}) for url in urls))


@pytest.fixture(autouse=True)
def request_id(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "app.outbound")
    monkeypatch.setattr(outbound, "current_request_id", current.get)
    token = current.set(ID)
    yield
    current.reset(token)


def call_sync(url: str, web: Web | None = None, method: str = "GET", *, call: Any = None, **options: Any) -> None:  # noqa: ANN401
    with OutboundClient(**DEFAULTS | {"transport": web} | options) as client:
        client.request(method, url, **call or {})


def call_async(url: str, web: Web | None = None, method: str = "GET", *, call: Any = None, **options: Any) -> None:  # noqa: ANN401
    async def go() -> None:
        async with OutboundAsyncClient(**DEFAULTS | {"transport": web} | options) as client:
            await client.request(method, url, **call or {})

    asyncio.run(go())


Call = Callable[..., None]
both = pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])


@both
def test_id_is_sent_once(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        called = pool.submit(copy_context().run, call, url, allowed_hosts=["127.0.0.1"])
        connection, _ = listener.accept()
        with connection:
            received = connection.recv(65536).decode()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        called.result()
    assert re.findall(rf"(?im)^{HEADER}: (.*)\r$", received) == [ID]


@both
@pytest.mark.parametrize(
    ("hosts", "current_id", "sent"),
    [
        (["127.0.0.1"], ID, [ID]),
        ([], ID, []),
        (["127.0.0.1"], "-", []),  # outside of a request
    ],
)
def test_id_is_sent_to_allowed_hosts_only(call: Call, hosts: list[str], current_id: str, sent: list[str]) -> None:
    current.set(current_id)
    call("http://127.0.0.1/", web := Web(), allowed_hosts=hosts)
    assert web.ids == [sent]


@pytest.mark.parametrize(
    ("entry", "url", "allowed"),
    [
        ("api.example.org", "http://api.example.org/", True),
        ("API.Example.ORG", "http://api.example.org/", True),
        ("api.example.org", "http://API.EXAMPLE.ORG/", True),
        ("api.example.org", "http://api.example.org:8080/", True),
        ("api.example.org", "http://user:word@api.example.org/", True),
        ("api.example.org", "http://api.example.org@evil.test/", False),
        ("api.example.org", "http://api.example.org.evil.test/", False),
        ("api.example.org", "http://v2.api.example.org/", False),
        ("api.example.org", "http://evilapi.example.org/", False),
        ("api.example.org", "http://api.example.org%2eevil.test/", False),
        ("api.example.org", "http://evil.test/?api.example.org", False),
        ("api.example.org", "http://evil.test/#@api.example.org", False),
        ("api.example.org:80", "http://api.example.org/", True),
        ("api.example.org:8080", "http://api.example.org:8080/", True),
        ("api.example.org:8080", "http://api.example.org/", False),
        ("api.example.org:443", "http://api.example.org/", False),
        (".example.org", "http://api.example.org/", True),
        ("*.example.org", "http://a.b.example.org/", True),
        ("*.example.org:81", "http://a.example.org:81/", True),
        ("*.example.org:81", "http://a.example.org/", False),
        (".example.org", "http://example.org/", False),
        (".example.org", "http://evilexample.org/", False),
        (".example.org", "http://a.example.org.evil.test/", False),
        ("münchen.example", "http://MÜNCHEN.example/", True),
        ("xn--mnchen-3ya.example", "http://münchen.example/", True),
        ("*.münchen.example", "http://www.xn--mnchen-3ya.example/", True),
        ("[::1]", "http://[::1]:8000/", True),
        ("[::1]:8000", "http://[::1]:8001/", False),
    ],
)
def test_entry_matches_exactly_its_hosts(entry: str, url: str, allowed: bool) -> None:
    call_sync(url, web := Web(), allowed_hosts=[entry])
    assert web.ids == [[ID] if allowed else []]


@pytest.mark.parametrize(
    "entry",
    ["", "*", ".", "**.org", "*org", "..org", "*..org", "http://a.org", "a.org/", "u@a.org", "a.org:x", "a b", "::1",
     "1.2.3.400", "a.org\n", "a.org?x", "a%2eorg"],
)  # fmt: skip
def test_invalid_entry_is_rejected(entry: str) -> None:
    with pytest.raises(ValueError, match=f"The outbound host {re.escape(repr(entry))} is not .+"):
        OutboundClient(allowed_hosts=[entry])


def test_single_string_is_rejected() -> None:
    with pytest.raises(TypeError, match="not one string"):
        OutboundAsyncClient(allowed_hosts="api.example.org")


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_within_the_origin_keeps_the_id(call: Call, status: int) -> None:
    web = redirecting("/end", status=status)
    call("http://a.test/", web, "POST", call={"content": b"body"}, allowed_hosts=["a.test"])
    assert web.ids == [[ID], [ID]]
    assert (web.seen[1].url, web.seen[1].body) == ("http://a.test/end", b"body" if status >= 307 else b"")


@both
@pytest.mark.parametrize("headers", [{}, SET_BY_HAND])
@pytest.mark.parametrize(
    ("targets", "sent"),
    [
        (["http://b.test/"], [1, 0]),
        (["http://a.test:81/"], [1, 0]),
        (["https://a.test/"], [1, 0]),
        (["http://b.test/", "http://a.test/"], [1, 0, 1]),
    ],
)
def test_after_a_redirect_only_the_first_origin_gets_the_id(
    call: Call, headers: dict[str, str], targets: list[str], sent: list[int]
) -> None:
    web = redirecting(*targets)
    call("http://a.test/", web, call={"headers": headers}, allowed_hosts=["a.test", "b.test"])
    assert web.ids == [["set-by-hand" if headers else ID] * has for has in sent]


@both
def test_redirect_from_another_host_to_an_allowed_one_has_no_id(call: Call) -> None:
    call("http://b.test/", web := redirecting("http://a.test/"), allowed_hosts=["a.test"])
    assert web.ids == [[], []]


def test_redirect_that_the_caller_follows_has_no_id() -> None:
    with OutboundClient(allowed_hosts=["a.test", "b.test"], transport=(web := redirecting("http://b.test/"))) as client:
        response = client.get("http://a.test/", headers=SET_BY_HAND)
        assert response.next_request is not None
        client.send(response.next_request)
    assert web.ids == [["set-by-hand"], []]


@both
@pytest.mark.parametrize("hosts", [[], ["a.test"]])
def test_header_set_by_the_caller_takes_precedence(call: Call, hosts: list[str]) -> None:
    call("http://a.test/", web := Web(), call={"headers": SET_BY_HAND}, allowed_hosts=hosts)
    assert web.ids == [["set-by-hand"]]


@both
def test_every_authentication_step_has_the_id(call: Call) -> None:
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'}
    web = Web(httpx2.Response(401, headers=challenge))
    call("http://a.test/", web, call={"auth": httpx2.DigestAuth("user", "word")}, allowed_hosts=["a.test"])
    assert web.ids == [[ID], [ID]]


class TokenAuth(httpx2.Auth):
    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        yield httpx2.Request("POST", "http://b.test/token")
        yield request


@both
def test_token_from_another_host_is_requested_without_the_id(call: Call) -> None:
    call("http://a.test/", web := Web(), call={"auth": TokenAuth()}, allowed_hosts=["a.test"])
    assert web.ids == [[], [ID]]


def test_request_that_is_sent_again_has_the_current_id() -> None:
    with OutboundClient(allowed_hosts=["a.test"], transport=(web := Web())) as client:
        request = client.build_request("POST", "http://a.test/", json={"a": 1})
        for request_id in ("first-id", "-", "third-id"):
            current.set(request_id)
            assert client.send(request).request.content == b'{"a":1}'
    assert web.ids == [["first-id"], [], ["third-id"]]


@both
def test_header_name_applies_to_every_transport_and_mount(call: Call) -> None:
    seen: list[tuple[str, str | None]] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, request.headers.get("X-Correlation-ID")))
        return httpx2.Response(204)

    transport = httpx2.MockTransport(respond)
    options: dict[str, Any] = {"header": "X-Correlation-ID", "allowed_hosts": [".example.org"]}
    call("https://a.example.org/", transport=transport, **options)
    call("https://b.example.org/", mounts={"all://b.example.org": transport}, **options)
    call("https://evil.test/", mounts={"all://": transport}, **options)
    assert seen == [("a.example.org", ID), ("b.example.org", ID), ("evil.test", None)]


def test_tasks_and_threads_do_not_mix_their_ids() -> None:
    web = Web()
    options: dict[str, Any] = {"allowed_hosts": ["a.test"], "transport": web}
    sync_client, client = OutboundClient(**options), OutboundAsyncClient(**options)
    shared = client.build_request("GET", "http://a.test/shared")

    async def task(number: int) -> None:
        current.set(f"task-{number}")
        await client.get(f"http://a.test/{number}")
        await asyncio.to_thread(sync_client.get, f"http://a.test/{number}")
        response = await client.send(shared)
        assert response.request.headers[HEADER] == f"task-{number}"

    async def go() -> None:
        await asyncio.gather(*map(task, range(20)))

    asyncio.run(go())
    expected = [(path, f"task-{number}") for number in range(20) for path in (number, number, "shared")]
    assert sorted(web.seen) == sorted(Received(f"http://a.test/{path}", [request_id]) for path, request_id in expected)


@both
def test_each_exchange_has_one_log_record(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    call("http://a.test/to?token=1", redirecting("http://b.test:81/end", status=302), allowed_hosts=["a.test"])
    first, second = caplog.messages
    assert re.fullmatch(r"GET a\.test /to 302 \d+\.\d{3}s", first)
    assert re.fullmatch(r"GET b\.test:81 /end 200 \d+\.\d{3}s", second)
    record = caplog.records[1]
    assert (record.name, record.levelname) == ("app.outbound", "INFO")
    last = vars(record)
    assert (last["http_method"], last["http_host"], last["http_path"]) == ("GET", "b.test:81", "/end")
    assert last["http_status"] == 200
    assert 0 < last["duration"] < 5


def test_log_record_contains_no_secret_and_no_control_character(caplog: pytest.LogCaptureFixture) -> None:
    call_sync("http://user:word@Api.Example.org/v1/it%0d%0aems/ü x?token=secret#part", Web())
    (record,) = caplog.records
    line = record.getMessage()
    assert re.fullmatch(r"GET api\.example\.org /v1/it%0d%0aems/%C3%BC%20x 200 \d+\.\d{3}s", line)
    assert not any(word in f"{vars(record)}" for word in ("user:", "word@", "secret", "token", "part"))


@pytest.fixture
def refusing() -> Iterator[str]:
    """Return an address on which no server listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@both
def test_refused_connection_is_logged_and_raised(call: Call, refusing: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx2.ConnectError) as raised:
        call(f"http://{refusing}/v1?token=secret", allowed_hosts=["127.0.0.1"])
    (record,) = caplog.records
    assert re.fullmatch(rf"GET {refusing} /v1 ConnectError \d+\.\d{{3}}s", record.getMessage())
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert (vars(record)["http_status"], vars(record)["http_error"]) == (None, "ConnectError")
    assert raised.value.request.headers[HEADER] == ID


@both
def test_url_without_a_scheme_fails_as_in_httpx2(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        call("//a.test/v1", allowed_hosts=["a.test"])
    assert [vars(record)["http_error"] for record in caplog.records] == ["UnsupportedProtocol"]


@both
def test_timeout_is_logged_with_its_duration(call: Call, silent: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        call(f"http://{silent}", timeout=0.05)
    (record,) = caplog.records
    assert vars(record)["http_error"] == "ReadTimeout"
    assert vars(record)["duration"] >= 0.05


def test_cancelled_call_is_logged(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with OutboundAsyncClient(trust_env=False) as client, asyncio.timeout(0.1):
            await client.get(f"http://{silent}")

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    assert [vars(record)["http_error"] for record in caplog.records] == ["CancelledError"]


def test_streamed_response_is_logged_before_its_body_is_read(caplog: pytest.LogCaptureFixture) -> None:
    with OutboundClient(transport=Web()) as client, client.stream("GET", "http://a.test/") as response:
        assert len(caplog.records) == 1
        assert response.read() == b""


def test_factories_apply_header_and_hosts_of_the_settings() -> None:
    settings = Settings(_env_file=None, request_id_header="X-Request-Id", outbound_hosts=("a.test",))
    web = Web()

    async def go() -> None:
        async with outbound_async_client(settings, transport=web) as client:
            await client.get("http://a.test/async")

    asyncio.run(go())
    with outbound_client(settings, transport=web) as client:
        client.get("http://a.test/sync")
    assert web.seen == [Received("http://a.test/async", [ID]), Received("http://a.test/sync", [ID])]


def test_defaults_of_httpx2_are_kept() -> None:
    with OutboundClient() as client:
        assert client.timeout == httpx2.Timeout(5)
        assert not client.follow_redirects


def test_call_in_a_request_carries_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "current_request_id", current_request_id)
    app, web = create_app(), Web()

    @app.get("/calls")
    async def calls() -> None:
        async with OutboundAsyncClient(allowed_hosts=["a.test"], transport=web) as client:
            await client.get("http://a.test/")

    @app.get("/calls/sync")
    def calls_sync() -> None:
        with OutboundClient(allowed_hosts=["a.test"], transport=web) as client:
            client.get("http://a.test/")

    client = TestClient(app)
    request_ids = [client.get(path).headers[HEADER] for path in ("/calls", "/calls/sync")]
    assert web.ids == [[request_id] for request_id in request_ids]
