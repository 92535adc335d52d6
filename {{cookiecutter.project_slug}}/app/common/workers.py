"""gunicorn's worker: uvicorn with our lines and our protocol, and with the signals that gunicorn really sends."""

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
"""Seconds between two signs of life to the master."""

PAUSE = 2
"""Seconds until a worker that could not start is tried again."""


class DrainingServer(Server):
    """Keeps the heart beating while the last requests are answered, so that the master does not kill the worker."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Stop accepting, finish what is there, end the lifespan.

        The listening sockets are closed with their servers; closing them once more would only log an error.
        """
        self.server_state.draining = True  # type: ignore[attr-defined]
        heart = asyncio.create_task(self._beat())
        try:
            await self._serve_who_waits()
            await super().shutdown()
            if self.server_state.tasks:  # cancelled ones still have to answer and to write their line
                await asyncio.wait(self.server_state.tasks, timeout=HEARTBEAT)
        finally:
            heart.cancel()

    async def _serve_who_waits(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in stop_listening(self.servers):
            with contextlib.suppress(OSError):  # it has gone meanwhile
                protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
                make = partial(protocol, self.config, self.server_state, self.lifespan.state)
                await loop.connect_accepted_socket(make, connection, ssl=self.config.ssl)

    async def _beat(self) -> None:
        while self.config.callback_notify is not None:
            await self.config.callback_notify()
            await asyncio.sleep(HEARTBEAT)


class RequestUvicornWorker(UvicornWorker):  # type: ignore[misc]
    """`worker_class = "app.common.workers.RequestUvicornWorker"`."""

    # The parser is named, never "auto": that falls back to h11 where httptools is missing, which lets requests be
    # smuggled. uvicorn starts a pipelined request inside the context of the one before, hence reset_contextvars.
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
    first: ClassVar[int] = 0
    """How many workers the master has started with; a younger one is a replacement, or one more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - gunicorn's
        super().__init__(*args, **kwargs)
        if self.age == 1:  # here, in the master: a reload may bring another number, and the ages go on
            type(self).first = self.cfg.workers
        # The base class makes uvicorn share gunicorn's very lists of handlers, in the master; a reload empties both.
        for name in ("uvicorn.error", "uvicorn.access"):
            shared = logging.getLogger(name)
            shared.handlers = list(shared.handlers)

    def init_process(self) -> None:
        """Set up what belongs to this process and serve; what keeps it from that may be gone at the next try."""
        try:
            self._set_up()
            super().init_process()
        except SystemExit as error:
            if error.code == Arbiter.WORKER_BOOT_ERROR:
                self.give_up()
            raise
        except Exception:  # such as a syntax error; gunicorn would log it, and end
            if not self.booted:
                if self.age > self.first:
                    self.log.exception("Exception in worker process")
                self.give_up()
            raise

    def give_up(self) -> None:
        """End a worker that cannot start so that gunicorn tries again, not so that it ends as well; raise SystemExit.

        The very first worker returns: its end is that of gunicorn, at once. The others of the first start wait for
        theirs, as gunicorn stumbles over a second one that ends so: exit code 1, a traceback, and the PID file stays.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda *_: sys.exit(0))
        if self.age == 1:
            return
        if self.age <= self.first:
            time.sleep(PAUSE)
            sys.exit(0)
        self.log.error("This worker cannot start; the next try is in %d seconds.", PAUSE)
        for _ in range(PAUSE):
            self.notify()
            time.sleep(1)
        sys.exit(1)

    def _set_up(self) -> None:
        """Set up what belongs to this process; the master must stay as it is."""
        wire_handlers()
        self.config.loop = get_settings().loop
        self.config.timeout_notify = HEARTBEAT
        # Below gunicorn's, so that a request which takes too long is cancelled, answered and logged before SIGKILL.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)

    def init_signals(self) -> None:
        """Remember that the end was asked for: an exception could get lost in an import, or end as another one."""
        super().init_signals()
        faulthandler.enable()  # a blocked loop is killed with SIGABRT, and the stack says where it was
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        self.server = DrainingServer(config=self.config)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, self._stop_now)
        # On the loop and not in the midst of a write, where reopening the file would fail.
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        # The sockets inside of gunicorn's wrappers, which report an error when uvloop closes them.
        if self.alive:
            await self.server.serve(sockets=[wrapper.sock for wrapper in self.sockets])
        if self.alive and not self.server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _stop_now(self) -> None:
        self.config.timeout_graceful_shutdown = 0.1  # zero would tell of a cancellation where nothing was cancelled
        self.server.should_exit = True

    async def callback_notify(self) -> None:
        """Give a sign of life; leave if that was asked for, or the master is gone and nobody would ever ask."""
        self.notify()
        if os.getppid() != self.ppid or not self.alive:
            self.server.should_exit = True


def wire_handlers() -> None:
    """Give our formatters to the handlers of a gunicorn that was set up without our `gun.py`, and them our lines."""
    access = logging.getLogger("gunicorn.access").handlers
    for handler in access:
        if not isinstance(handler.formatter, RequestAccessFormatter):
            handler.setFormatter(access_formatter())
    if access:
        ours = logging.getLogger(ACCESS_LOGGER)
        ours.handlers, ours.propagate = access, False
        ours.setLevel(logging.INFO)
    for handler in logging.getLogger("gunicorn.error").handlers:
        if not any(isinstance(known, RequestIDLogFilter) for known in handler.filters):
            handler.addFilter(RequestIDLogFilter())
            handler.setFormatter(default_formatter())
