"""gunicorn's settings: `gunicorn -c gun.py`. Every value comes from the environment (app/settings.py names them)."""

import errno
import os
import signal
import socket
from typing import Any

from app.common.log_handler import logging_config, prepare_log_files
from app.environment import project_metadata
from app.integrations.server_hooks import in_turn, load_hooks
from app.settings import reload_settings

settings = reload_settings()  # SIGHUP runs this file again, and `.env` may have changed
prepare_log_files(settings)

wsgi_app = "app.main:app"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "app.common.workers.RequestUvicornWorker"
backlog = 2048
proc_name = project_metadata().get("name", "service")
pidfile = None if settings.pid_file is None else str(settings.pid_file)

# A heartbeat of the worker's loop, not a limit for requests: whoever blocks the loop so long is killed.
timeout = settings.timeout
# Below the time after which an orchestrator kills; the worker itself cancels two seconds earlier.
graceful_timeout = settings.graceful_timeout
# Above the idle time of the proxy in front, which would else meet a closed connection.
keepalive = settings.keepalive
# With jitter, so that the workers are not replaced all at once.
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests // 10

# uvicorn ignores these two; app/common/server/protocol.py enforces the limits. Here for another worker class.
limit_request_line = min(settings.limit_request_line, 8190)
limit_request_fields = settings.limit_request_fields
forwarded_allow_ips = ",".join(settings.forwarded_allow_ips)

# The heartbeat is a file's time stamp; in memory no slow disk can stop it.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
# Its path belongs to the user, not to the service: a second gunicorn would take it over.
control_socket_disable = True
# The starter would return at once, and a container stop with it.
daemon = False
# The application is imported by each worker, so that no thread is lost in a fork. SIGHUP brings new code of app/api,
# app/services, app/integrations/<name> and app/main.py; of what this file and the worker import (app/common,
# app/settings.py, app/integrations/*.py), and of packages, only a restart does, or SIGUSR2.
preload_app = False

errorlog = "-"
accesslog = None
loglevel = settings.log_level.lower()
logconfig_dict = logging_config()


def stop_on_sigterm(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Listen at once: a SIGTERM during the hooks would be lost, and the end wait for GRACEFUL_TIMEOUT."""
    signal.signal(signal.SIGTERM, worker.handle_exit)


def check_address(_server: object) -> None:
    """Say what is wrong with the address, where gunicorn would try five times and give up."""
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:
        return  # an upgrade in place, or socket activation: the sockets are there already
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reasons = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "this user may not bind it"}
            reason = reasons.get(error.errno or 0, str(error.strerror or error))
            raise SystemExit(
                f"The service cannot listen on {bind}: {reason}. Stop the other program, or set HOST and PORT to an "
                "address of this machine that is free."
            ) from None


# gunicorn's server hooks: what is done here, then what the integrations' server.py do at the same moment.
load_hooks()
on_starting = in_turn("on_starting", check_address)
on_reload = in_turn("on_reload")
when_ready = in_turn("when_ready")
pre_fork = in_turn("pre_fork")
post_fork = in_turn("post_fork", stop_on_sigterm)
post_worker_init = in_turn("post_worker_init")
child_exit = in_turn("child_exit")
worker_exit = in_turn("worker_exit")
nworkers_changed = in_turn("nworkers_changed")
pre_exec = in_turn("pre_exec")
on_exit = in_turn("on_exit")
