"""An MCP server that misbehaves, written without a library: over stdio, or over HTTP if a port is given.

It uses protocol version 2025-11-25, in which servers send messages unasked. Each tool misbehaves in its own way.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Emit = Callable[[str], None]
HEAD = '{"jsonrpc":"2.0","method":"notifications/message","params":'


def say(emit: Emit, lines: list[str] = [], messages: list[Any] = [], **_: object) -> str:  # noqa: B006
    """Send `lines` unchanged, then a message for each of `messages`, which are its parameters."""
    for line in lines:
        emit(line)
    for params in messages:
        emit(f"{HEAD}{params if isinstance(params, str) else json.dumps(params)}}}")
    return "said"


def big(emit: Emit, size: int, **_: object) -> str:
    """Send a message with a large value, one with a large text, and one with a deeply nested value."""
    deep = "[" * 150 + "]" * 150
    emit(f'{HEAD}{{"level":"info","data":{{"msg":"large value","extra":{{"blob":"{"x" * size}"}}}}}}}}')
    emit(f'{HEAD}{{"level":"info","data":{{"msg":"large text {"y" * size}","extra":{{}}}}}}}}')
    emit(f'{HEAD}{{"level":"info","data":{{"msg":"deep","extra":{{"deep":{deep}}}}}}}}}')
    return "said"


def flood(emit: Emit, number: int, request_id: str, **_: object) -> str:
    """Send `number` messages as fast as the client reads them."""
    for n in range(number):
        extra = f'{{"number":{n},"request_id":"{request_id}"}}'
        emit(f'{HEAD}{{"level":"warning","logger":"flood","data":{{"msg":"flood {n}","extra":{extra}}}}}}}')
    return "said"


def die(_emit: Emit, **_: object) -> str:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def hang(_emit: Emit, **_: object) -> str:
    """Stop this process (SIGSTOP); its pipes and connections stay open."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return "too late"


def own_pid(_emit: Emit, **_: object) -> str:
    """Return the process ID."""
    return f"{os.getpid()}"


TOOLS: dict[str, Callable[..., str]] = {tool.__name__: tool for tool in (say, big, flood, die, hang, own_pid)}


def result_of(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Return the result of a request; raise KeyError for an unknown method."""
    params = request.get("params") or {}
    match request["method"]:
        case "initialize":
            info = {"name": "hostile", "version": "1"}
            capabilities: dict[str, Any] = {"tools": {}, "logging": {}}
            return {"protocolVersion": "2025-11-25", "serverInfo": info, "capabilities": capabilities}
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
        case "tools/call":
            text = TOOLS[params["name"]](emit, **(params.get("arguments") or {}))
            return {"content": [{"type": "text", "text": text}], "structuredContent": {"text": text}}
        case "ping" | "logging/setLevel":
            return {}
    raise KeyError(request["method"])


def handle_message(line: str, emit: Emit) -> None:
    """Handle one message of the client."""
    request = json.loads(line)
    if "id" not in request or "method" not in request:
        return
    response: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
    try:
        response["result"] = result_of(request, emit)
    except KeyError as error:
        response["error"] = {"code": -32601, "message": f"no method {error}"}
    emit(json.dumps(response))


def serve_stdio() -> None:
    """Serve standard input and output. `--mute`: never respond. `--deaf`: keep running after the end of the input."""

    def emit(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    for line in sys.stdin:
        if "--mute" not in sys.argv:
            handle_message(line, emit)
    while "--deaf" in sys.argv:
        time.sleep(1)


class HttpHandler(BaseHTTPRequestHandler):
    """Streamable HTTP with one session, which ends with the process; each response is an event stream."""

    protocol_version = "HTTP/1.1"
    session = os.urandom(8).hex()

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers["content-length"])).decode()
        is_request, method = "id" in json.loads(line), json.loads(line).get("method")
        if method not in ("initialize", "server/discover") and self.headers["mcp-session-id"] != self.session:
            self._refuse(404)
            return
        self.send_response(200 if is_request else 202)
        if method == "initialize":
            self.send_header("Mcp-Session-Id", self.session)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if is_request:
            handle_message(line, self._emit)

    def do_GET(self) -> None:
        self._refuse(405)

    def do_DELETE(self) -> None:
        self._refuse(405)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _emit(self, text: str) -> None:
        for line in text.split("\n"):
            self.wfile.write(f"event: message\ndata: {line}\n\n".encode())
        self.wfile.flush()


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].isdecimal():
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), HttpHandler).serve_forever()
    serve_stdio()
