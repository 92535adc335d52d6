"""The HTTP clients whose calls carry the ID, against real servers on the loopback interface."""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from starlette.testclient import TestClient

from app.common import outbound
from app.common.outbound import OutboundAsyncClient, OutboundClient, outbound_async_client, outbound_client
from app.common.request_id import current_request_id
from app.main import create_app
from app.settings import Settings
from tests.support import HEADER, ID

# No proxies of the machine's, and no authorities, which take 20 ms to load.
DEFAULTS: dict[str, Any] = {"trust_env": False, "verify": False, "follow_redirects": True}
current: ContextVar[str] = ContextVar("current", default="-")


class Seen(NamedTuple):
    """What a server saw of one request."""

    target: str
    ids: list[str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(Seen(self.path, self.headers.get_all(HEADER, [])))
        url = urlsplit(self.path)
        if url.path.startswith("/to"):
            self.reply(int(url.path[3:] or 307), "Location", parse_qs(url.query)["url"][0])
        elif url.path == "/digest" and "Authorization" not in self.headers:
            self.reply(401, "WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256')
        elif url.path == "/slow":
            self.server.release.wait(60)
            self.reply(200)
        else:
            self.reply(200)

    do_GET = do_POST = do_HEAD = answer  # noqa: N815

    def reply(self, status: int, name: str = "X-Nothing", value: str = "-") -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ids(self) -> list[list[str]]:
        return [seen.ids for seen in self.seen]


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def one() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def two() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def request_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outbound, "current_request_id", current.get)
    token = current.set(ID)
    yield
    current.reset(token)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    kept: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", kept.append)
    monkeypatch.setattr(outbound.logger, "disabled", False)
    level = outbound.logger.level
    outbound.logger.addHandler(handler)
    outbound.logger.setLevel(logging.INFO)
    yield kept
    outbound.logger.setLevel(level)
    outbound.logger.removeHandler(handler)


def call_sync(url: str, method: str = "GET", *, call: Any = None, **options: Any) -> httpx2.Response:  # noqa: ANN401
    with OutboundClient(**DEFAULTS | options) as client:
        return client.request(method, url, **call or {})


def call_async(url: str, method: str = "GET", *, call: Any = None, **options: Any) -> httpx2.Response:  # noqa: ANN401
    async def go() -> httpx2.Response:
        async with OutboundAsyncClient(**DEFAULTS | options) as client:
            return await client.request(method, url, **call or {})

    return asyncio.run(go())


Call = Callable[..., httpx2.Response]
both = pytest.mark.parametrize("call", [call_sync, call_async], ids=["sync", "async"])


@both
@pytest.mark.parametrize(
    ("hosts", "of_request", "sent"),
    [
        (["127.0.0.1"], ID, [ID]),
        ([], ID, []),
        (["localhost"], ID, []),
        ([".127.0.0.1"], ID, []),
        (["127.0.0.1:1"], ID, []),
        (["0.0.1"], ID, []),
        (["127.0.0.1"], "-", []),  # outside of a request
    ],
)
def test_the_id_is_sent_once_to_allowed_hosts_only(
    call: Call, hosts: list[str], of_request: str, sent: list[str], one: Server
) -> None:
    current.set(of_request)
    response = call(one.url, allowed_hosts=hosts)
    assert one.ids == [sent]
    assert response.request.headers.get_list(HEADER) == sent


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
def test_an_entry_allows_exactly_its_hosts(entry: str, url: str, allowed: bool) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(204))
    sent = call_sync(url, allowed_hosts=[entry], transport=transport).request.headers
    assert sent.get_list(HEADER) == ([ID] if allowed else [])


@pytest.mark.parametrize(
    "entry",
    ["", "*", ".", "**.org", "*org", "..org", "*..org", "http://a.org", "a.org/", "u@a.org", "a.org:x", "a b", "::1",
     "1.2.3.400", "a.org\n", "a.org?x", "a%2eorg"],
)  # fmt: skip
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=f"The outbound host {re.escape(repr(entry))} is not .+"):
        OutboundClient(allowed_hosts=[entry])


