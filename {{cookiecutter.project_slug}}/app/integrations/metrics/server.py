"""In gunicorn's first process: the folder in which all workers count, and which files in it are whose."""

import os
import shutil
import tempfile
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported


def on_starting(server: Any) -> None:  # noqa: ANN401 - gunicorn's Arbiter
    """Begin with a folder of its own; whoever takes over from another first process (USR2) shares that one's."""
    if not server.master_pid:
        os.environ.pop(FOLDER, None)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ANN401
    """Give a worker the name, and so the files, of one that has ended: it counts on, and files stay few."""
    if FOLDER not in os.environ:  # at a start, or at the first reload of a service that had no metrics before
        # In memory: no disk is waited for, and no upload fills it, which would kill whoever counts (SIGBUS).
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="metrics-", dir=memory)
        server.cfg.env_orig[FOLDER] = os.environ[FOLDER]  # what a successor gets
    taken = [getattr(one, "counts_as", "") for one in server.WORKERS.values()]
    worker.counts_as = next(name for n in count() if (name := f"{server.pid}-{n}") not in taken)


def post_fork(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Make it so before there is a metric; what a worker forks has files of its own."""
    from prometheus_client import values  # noqa: PLC0415 - not before the variable is set

    values.Lock = RLock  # type: ignore[assignment, attr-defined] # as in __init__.py
    name, own = worker.counts_as, os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: name if os.getpid() == own else str(os.getpid()))


def child_exit(_server: object, worker: Any) -> None:  # noqa: ANN401
    """Forget what the worker had in flight, as prometheus_client does, which has no business in this process."""
    for file in Path(os.environ.get(FOLDER, "/nowhere")).glob(f"gauge_live*_{getattr(worker, 'counts_as', '')}.db"):
        file.unlink()


def on_exit(server: Any) -> None:  # noqa: ANN401
    """Remove the folder, unless another first process uses it."""
    if not server.reexec_pid and (not server.master_pid or server.master_pid != os.getppid()):
        shutil.rmtree(os.environ.get(FOLDER, ""), ignore_errors=True)
