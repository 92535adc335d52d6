"""Clients of other MCP servers: connected when first called, and again when lost, each without regard to the others."""

import asyncio
import logging
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextvars import Context
from time import monotonic
from typing import Any, Final

import httpx2
from fastmcp import Client
from fastmcp.client.client import CallToolResult
from fastmcp.client.logging import LogMessage
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from mcp import MCPError
from mcp.client import stdio
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, PARSE_ERROR, REQUEST_TIMEOUT
from pydantic_core import to_json

from app.common.constants import NO_REQUEST_ID, REQUEST_ID_KEY
from app.common.exceptions import NotReady
from app.common.outbound import OutboundAsyncClient
from app.common.request_id import current_request_id
from app.common.task_record import inject
from app.environment import PROJECT_ROOT
from app.integrations.mcp.forwarding import Message, Messages
from app.settings import Settings

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds in which a server that could not be reached is not tried again."""

PING_SECONDS: Final = 2.0
UNANSWERED: Final = frozenset((CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR, INVALID_REQUEST))
"""Errors that may be the connection's; the last is what the SDK makes of a session that is not known any more."""

# A process that does not end with its input is told to, and then made to: both within what a lifespan has to end in.
stdio.PROCESS_TERMINATION_TIMEOUT = stdio.FORCE_KILL_TIMEOUT = 1.0


def without_traceback(line: logging.LogRecord) -> bool:
    """Take a kilobyte off each line of what is no message at all, of which there may be thousands."""
    line.exc_info = line.exc_text = None
    return True


for name in ("mcp.client.stdio", "client"):  # the SDK's
    logging.getLogger(name).addFilter(without_traceback)

Transport = StdioTransport | StreamableHttpTransport


class Server:
    """One server: `call` its tools; raises ToolError for a refusal, NotReady where no answer comes."""

    def __init__(self, label: str, target: str, settings: Settings, seconds: float, messages: Messages) -> None:
        self.label = label
        self._target, self._settings, self._seconds, self._messages = target, settings, seconds, messages
        self._ready: asyncio.Future[Client[Transport]] | None = None
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before = monotonic()
        self._in_flight: Counter[str] = Counter()

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> CallToolResult:
        """Call a tool under the current request's ID, and return what it gives."""
        try:
            to_json(arguments)  # the SDK's connection would break, and with it the calls of others
        except ValueError as error:
            raise ToolError(f"The arguments for {tool} are no JSON.") from error
        meta: dict[str, Any] = {}
        inject(meta)
        request_id, ready = meta[REQUEST_ID_KEY], self._connection()
        self._in_flight[request_id] += 1
        try:
            async with asyncio.timeout(self._seconds):
                client = await asyncio.shield(ready)
                return await client.call_tool(tool, dict(arguments or {}), meta=meta)
        except (ToolError, NotReady):
            raise
        except Exception as error:
            raise self._failure(error, ready) from error
        finally:
            self._in_flight[request_id] -= 1
            self._in_flight += Counter()  # without those that are zero

    def _failure(self, error: Exception, ready: asyncio.Future[Client[Transport]]) -> Exception:
        """Return what the caller is told; one call's failure harms no other, unless nothing comes any more."""
        code = error.code if isinstance(error, MCPError) else None
        if code in UNANSWERED or isinstance(error, (OSError, httpx2.TransportError)):
            self._keep_task(self._check(ready))
            return self._not_ready(error)
        if code is not None:
            return ToolError(str(error))
        log.warning("A call of the MCP server %s failed", self.label, exc_info=error)
        return ToolError(f"The MCP server {self.label} has given an answer that cannot be understood.")

    def _not_ready(self, error: BaseException) -> NotReady:
        what = {"server": self.label}
        log.warning("The MCP server %s does not answer (%s)", self.label, type(error).__name__, extra=what)
        return NotReady(f"The MCP server {self.label} does not answer.")

    async def _check(self, ready: asyncio.Future[Client[Transport]]) -> None:
        """Give up a connection over which a ping is not answered either; others may wait for slow tools there."""
        if ready.done() and self._ready is ready and not await answers(ready.result()):
            self._lose(ready)

    def _keep_task(self, work: Coroutine[Any, Any, None]) -> None:
        # With no request's IDs: a connection outlives the request that made it.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connection(self) -> "asyncio.Future[Client[Transport]]":
        """Return the connection, to be awaited; one that is lost is made anew, at most once a second."""
        if self._ready is not None and self._ready.done() and is_lost(self._ready.result()):
            self._lose(self._ready)
        if self._ready is None:
            if monotonic() < self._not_before:
                raise NotReady(f"The MCP server {self.label} does not answer.")
            self._lost = asyncio.Event()
            self._ready = asyncio.get_running_loop().create_future()
            self._keep_task(self._keep(self._ready, self._lost))
        return self._ready

    def _lose(self, ready: asyncio.Future[Client[Transport]]) -> None:
        if self._ready is ready:
            self._lost.set()
            self._ready = None

    async def _keep(self, ready: asyncio.Future[Client[Transport]], lost: asyncio.Event) -> None:
        """Hold a connection open until it is lost."""
        try:
            async with self._client() as client:
                log.info("The MCP server %s is connected, protocol %s", self.label, client.protocol_version)
                ready.set_result(client)
                await lost.wait()
        except (Exception, asyncio.CancelledError) as error:  # whatever a transport raises: nobody is to wait for ever
            if not ready.done():
                self._not_before = monotonic() + PAUSE
                ready.set_exception(self._not_ready(error))
                ready.exception()  # it may be that nobody waits any more
            else:
                log.debug("The connection to the MCP server %s ended with %s", self.label, type(error).__name__)
        finally:
            self._lose(ready)

    def _client(self) -> Client[Transport]:
        transport = transport_of(self._target, self._settings)
        seconds = self._seconds
        return Client(transport, name=self.label, log_handler=self._hear, timeout=seconds, init_timeout=seconds)

    async def _hear(self, message: LogMessage) -> None:
        """Take a message; `request_id` among its values counts only while we are calling under it."""
        extra = message.data.get("extra") if isinstance(message.data, dict) else None
        claimed = (extra or {}).get("request_id") if isinstance(extra, dict) else None
        known = list(self._in_flight)
        request_id = next((one for one in (claimed, current_request_id()) if one in known), None)
        if request_id is None:
            request_id = known[0] if len(known) == 1 else NO_REQUEST_ID
        self._messages.put(Message.read(self.label, message.level, message.logger, message.data, request_id))

    async def close(self) -> None:
        """Let the connection go; a process that was started for it is ended."""
        self._lost.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)


