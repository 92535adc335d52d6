"""Request smuggling: messages that two parsers may read differently; each hides a second request that must not run."""

from __future__ import annotations

from dataclasses import dataclass, field

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: testserver\r\n\r\n"
REFUSED = (400,)
LENGTH = b"Content-Length: %d" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Smuggled:
    """The bytes of a message, and the statuses that are correct for it; there must be exactly one response."""

    name: str
    data: bytes = field(repr=False)
    statuses: tuple[int, ...] = REFUSED


def post(*lines: bytes, body: bytes = END, first: bytes = b"POST /probe/echo HTTP/1.1") -> bytes:
    """Return a request with a Host header and these lines."""
    return b"\r\n".join([first, b"Host: testserver", *lines]) + b"\r\n\r\n" + body


def refused(name: str, *lines: bytes, body: bytes = END + HIDDEN) -> Smuggled:
    """Return a case that must be refused."""
    return Smuggled(name, post(*lines, body=body))


def chunked(name: str, body: bytes, statuses: tuple[int, ...] = REFUSED) -> Smuggled:
    """Return a case with an invalid or unusual chunked body."""
    return Smuggled(name, post(CHUNKED, body=body + HIDDEN), statuses)


def first_line(name: str, line: bytes, statuses: tuple[int, ...] = REFUSED) -> Smuggled:
    """Return a case with an invalid request line."""
    return Smuggled(name, post(first=line, body=b""), statuses)


def head(name: str, line: bytes, statuses: tuple[int, ...] = REFUSED) -> Smuggled:
    """Return a case with an invalid or unusual header line."""
    return Smuggled(name, post(line, first=b"GET /api/demo HTTP/1.1", body=b""), statuses)