def test_one_string_is_no_collection_of_hosts() -> None:
    with pytest.raises(TypeError, match="not one string"):
        OutboundAsyncClient(allowed_hosts="api.example.org")


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_origin_keeps_the_id(call: Call, status: int, one: Server) -> None:
    call(f"{one.url}/to{status}?url=/end", method="POST", call={"content": b"body"}, allowed_hosts=["127.0.0.1"])
    assert one.ids == [[ID], [ID]]
    assert one.seen[1].target == "/end"


@both
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        ("{two}/end", [True], [False]),
        ("http://localhost:{port_of_two}/end", [True], [False]),
        ("http://localhost:{port_of_one}/end", [True, False], []),  # another name of the same server
        ("{two}/to?url={one}/end", [True, True], [False]),  # there and back
    ],
)
def test_only_the_first_origin_has_the_id_after_a_redirect(
    call: Call, by_hand: bool, case: tuple[str, list[bool], list[bool]], one: Server, two: Server
) -> None:
    target, at_one, at_two = case
    sent, own = ("set-by-hand", {"headers": {HEADER.lower(): "set-by-hand"}}) if by_hand else (ID, {})
    places = {"port_of_one": one.server_port, "port_of_two": two.server_port, "one": one.url, "two": two.url}
    url = f"{one.url}/to307?url={target.format(**places)}"
    call(url, call=own, allowed_hosts=["127.0.0.1", "localhost"])
    assert one.ids == [[sent] * has for has in at_one]
    assert two.ids == [[sent] * has for has in at_two]


@both
def test_a_redirect_from_another_host_to_an_allowed_one_has_no_id(call: Call, one: Server, two: Server) -> None:
    call(f"{one.url}/to?url={two.url}/end", allowed_hosts=[f"127.0.0.1:{two.server_port}"])
    assert (one.ids, two.ids) == ([[]], [[]])


def test_a_redirect_followed_by_hand_has_no_id_either(one: Server, two: Server) -> None:
    with OutboundClient(allowed_hosts=["127.0.0.1"], trust_env=False) as client:
        response = client.get(f"{one.url}/to?url={two.url}/end", headers={HEADER: "set-by-hand"})
        assert response.next_request is not None
        client.send(response.next_request)
    assert two.ids == [[]]


@both
@pytest.mark.parametrize("hosts", [[], ["127.0.0.1"]])
def test_a_header_set_by_hand_wins(call: Call, hosts: list[str], one: Server) -> None:
    call(one.url, call={"headers": {"x-request-id": "set-by-hand"}}, allowed_hosts=hosts)
    assert one.ids == [["set-by-hand"]]


@both
def test_every_step_of_an_authentication_has_the_id(call: Call, one: Server) -> None:
    call(f"{one.url}/digest", call={"auth": httpx2.DigestAuth("user", "word")}, allowed_hosts=["127.0.0.1"])
    assert one.ids == [[ID], [ID]]


class TokenAuth(httpx2.Auth):
    def __init__(self, url: str) -> None:
        self.url = url

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        yield httpx2.Request("POST", self.url)
        yield request


@both
def test_a_token_from_another_host_is_asked_for_without_the_id(call: Call, one: Server, two: Server) -> None:
    call(one.url, call={"auth": TokenAuth(two.url)}, allowed_hosts=[f"127.0.0.1:{one.server_port}"])
    assert (one.ids, two.ids) == ([[ID]], [[]])


def test_a_request_that_is_sent_again_has_the_id_of_its_time(one: Server) -> None:
    with OutboundClient(allowed_hosts=["127.0.0.1"], trust_env=False) as client:
        request = client.build_request("POST", one.url, json={"a": 1})
        for request_id in ("first-id", "-", "third-id"):
            current.set(request_id)
            response = client.send(request)
            assert response.request.content == b'{"a":1}'
    assert one.ids == [["first-id"], [], ["third-id"]]


