"""The `server.py` of an integration for the live tests: its hooks create mark files, and one of them fails.

It is copied into the baked project as `app/integrations/marks/server.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


def _mark(name: str) -> None:
    folder = Path(os.environ["BROKER_FOLDER"])
    (folder / f"{name}.{os.getpid()}").touch()
    if name == "when_ready" and {"app.main", "app.integrations.broker", "app.integrations.marks"} & sys.modules.keys():
        (folder / "master_has_imported_app").touch()


def on_starting(_server: Arbiter) -> None:
    """Mark the start of the master."""
    _mark("on_starting")


def when_ready(_server: Arbiter) -> None:
    """Mark that the master listens."""
    _mark("when_ready")


def post_fork(_server: Arbiter, _worker: Worker) -> None:
    """Mark the start of a worker, or fail while the broker is full."""
    if (Path(os.environ["BROKER_FOLDER"]) / "full").exists():
        raise OSError("no room for a worker")
    _mark("post_fork")


def worker_exit(_server: Arbiter, _worker: Worker) -> None:
    """Mark the end of a worker, in the worker."""
    _mark("worker_exit")


def child_exit(_server: Arbiter, worker: Worker) -> None:
    """Mark the end of a worker, in the master, and fail."""
    (Path(os.environ["BROKER_FOLDER"]) / f"child_exit.{worker.pid}").touch()
    raise TypeError("child_exit is broken")


def on_exit(_server: Arbiter) -> None:
    """Mark the end of the master."""
    _mark("on_exit")
