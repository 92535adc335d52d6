"""The ordinary outcomes of a request, as a table of requests and expected results."""

from dataclasses import dataclass, field

MAX_BODY = 1_000_000
CHUNK = b"x" * 999 + b"\n"  # a chunk of the probe's streams
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """One request and its outcome. `envelope`: the body is a response envelope; `logs`: the logged messages."""

    name: str
    target: str
    status: int = 200
    method: str = "GET"
    headers: Pairs = ()
    body: bytes = field(default=b"", repr=False)
    envelope: bool = True
    logs: tuple[str, ...] = ()
    trace: str = ""
    flags: tuple[str, ...] = ()
    at_least: float = 0.0
    size: int | None = None
    cause: str = ""
    header: tuple[str, str] | None = None


LARGE = b"x" * (MAX_BODY + 1)
CHUNKED_LARGE = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (LARGE[:70_000], LARGE)) + b"0\r\n\r\n"
CHUNKED: Pairs = (("Transfer-Encoding", "chunked"),)
UNHANDLED = ("RuntimeError",)

CASES = (
    Case("demo", "/api/demo", logs=("demo",)),
    Case("async", "/probe/async?a=1&b=%20x", logs=("in async",)),
    Case("sync", "/probe/sync", logs=("in sync",)),
    Case("not found", "/nothing/here", 404),
    Case("method not allowed", "/probe/echo", 405),
    Case("too large body with Content-Length", "/probe/echo", 413, "POST", body=LARGE),
    Case("too large chunked body", "/probe/echo", 413, "POST", CHUNKED, CHUNKED_LARGE),
    Case("body of the maximum size", "/probe/echo", 200, "POST", body=b"x" * MAX_BODY, logs=("reading",)),
    Case("unread body", "/probe/unread", 200, "POST", body=b"x" * 200_000),
    Case("validation", "/probe/items/many", 422),
    Case("HTTPException", "/probe/teapot", 418, cause="I am a teapot.", header=("X-Extra", "kept")),
    Case("unhandled", "/probe/fail", 500, trace="RuntimeError: probe failure", flags=UNHANDLED),
    Case("unhandled in a thread", "/probe/fail/sync", 500, trace="RuntimeError: probe failure in", flags=UNHANDLED),
    Case("stream", "/probe/stream?seconds=0.3", envelope=False, logs=("streamed",), at_least=0.3, size=6000),
    Case("file", "/probe/file", envelope=False),
    Case("range of a file", "/probe/file", 206, headers=(("Range", "bytes=0-9"),), envelope=False, size=10),
    Case("no content", "/probe/empty", 204, envelope=False, size=0),
    Case("redirect", "/probe/async/", 307, envelope=False, size=0),
    Case("HEAD", "/probe/head", 200, "HEAD", envelope=False, size=0),
    Case("HEAD not found", "/nothing/here", 404, "HEAD", envelope=False, size=0),
    Case("background", "/probe/background", logs=("in background thread", "in background")),
    Case("wait", "/probe/wait?seconds=0.3", logs=("waited",), at_least=0.3),
    Case(
        "error in a mounted application",
        "/probe/mounted/fail",
        500,
        envelope=False,
        trace="RuntimeError: probe mounted",
        flags=UNHANDLED,
    ),
    Case("mounted service", "/probe/nested/api/demo", logs=("demo",)),
)