LENGTHS = tuple(
    refused(f"length {value!r}", b"Content-Length: " + value, body=HIDDEN)
    for value in (b"5, 6", b"+5", b"-5", b"0x5", b"5 5", b"", b"1e1", "\uff15".encode(), b"5\x00",
                  b"18446744073709551659",
                  b"9" * 40, b"5;5", b"five", b"5.0")
)  # fmt: skip
CODINGS = tuple(
    refused(f"coding {value!r}", b"Transfer-Encoding: " + value)
    for value in (b"xchunked", b"chunked, identity", b"chunkedx", b"\"chunked\"", b"\x0bchunked", b"\x00chunked",
                  b"chun ked", b"chunked;q=1", b"identity", b"", b"gzip", b"chunked\x85")
)  # fmt: skip
SIZES = tuple(
    chunked(f"chunk size {size!r}", size + b"\r\nhello\r\n" + END)
    for size in (b"5x", b"0x5", b"+5", b"-1", b" 5", b"", b"f" * 17 + b"1", b"5 5", b"5\x00", b"g", "\uff15".encode())
)
HOSTS = tuple(
    Smuggled(f"host {value!r}", b"GET /api/demo HTTP/1.1\r\nHost: " + value + b"\r\n\r\n")
    for value in (b"a b", b"a/b", b"a@b", b"a\x00b", b"a\r\nHost: b", b"a\x85", b"a?b", b"a#b", b"a\\b", b"<a>", b'"')
)
OTHERS = (
    refused("two lengths", b"Content-Length: 5", LENGTH),
    refused("length and chunked", LENGTH, CHUNKED),
    refused("chunked and length", CHUNKED, b"Content-Length: 4"),
    refused("two codings", CHUNKED, b"Transfer-Encoding: identity"),
    refused("space before colon", b"Transfer-Encoding : chunked"),
    refused("tab before colon", b"Content-Length\t: 5"),
    refused("folded coding", b"Transfer-Encoding:\r\n chunked"),
    refused("folded length", b"Content-Length:\r\n 5"),
    refused("leading space", b" Transfer-Encoding: chunked"),
    refused("bare LF in head", b"A: b\nTransfer-Encoding: chunked"),
    refused("bare CR in head", b"A: b\rTransfer-Encoding: chunked"),
    Smuggled("only LF", b"POST /probe/echo HTTP/1.1\nHost: a\n" + LENGTH + b"\n\n" + HIDDEN),
    Smuggled("no host", b"GET /api/demo HTTP/1.1\r\n\r\n"),
    Smuggled("folded host", b"GET /api/demo HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
    chunked("chunk ended by LF", b"5\nhello\r\n" + END),
    chunked("data ended by LF", b"5\r\nhello\n" + END),
    chunked("data too long", b"5\r\nhello!!\r\n" + END),
    chunked("data too short", b"5\r\nhe\r\n" + END),
    chunked("LF in an extension", b"5;a\nb\r\nhello\r\n" + END),
    chunked("trailer without colon", b"0\r\nno colon\r\n\r\n"),
    chunked("trailer with LF", b"0\r\nA: b\nC: d\r\n\r\n"),
    head("no colon", b"no colon here"),
    head("no name", b": value"),
    head("control in a name", b"A\x01B: c"),
    head("space in a name", b"A B: c"),
    head("umlaut in a name", "Ä: c".encode()),
    head("NUL in a value", b"A: b\x00c"),
    first_line("tab for a space", b"GET\t/api/demo\tHTTP/1.1"),
    first_line("words after the version", b"GET /api/demo HTTP/1.1 more"),
    first_line("HTTP/0.9", b"GET /api/demo"),
    first_line("HTTP/2.0", b"GET /api/demo HTTP/2.0"),
    first_line("HTTP/9.9", b"GET /api/demo HTTP/9.9"),
    first_line("no version", b"GET /api/demo HTTP/"),
    first_line("lower case", b"get /api/demo http/1.1"),
    first_line("another protocol", b"GET /api/demo ICY/1.1"),
    Smuggled("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Smuggled("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200),
    Smuggled("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    Smuggled("noise", bytes(range(256))),
)
SERVED = (
    Smuggled("GET with a body", post(LENGTH, first=b"GET /api/demo HTTP/1.1", body=HIDDEN), (200, 400)),
    Smuggled("unread body", post(LENGTH, first=b"POST /probe/unread HTTP/1.1", body=HIDDEN), (200,)),
    Smuggled("body of an unknown path", post(LENGTH, first=b"POST /nothing HTTP/1.1", body=HIDDEN), (404,)),
    Smuggled("same length twice", post(LENGTH, LENGTH, body=HIDDEN), (200, 400)),
    Smuggled("list of one length", post(LENGTH + b", %d" % len(HIDDEN), body=HIDDEN), (200, 400)),
    Smuggled("absolute form", post(first=b"GET http://other/api/demo HTTP/1.1", body=b""), (200,)),
    Smuggled("empty host", b"GET /api/demo HTTP/1.1\r\nHost:\r\n\r\n", (200, 400)),
    Smuggled("HTTP/1.0", b"GET /api/demo HTTP/1.0\r\n\r\n", (200,)),
    Smuggled("chunked in HTTP/1.0", post(CHUNKED, first=b"POST /probe/echo HTTP/1.0", body=END + HIDDEN), (200, 400)),
    Smuggled("empty lines first", b"\r\n\r\nGET /api/demo HTTP/1.1\r\nHost: a\r\n\r\n", (200, 400)),
    Smuggled("CONNECT", b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n" + HIDDEN, (400, 404, 405)),
    Smuggled("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (200, 400, 404, 405)),
    head("h2c", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA", (200, 400)),
    chunked("trailers named like headers", b"0\r\nX-Request-ID: trailer-id\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
            (200, 400)),
    chunked("extension", b"5;name=value\r\nhello\r\n" + END, (200, 400)),
    chunked("zeros before the size", b"0000000005\r\nhello\r\n" + END, (200, 400)),
)  # fmt: skip
"""Valid messages, or ones that may be refused; the hidden request is a body or follows one."""

ONE_MESSAGE = (*LENGTHS, *CODINGS, *SIZES, *HOSTS, *OTHERS, *SERVED)
PIPELINED = frozenset({"extension", "zeros before the size", "trailers named like headers"})
"""Cases in which the hidden request follows a complete message, so it is a separate request and may be served."""
