"""Clients of other MCP servers: each connects on its first call, and reconnects after its connection was lost."""

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
from app.integrations.mcp.forwarding import Message, MessageWriter
from app.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""Seconds after a failed connection attempt before the next one."""

PING_TIMEOUT: Final = 2.0
CONNECTION_ERRORS: Final = frozenset((CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR, INVALID_REQUEST))
"""Error codes that may mean a lost connection; the SDK reports an expired session as INVALID_REQUEST."""

# Seconds from closing standard input to SIGTERM, and from SIGTERM to SIGKILL: both must fit into the shutdown timeout.
stdio.PROCESS_TERMINATION_TIMEOUT = stdio.FORCE_KILL_TIMEOUT = 1.0


def drop_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback (1 kB) from records about malformed messages, of which there may be thousands."""
    record.exc_info = record.exc_text = None
    return True


for name in ("mcp.client.stdio", "client"):  # loggers of the SDK
    logging.getLogger(name).addFilter(drop_traceback)

Transport = StdioTransport | StreamableHttpTransport


class Server:
    """The client of one MCP server. `target` is a URL or a command; `timeout` is in seconds."""

    def __init__(self, label: str, target: str, settings: Settings, timeout: float, writer: MessageWriter) -> None:
        self.label = label
        self._target, self._settings, self._timeout, self._writer = target, settings, timeout, writer
        self._connection: asyncio.Future[Client[Transport]] | None = None
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before = monotonic()
        self._in_flight: Counter[str] = Counter()

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> CallToolResult:
        """Call a tool with the current request ID; raise ToolError if it fails, NotReady if no response comes."""
        try:
            to_json(arguments)  # arguments that are not JSON would break the SDK's connection, and other calls with it
        except ValueError as error:
            raise ToolError(f"The arguments for {tool} are not valid JSON.") from error
        meta: dict[str, Any] = {}
        inject(meta)
        request_id, connection = meta[REQUEST_ID_KEY], self._connect()
        self._in_flight[request_id] += 1
        try:
            async with asyncio.timeout(self._timeout):
                client = await asyncio.shield(connection)
                return await client.call_tool(tool, dict(arguments or {}), meta=meta)
        except (ToolError, NotReady):
            raise
        except Exception as error:
            raise self._failure(error, connection) from error
        finally:
            self._in_flight[request_id] -= 1
            self._in_flight += Counter()  # drops the zero counts

    def _failure(self, error: Exception, connection: asyncio.Future[Client[Transport]]) -> Exception:
        """Return the exception for the caller; close the connection only if a ping fails as well."""
        code = error.code if isinstance(error, MCPError) else None
        if code in CONNECTION_ERRORS or isinstance(error, (OSError, httpx2.TransportError)):
            self._start_task(self._check_connection(connection))
            return self._unavailable(error)
        if code is not None:
            return ToolError(str(error))
        log.warning("A call to the MCP server %s failed", self.label, exc_info=error)
        return ToolError(f"The MCP server {self.label} sent an invalid response.")

    def _unavailable(self, error: BaseException) -> NotReady:
        fields = {"server": self.label}
        log.warning("The MCP server %s is unavailable (%s)", self.label, type(error).__name__, extra=fields)
        return NotReady(f"The MCP server {self.label} is unavailable.")

    async def _check_connection(self, connection: asyncio.Future[Client[Transport]]) -> None:
        """Discard a connection if a ping fails; if it succeeds, other calls may still wait there for slow tools."""
        if connection.done() and self._connection is connection and not await responds_to_ping(connection.result()):
            self._discard(connection)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        # An empty context, without request IDs: a connection outlives the request that opened it.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _connect(self) -> "asyncio.Future[Client[Transport]]":
        """Return the connection, which may still be opening; raise NotReady for a second after a failed attempt."""
        if self._connection is not None and self._connection.done() and is_lost(self._connection.result()):
            self._discard(self._connection)
        if self._connection is None:
            if monotonic() < self._not_before:
                raise NotReady(f"The MCP server {self.label} is unavailable.")
            self._lost = asyncio.Event()
            self._connection = asyncio.get_running_loop().create_future()
            self._start_task(self._hold_connection(self._connection, self._lost))
        return self._connection

    def _discard(self, connection: asyncio.Future[Client[Transport]]) -> None:
        if self._connection is connection:
            self._lost.set()
            self._connection = None

    async def _hold_connection(self, connection: asyncio.Future[Client[Transport]], lost: asyncio.Event) -> None:
        """Open a connection, and hold it open until `lost` is set."""
        try:
            async with self._client() as client:
                log.info("The MCP server %s is connected, protocol %s", self.label, client.protocol_version)
                connection.set_result(client)
                await lost.wait()
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, the waiting callers must get a result
            if not connection.done():
                self._not_before = monotonic() + RETRY_SECONDS
                connection.set_exception(self._unavailable(error))
                connection.exception()  # marks it as retrieved: all callers may have timed out
            else:
                log.debug("The connection to the MCP server %s ended with %s", self.label, type(error).__name__)
        finally:
            self._discard(connection)

    def _client(self) -> Client[Transport]:
        transport = transport_of(self._target, self._settings)
        timeout = self._timeout
        return Client(transport, name=self.label, log_handler=self._on_message, timeout=timeout, init_timeout=timeout)

    async def _on_message(self, message: LogMessage) -> None:
        """Queue a message for logging; accept the `request_id` it names only while a call with that ID is in flight."""
        extra = message.data.get("extra") if isinstance(message.data, dict) else None
        claimed = (extra or {}).get("request_id") if isinstance(extra, dict) else None
        in_flight = list(self._in_flight)
        request_id = next((one for one in (claimed, current_request_id()) if one in in_flight), None)
        if request_id is None:
            request_id = in_flight[0] if len(in_flight) == 1 else NO_REQUEST_ID
        self._writer.put(Message.parse(self.label, message.level, message.logger, message.data, request_id))

    async def close(self) -> None:
        """Close the connection, and end the server's process if it was started by a command; take at most 3 s."""
        self._lost.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)