@both
def test_transports_and_mounts_of_the_user_have_it_too(call: Call) -> None:
    seen: list[tuple[str, str | None]] = []

    def note(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, request.headers.get("X-Correlation-ID")))
        return httpx2.Response(204)

    options: dict[str, Any] = {"header": "X-Correlation-ID", "allowed_hosts": [".example.org"]}
    call("https://a.example.org/", transport=httpx2.MockTransport(note), **options)
    call("https://b.example.org/", mounts={"all://b.example.org": httpx2.MockTransport(note)}, **options)
    call("https://evil.test/", mounts={"all://": httpx2.MockTransport(note)}, **options)
    assert seen == [("a.example.org", ID), ("b.example.org", ID), ("evil.test", None)]


def test_tasks_do_not_mix_their_ids(one: Server) -> None:
    async def task(client: OutboundAsyncClient, number: int) -> None:
        current.set(f"task-{number}")
        for hop in ("a", "b"):
            await client.get(f"{one.url}/to?url=/{number}/{hop}")
            await asyncio.sleep(0)

    async def go() -> None:
        options = DEFAULTS | {"limits": httpx2.Limits(max_connections=8), "timeout": 30}
        async with OutboundAsyncClient(allowed_hosts=["127.0.0.1"], **options) as client:
            await asyncio.gather(*(asyncio.create_task(task(client, number)) for number in range(20)))

    asyncio.run(go())
    assert len(one.seen) == 80
    for target, ids in one.seen:
        assert ids == [f"task-{target.rsplit('/', 2)[1]}"]


def test_one_request_object_in_many_tasks_does_not_mix_ids(one: Server) -> None:
    async def task(client: OutboundAsyncClient, request: httpx2.Request, number: int) -> str:
        current.set(f"task-{number}")
        return (await client.send(request)).request.headers[HEADER]

    async def go() -> list[str]:
        async with OutboundAsyncClient(allowed_hosts=["127.0.0.1"], trust_env=False, timeout=30) as client:
            request = client.build_request("GET", one.url)
            return await asyncio.gather(*(asyncio.create_task(task(client, request, n)) for n in range(20)))

    expected = [f"task-{number}" for number in range(20)]
    assert asyncio.run(go()) == expected
    assert sorted(one.ids) == sorted([request_id] for request_id in expected)


def test_the_synchronous_client_has_the_id_in_threads(one: Server) -> None:
    async def task(client: OutboundClient, number: int) -> None:
        current.set(f"task-{number}")
        await asyncio.to_thread(client.get, f"{one.url}/{number}")

    async def go() -> None:
        with OutboundClient(allowed_hosts=["127.0.0.1"], trust_env=False, timeout=30) as client:
            await asyncio.gather(*(asyncio.create_task(task(client, number)) for number in range(20)))

    asyncio.run(go())
    assert sorted(one.seen) == sorted(Seen(f"/{number}", [f"task-{number}"]) for number in range(20))


@both
def test_each_exchange_has_one_line(call: Call, one: Server, two: Server, records: list[logging.LogRecord]) -> None:
    call(f"{one.url}/to302?url={two.url}/end", method="POST")
    first, second = (record.getMessage() for record in records)
    assert re.fullmatch(rf"POST 127\.0\.0\.1:{one.server_port} /to302 302 \d+\.\d{{3}}s", first)
    assert re.fullmatch(rf"GET 127\.0\.0\.1:{two.server_port} /end 200 \d+\.\d{{3}}s", second)
    last = vars(records[1])
    assert (records[1].name, records[1].levelname) == ("app.outbound", "INFO")
    assert (last["http_method"], last["http_host"]) == ("GET", f"127.0.0.1:{two.server_port}")
    assert (last["http_path"], last["http_status"]) == ("/end", 200)
    assert 0 < last["duration"] < 5


