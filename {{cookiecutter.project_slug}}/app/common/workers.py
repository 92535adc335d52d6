"""gunicorn's worker class: uvicorn with our HTTP protocol and log lines, and with handlers for gunicorn's signals."""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn import Server
from uvicorn_worker import UvicornWorker

from app.common.constants import ACCESS_LOGGER
from app.common.log_handler import access_formatter, default_formatter
from app.common.logs.access import RequestAccessFormatter
from app.common.request_id import RequestIDLogFilter
from app.common.server.lingering import stop_listening
from app.common.server.protocol import RequestHttpProtocol
from app.settings import get_settings

HEARTBEAT = 1
"""Seconds between two heartbeats to the master."""

RETRY_DELAY = 2
"""Seconds until gunicorn replaces a worker that could not start."""


class DrainingServer(Server):
    """uvicorn's server; it sends heartbeats while draining, or the master would kill the worker."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Stop accepting connections, finish the requests in flight, then end the lifespan.

        The listening sockets are closed with their servers; closing them again would only log an error.
        """
        self.server_state.draining = True  # type: ignore[attr-defined]
        heartbeats = asyncio.create_task(self._send_heartbeats())
        try:
            await self._serve_queued_connections()
            await super().shutdown()
            if self.server_state.tasks:  # cancelled requests still send a response and write their access log line
                await asyncio.wait(self.server_state.tasks, timeout=HEARTBEAT)
        finally:
            heartbeats.cancel()

    async def _serve_queued_connections(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in stop_listening(self.servers):
            with contextlib.suppress(OSError):  # the client has closed it
                protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
                factory = partial(protocol, self.config, self.server_state, self.lifespan.state)
                await loop.connect_accepted_socket(factory, connection, ssl=self.config.ssl)

    async def _send_heartbeats(self) -> None:
        while self.config.callback_notify is not None:
            await self.config.callback_notify()
            await asyncio.sleep(HEARTBEAT)


class RequestUvicornWorker(UvicornWorker):  # type: ignore[misc]
    """gunicorn's worker class: `worker_class = "app.common.workers.RequestUvicornWorker"`."""

    # http="auto" would fall back to h11 if httptools is missing, and h11 allows request smuggling. Without
    # reset_contextvars, a pipelined request would run in the context of the previous request.
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "auto",
        "http": RequestHttpProtocol,
        "ws": "websockets-sansio",
        "ws_max_size": 1024 * 1024,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "reset_contextvars": True,
    }

    server: Server
    initial_workers: ClassVar[int] = 0
    """Number of workers that the master started first; a worker with a higher `age` replaces one or is additional."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - gunicorn's
        super().__init__(*args, **kwargs)
        if self.age == 1:  # this runs in the master; a reload may change the number, but the ages continue
            type(self).initial_workers = self.cfg.workers
        # In the master, the base class lets uvicorn's loggers share gunicorn's handler lists; a reload empties both.
        for name in ("uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers = list(logger.handlers)

    def init_process(self) -> None:
        """Set up this process and serve; if it cannot start, let gunicorn retry, as the cause may be temporary."""
        try:
            self._set_up()
            super().init_process()
        except SystemExit as error:
            if error.code == Arbiter.WORKER_BOOT_ERROR:
                self.handle_boot_failure()
            raise
        except Exception:  # such as a syntax error; gunicorn would log it and exit
            if not self.booted:
                if self.age > self.initial_workers:
                    self.log.exception("Exception in worker process")
                self.handle_boot_failure()
            raise

    def handle_boot_failure(self) -> None:
        """Exit with a status after which gunicorn replaces this worker instead of exiting; raise SystemExit.

        The very first worker returns, so that gunicorn exits immediately. The other initial workers wait for SIGTERM:
        a second boot error makes gunicorn exit with code 1 and a traceback, and leave the PID file behind.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda *_: sys.exit(0))
        if self.age == 1:
            return
        if self.age <= self.initial_workers:
            time.sleep(RETRY_DELAY)
            sys.exit(0)
        self.log.error("This worker cannot start; gunicorn retries in %d seconds.", RETRY_DELAY)
        for _ in range(RETRY_DELAY):
            self.notify()
            time.sleep(1)
        sys.exit(1)

    def _set_up(self) -> None:
        """Configure this process only; the master must not change."""
        wire_handlers()
        self.config.loop = get_settings().loop
        self.config.timeout_notify = HEARTBEAT
        # Shorter than gunicorn's, so that a slow request is cancelled, answered and logged before SIGKILL.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)

    def init_signals(self) -> None:
        """Let SIGTERM and SIGINT set a flag: an exception could be swallowed or replaced during an import."""
        super().init_signals()
        faulthandler.enable()  # gunicorn kills a blocked worker with SIGABRT; this prints where it was blocked
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.server = DrainingServer(config=self.config)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, self._stop_now)
        # In the event loop, so that files are not reopened during a write, which would fail.
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        # Without gunicorn's socket wrappers, which report an error when uvloop closes them.
        if self.alive:
            await self.server.serve(sockets=[wrapper.sock for wrapper in self.sockets])
        if self.alive and not self.server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _stop_now(self) -> None:
        self.config.timeout_graceful_shutdown = 0.1  # with 0, uvicorn logs a cancellation even if no task was cancelled
        self.server.should_exit = True

    async def callback_notify(self) -> None:
        """Send a heartbeat; stop the server on request, or if the master has died."""
        self.notify()
        if os.getppid() != self.ppid or not self.alive:
            self.server.should_exit = True


def wire_handlers() -> None:
    """Without `gun.py`: set our formatters on gunicorn's handlers, and send access records to its access log."""
    access = logging.getLogger("gunicorn.access").handlers
    for handler in access:
        if not isinstance(handler.formatter, RequestAccessFormatter):
            handler.setFormatter(access_formatter())
    if access:
        ours = logging.getLogger(ACCESS_LOGGER)
        ours.handlers, ours.propagate = access, False
        ours.setLevel(logging.INFO)
    for handler in logging.getLogger("gunicorn.error").handlers:
        if not any(isinstance(log_filter, RequestIDLogFilter) for log_filter in handler.filters):
            handler.addFilter(RequestIDLogFilter())
            handler.setFormatter(default_formatter())