async def responds_to_ping(client: Client[Transport]) -> bool:
    """Return whether a server responds to a ping within PING_TIMEOUT; "unknown method" is a response, too."""
    try:
        async with asyncio.timeout(PING_TIMEOUT):
            await client.ping()
    except MCPError as error:
        return error.code not in CONNECTION_ERRORS
    except Exception:
        return False
    return True


def is_lost(client: Client[Transport]) -> bool:
    """Return whether a connection is known to be lost: its process has ended, or its task has failed."""
    transport = client.transport
    # Private, but FastMCP itself calls it before it reuses a process; a test fails if it is renamed.
    ended = isinstance(transport, StdioTransport) and transport._is_session_dead()  # noqa: SLF001
    return ended or not client.is_connected()


def transport_of(target: str, settings: Settings) -> Transport:
    """Return the transport: HTTP for a URL; otherwise a new process that inherits few environment variables."""
    if target.startswith(("http://", "https://")):
        hosts = (*settings.outbound_hosts, httpx2.URL(target).netloc.decode("ascii"))

        def http_client(**options: Any) -> httpx2.AsyncClient:  # noqa: ANN401 - options of FastMCP
            return OutboundAsyncClient(header=settings.request_id_header, allowed_hosts=hosts, **options)

        return StreamableHttpTransport(target, httpx_client_factory=http_client)  # type: ignore[arg-type]
    command, *arguments = shlex.split(target)
    command = sys.executable if command == "python" else command
    # The logging settings give its log the same format. URLs are left out, as they may contain a secret.
    env = {name: os.environ[name] for name in os.environ if re.match(r"(LOG_|MASKED_|PYTHON)(?!.*URL)", name)}
    return StdioTransport(command, arguments, env=env, cwd=str(PROJECT_ROOT), keep_alive=False)