def test_a_line_holds_no_secret_and_no_control_character(one: Server, records: list[logging.LogRecord]) -> None:
    call_sync("http://user:word@Api.Example.org/v1/it%0d%0aems/ü x?token=secret#part", proxy=one.url)
    (record,) = records
    line = record.getMessage()
    assert re.fullmatch(r"GET api\.example\.org /v1/it%0d%0aems/%C3%BC%20x 200 \d+\.\d{3}s", line)
    assert not any(word in f"{vars(record)}" for word in ("user:", "word@", "secret", "token", "part"))


@both
def test_a_refused_connection_has_a_line_and_is_raised(call: Call, records: list[logging.LogRecord]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(httpx2.ConnectError) as raised:
            call(f"http://127.0.0.1:{port}/v1?token=secret", allowed_hosts=["127.0.0.1"])
    (record,) = records
    assert re.fullmatch(rf"GET 127\.0\.0\.1:{port} /v1 ConnectError \d+\.\d{{3}}s", record.getMessage())
    assert record.levelname == "WARNING"
    fields = vars(record)
    assert (fields["http_status"], fields["http_error"], fields["exc_info"]) == (None, "ConnectError", None)
    assert raised.value.request.headers[HEADER] == ID


@both
def test_a_url_without_a_scheme_fails_as_it_does_in_httpx2(call: Call, records: list[logging.LogRecord]) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        call("//api.example.org/v1", allowed_hosts=["api.example.org"])
    assert [vars(record)["http_error"] for record in records] == ["UnsupportedProtocol"]


@both
def test_a_timeout_has_a_line(call: Call, one: Server, records: list[logging.LogRecord]) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        call(f"{one.url}/slow", timeout=0.05)
    assert [vars(record)["http_error"] for record in records] == ["ReadTimeout"]
    assert vars(records[0])["duration"] >= 0.05


def test_a_cancelled_call_has_a_line(one: Server, records: list[logging.LogRecord]) -> None:
    async def go() -> None:
        async with OutboundAsyncClient(trust_env=False) as client:
            async with asyncio.timeout(0.1):
                await client.get(f"{one.url}/slow")

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    assert [vars(record)["http_error"] for record in records] == ["CancelledError"]


def test_a_streamed_response_is_logged_before_its_body_is_read(one: Server, records: list[logging.LogRecord]) -> None:
    with (
        OutboundClient(allowed_hosts=["127.0.0.1"], trust_env=False) as client,
        client.stream("GET", one.url) as response,
    ):
        assert len(records) == 1
        assert response.read() == b""
    assert one.ids == [[ID]]


def test_the_settings_give_header_and_hosts(one: Server) -> None:
    settings = Settings(_env_file=None, request_id_header="X-Request-Id", outbound_hosts=("127.0.0.1",))

    async def go() -> None:
        async with outbound_async_client(settings, trust_env=False, base_url=one.url) as client:
            await client.get("/async")

    asyncio.run(go())
    with outbound_client(settings, trust_env=False, base_url=one.url) as client:
        client.get("/sync")
    assert one.seen == [Seen("/async", [ID]), Seen("/sync", [ID])]


def test_httpx2_s_time_limits_are_kept() -> None:
    with OutboundClient() as client:
        assert client.timeout == httpx2.Timeout(5)
        assert not client.follow_redirects


def test_a_call_in_a_request_carries_its_id(one: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "current_request_id", current_request_id)
    app = create_app()

    @app.get("/calls")
    async def calls() -> None:
        async with OutboundAsyncClient(allowed_hosts=["127.0.0.1"], trust_env=False) as client:
            await client.get(one.url)

    @app.get("/calls/sync")
    def calls_sync() -> None:
        with OutboundClient(allowed_hosts=["127.0.0.1"], trust_env=False) as client:
            client.get(one.url)

    client = TestClient(app)
    made = [client.get(path).headers[HEADER] for path in ("/calls", "/calls/sync")]
    assert one.ids == [[request_id] for request_id in made]
