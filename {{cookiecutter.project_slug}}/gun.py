"""gunicorn's configuration: `gunicorn -c gun.py`. The values come from the environment variables in app/settings.py."""

import errno
import os
import signal
import socket
from typing import Any

from app.common.log_handler import logging_config, prepare_log_files
from app.environment import project_metadata
from app.integrations.server_hooks import chain_hooks, load_hooks
from app.settings import reload_settings

settings = reload_settings()  # on SIGHUP gunicorn runs this file again, and `.env` may have changed
prepare_log_files(settings)

wsgi_app = "app.main:app"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "app.common.workers.RequestUvicornWorker"
backlog = 2048
proc_name = project_metadata().get("name", "service")
pidfile = None if settings.pid_file is None else str(settings.pid_file)

# Not a limit for requests: gunicorn kills a worker that sends no heartbeat for this time, as its loop is blocked.
timeout = settings.timeout
# Must be shorter than the orchestrator's grace period. The worker cancels requests two seconds before this timeout.
graceful_timeout = settings.graceful_timeout
# Must exceed the proxy's idle timeout, or the proxy may send a request on a connection that is being closed.
keepalive = settings.keepalive
# The jitter keeps gunicorn from replacing all workers at the same time.
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests // 10

# For other worker classes: uvicorn ignores these two limits, and app/common/server/protocol.py enforces them.
limit_request_line = min(settings.limit_request_line, 8190)
limit_request_fields = settings.limit_request_fields
forwarded_allow_ips = ",".join(settings.forwarded_allow_ips)

# A heartbeat updates the time stamp of a file. In memory, a slow disk cannot delay it.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
# The control socket's default path is per user, not per service: a second gunicorn would take it over.
control_socket_disable = True
# With daemon = True the parent process would exit immediately, which stops a container.
daemon = False
# Each worker imports the application, since a fork does not copy threads. SIGHUP loads new code of app/api,
# app/services, app/integrations/<name> and app/main.py. New versions of packages, and of the modules that this file
# and the worker class import (app/common, app/settings.py, app/integrations/*.py), need a restart or SIGUSR2.
preload_app = False

errorlog = "-"
accesslog = None
loglevel = settings.log_level.lower()
logconfig_dict = logging_config()


def stop_on_sigterm(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Handle SIGTERM right after the fork; if the hooks lost it, shutdown would take the whole GRACEFUL_TIMEOUT."""
    signal.signal(signal.SIGTERM, worker.handle_exit)


def check_address(_server: object) -> None:
    """Raise SystemExit with the reason if the address cannot be bound; gunicorn itself would retry five times."""
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:
        return  # after SIGUSR2 or with socket activation, gunicorn inherits open sockets
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reasons = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "this user is not allowed to bind it"}
            reason = reasons.get(error.errno or 0, str(error.strerror or error))
            raise SystemExit(
                f"The service cannot listen on {bind}: {reason}. Stop the other program, or set HOST and PORT to a "
                "free address of this machine."
            ) from None


# gunicorn's server hooks. Each calls the function of this file, if any, then those in app/integrations/*/server.py.
load_hooks()
on_starting = chain_hooks("on_starting", check_address)
on_reload = chain_hooks("on_reload")
when_ready = chain_hooks("when_ready")
pre_fork = chain_hooks("pre_fork")
post_fork = chain_hooks("post_fork", stop_on_sigterm)
post_worker_init = chain_hooks("post_worker_init")
child_exit = chain_hooks("child_exit")
worker_exit = chain_hooks("worker_exit")
nworkers_changed = chain_hooks("nworkers_changed")
pre_exec = chain_hooks("pre_exec")
on_exit = chain_hooks("on_exit")
