"""Hostile input: IDs, header values, request targets and query strings.

Hostile values contain `EVIL`, secret ones `SECRET`; neither may appear in a response or in the log.
"""

from __future__ import annotations

from tests.support.client import new_id

EVIL, SECRET = b"e7il", b"s3cret"
FORGED = b'[2026-01-01 00:00:00,000+0000] forged-id 200 0.001s 127.0.0.1:1 - "GET /forged HTTP/1.1"'
CONTROLS = tuple(bytes([number]) for number in (*range(0x01, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
C1 = tuple(bytes([number]) for number in (0x80, 0x85, 0x8D, 0x90, 0x9B, 0x9D, 0x9F, 0xA0, 0xAD, 0xE9, 0xFF))
UNICODE = tuple(
    text.encode()
    for text in ("\u0085", "\u2028", "\u2029", "\u202e", "\u2066", "\u200f", "\ufeff", "\U0001f600", "é", "\u0660" * 8)
)
WORDS = (
    b'"', b"'", b"\\", b"`", b"<script>", b"%s%s%n", b"%(request_id)s", b"%(x)s", b"{0}", b"{request_id!r}", b"%0a",
    b"${jndi:ldap://127.0.0.1/a}", b"$(id)", b";", b",", b"|", b"*", b"~", b"#", b"?", b"&", b" ", b"\t", b"\\u000a",
    b"\\n" + FORGED, b"[", b"]", b"(", b"!", b":",
)  # fmt: skip

ACCEPTED_IDS = (
    b"6f1f64c5-5c87-4a5c-9d2e-3a3ee1a4e2b1",
    b"6F1F64C5-5C87-4A5C-9D2E-3A3EE1A4E2B1",
    b"01ARZ3NDEKTSV4RRFFQ69G5FAV",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"0191b6c4-7a2f-7bb0-8a7e-0c7b5f2f9a10",
    b"f2a9c3b4d5e6f708192a3b4c5d6e7f80",
    b"req_8fWq3ZkP",
    b"Root=1-67891233-abcdef012345678912345678",
    b"user@example.com/a+b=c",
    b"abcdefgh",
    b"a" * 128,
    b"a-------",
    b"a" + b"." * 30,
)
REPLACED_IDS = (
    *(b"prefix-" + EVIL + bad for bad in (*C1, *UNICODE, *WORDS) if bad.strip()),
    *(b"prefix-" + EVIL + bad + b"-suffix" for bad in (*C1, *UNICODE, *WORDS)),
    *(bad + EVIL + b"-suffix" for bad in (*C1, *UNICODE, *WORDS) if bad.strip()),
    b"-" + EVIL + b"-suffix", b"." + EVIL + b"-suffix", b"=" + EVIL + b"-suffix",
    EVIL, EVIL + b"123", EVIL + b"a" * 125, EVIL * 4000,
    b"-" * 4000 + EVIL + b"0" * 32, b"{" + EVIL + b"0" * 28 + b"}", b"urn:uuid:" + EVIL, FORGED + EVIL,
    b"a" * 32 + b"," + EVIL, b"first-id-1 second-id " + EVIL,
)  # fmt: skip
"""Valid field values, some as obs-text (RFC 9110, 5.5), but invalid IDs."""

EMPTY_IDS = (b"", b" ", b"\t \t")
SPACED_IDS = (b"  %b  ", b"\t%b\t", b"%b ")
"""Whitespace around a field value is not part of it (RFC 9110, 5.5)."""

PATHS = (
    b"/%0a", b"/%0d%0a" + FORGED.replace(b" ", b"%20"), b"/a%00b", b"/%22%20200%20-", b'/"quoted"', b"/'", b"/\\",
    b"//", b"//evil.example/..", b"/../../etc/passwd", b"/..%2f..%2fetc/passwd", b"/./.", b"/%", b"/%zz", b"/%e2%80%a8",
    b"/%c2%85", b"/%1b[31m", b"/%ff%fe", b"/;a=b", b"/~", b"/{0}", b"/%s%s%n", b"/%(x)s", b"/${jndi:ldap://127.0.0.1/}",
    b"/<script>", b"/|", b"/^", b"/`", b"/a,b", b"/:", b"/@", b"/*", b"/" + b"a" * 8000, b"/" + b"%0a" * 2000,
    b"/" + b"/" * 3000, b"/?" + b"&" * 5000, b"/?" + b"token=" * 1000, b"/?" + b"a=b&" * 1500, b"/?%0a=%0d", b'/?"="',
    b"/?\\=\\", b"/?a=%s&b=%(x)s", b"/??", b"/?" + b"[" * 2000, b"/api/demo?request_id=forged", b"/?a=1;b=2",
    *(b"/raw-" + bad + b"-raw" for bad in C1),
    *(b"/raw?q=" + bad for bad in UNICODE),
)  # fmt: skip
"""Targets that get a response or are refused, never with a 5xx; each is logged on one line."""

SECRETS = (
    b"token=" + SECRET, b"Token=" + SECRET, b"access_token=" + SECRET, b"password=" + SECRET, b"PASSWORD=" + SECRET,
    b"p%61ssword=" + SECRET, b"a=b&api_key=" + SECRET, b"a=b&x-secret-y=" + SECRET + b"&c=d", b"passwd=" + SECRET,
    b"token=" + SECRET + b"=" + SECRET, b"token[]=" + SECRET, b"%74oken=" + SECRET,
    b"token=" + SECRET + b"&token=" + SECRET,
    b"signature=" + SECRET, b"session=%65" + SECRET, b"key=" + SECRET * 100, b"a&token=" + SECRET,
    b"token=a%26b=" + SECRET,
    b"+token=" + SECRET, b"credential=\"" + SECRET + b"\"", b"authorization=Bearer%20" + SECRET,
)  # fmt: skip

FORWARDED = (
    b"1.2.3.4 - \"GET /forged HTTP/1.1\" 200", b"\x85" + EVIL, b"\x9b31m", b"unknown", b"_hidden", b"1.2.3.4.5",
    b"999.1.1.1", b"[::1", b"::ffff:1.2.3.4%25eth0" + EVIL, b"%s%n", b"${jndi:ldap://127.0.0.1/a}", b",,,,", b",",
    b"1.2.3.4," * 3000, b"x" * 30_000, b"01.02.03.04", b"1.2.3.4:" + EVIL, "\uff11.2.3.4".encode(), b"0x7f000001",
    b"127.0.0.1, " + EVIL, b"2001:db8::1\\", b"'1.2.3.4'", b"1.2.3.4\t" + EVIL, b"-", b"\"1.2.3.4\"",
)  # fmt: skip


def request(
    *lines: bytes, target: bytes = b"/api/demo", method: bytes = b"GET", host: bytes = b"testserver", body: bytes = b""
) -> bytes:
    """Return a request with these unmodified header lines and `Connection: close`."""
    head = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def request_with_id(target: bytes) -> tuple[bytes, bytes]:
    """Return a new ID and a request for the target that carries it."""
    request_id = new_id("hostile").encode()
    return request_id, request(b"X-Request-ID: " + request_id, target=target)
