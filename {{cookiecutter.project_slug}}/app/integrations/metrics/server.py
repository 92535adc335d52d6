"""gunicorn hooks: the folder in which all workers keep their metrics, and the names of each worker's files."""

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported


def on_starting(server: Any) -> None:  # noqa: ANN401 - gunicorn's Arbiter
    """Start with a new folder, unless this master replaces another one (USR2): then both use the same folder."""
    if not server.master_pid:
        os.environ.pop(FOLDER, None)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ANN401
    """Name the worker after one that has exited, so that it continues its files: counts stay, and files stay few."""
    if FOLDER not in os.environ:  # at startup, or at the first reload with this integration
        # In memory: no disk latency, and a disk filled by uploads would kill the worker that counts (SIGBUS).
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="metrics-", dir=memory)
        server.cfg.env_orig[FOLDER] = os.environ[FOLDER]  # the environment of a successor (USR2)
    used = [getattr(other, "metrics_name", "") for other in server.WORKERS.values()]
    worker.metrics_name = next(name for n in count() if (name := f"{server.pid}-{n}") not in used)


def post_fork(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Apply the name before any metric exists; processes that the worker forks write files of their own."""
    from prometheus_client import values  # noqa: PLC0415 - reads the variable at import

    values.Lock = RLock  # type: ignore[assignment, attr-defined] # as in __init__.py
    name, worker_pid = worker.metrics_name, os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: name if os.getpid() == worker_pid else str(os.getpid()))


def child_exit(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Drop the worker's requests in flight, as `mark_process_dead` does; the master imports no prometheus_client."""
    for file in Path(os.environ.get(FOLDER, "/nowhere")).glob(f"gauge_live*_{getattr(worker, 'metrics_name', '')}.db"):
        file.unlink()


def on_exit(server: Any) -> None:  # noqa: ANN401
    """Remove the folder, unless another master uses it."""
    if not server.reexec_pid and (not server.master_pid or server.master_pid != os.getppid()):
        shutil.rmtree(os.environ.get(FOLDER, ""), ignore_errors=True)