async def answers(client: Client[Transport]) -> bool:
    """Tell whether a server answers a ping within two seconds; that it knows none is an answer, too."""
    try:
        async with asyncio.timeout(PING_SECONDS):
            await client.ping()
    except MCPError as error:
        return error.code not in UNANSWERED
    except Exception:
        return False
    return True


def is_lost(client: Client[Transport]) -> bool:
    """Tell whether a connection is known to be gone: its process has ended, or its own task has failed."""
    transport = client.transport
    # Undocumented, but what FastMCP itself asks before it uses a process again; a test fails should it be renamed.
    ended = isinstance(transport, StdioTransport) and transport._is_session_dead()  # noqa: SLF001
    return ended or not client.is_connected()


def transport_of(target: str, settings: Settings) -> Transport:
    """Return the way to a server: HTTP for a URL, else a process that is started, with little of our environment."""
    if target.startswith(("http://", "https://")):
        hosts = (*settings.outbound_hosts, httpx2.URL(target).netloc.decode("ascii"))

        def http_client(**options: Any) -> httpx2.AsyncClient:  # noqa: ANN401 - those of FastMCP
            return OutboundAsyncClient(header=settings.request_id_header, allowed_hosts=hosts, **options)

        return StreamableHttpTransport(target, httpx_client_factory=http_client)  # type: ignore[arg-type]
    command, *words = shlex.split(target)
    command = sys.executable if command == "python" else command
    # So that its lines are like ours; but no address, in which there may be a secret.
    passed_on = {name: os.environ[name] for name in os.environ if re.match(r"(LOG_|MASKED_|PYTHON)(?!.*URL)", name)}
    return StdioTransport(command, words, env=passed_on, cwd=str(PROJECT_ROOT), keep_alive=False)
