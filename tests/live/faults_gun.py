"""The service's own gun.py, and a mark of gunicorn's `worker_exit`. It is copied into the baked project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker

# Run and not imported: SIGHUP reads the file again, and an import would hand out what the first reading made.
exec(compile(Path("gun.py").read_text("utf-8"), "gun.py", "exec"))


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Tell that gunicorn saw the worker leave."""
    (Path(os.environ["MARKS"]) / f"worker_exit.{worker.pid}").touch()
