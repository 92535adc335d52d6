"""Run the service under a server, send requests over a socket, and read its logs."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.client import Connection, Response, build_request
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.servers import SERVERS
from tests.support.waiting import INTERVAL, wait_for


class Service(Process):
    """A running service. The context manager kills all processes at the end, and checks that no ID has two lines."""

    interval = INTERVAL
    """Seconds between two checks whether the service is ready."""

    def __init__(
        self,
        project: Path,
        work: Path,
        *,
        server: str = "gunicorn",
        app: str = "probe:app",
        env: Mapping[str, str] | None = None,
        workers: int = 2,
        log_path: Path | None = None,
        command: Callable[[str, int], list[str]] | None = None,
        wait: bool = True,
    ) -> None:
        self.port = free_port()
        own = {"HOST": "127.0.0.1", "PORT": str(self.port), "WORKERS": str(workers)}
        own |= {"LOG_PATH": str(log_path)} if log_path else {}
        super().__init__(project, work, (command or SERVERS[server])(app, self.port), own | dict(env or {}), log_path)
        self._wait = wait

    def __enter__(self) -> Self:
        self.launch()
        try:
            if self._wait:
                wait_for(self._ready, "readiness", interval=self.interval)
        except BaseException as error:
            self.kill()
            error.add_note(self.output())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.settle()
        self.kill()
        if error is None:
            self.check_single()

    # The process

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"exit code {self.process.returncode}"
        return self.is_ready()

    def is_ready(self) -> bool:
        """Whether the service responds, and gunicorn has started all workers."""
        try:
            return self.request("GET", "/livez").status == 200 and self._has_all_workers()
        except (OSError, EOFError):
            return False

    def _has_all_workers(self) -> bool:
        # gunicorn starts workers one after the other: the first may respond before the second exists.
        return self.command[0] != "gunicorn" or len(self.workers()) >= int(self.env.get("WORKERS", "1"))

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait until the readiness check passes in every worker: each has its own connections to brokers."""
        wait_for(self._all_are_ready, "readiness of every worker", seconds=timeout)

    def _all_are_ready(self) -> bool:
        missing = set(self.workers())
        # Connections stay open until all workers are found, so that other workers accept the next ones.
        with ExitStack() as stack:
            for _ in range(50):
                connection = stack.enter_context(self.connect())
                if connection.request("GET", "/readyz").status != 200:
                    return False
                missing.discard(self._worker_of(connection))
                if not missing:
                    return True
        return False

    def _worker_of(self, connection: Connection) -> int:
        ours = f":{connection.socket.getsockname()[1]:04X} "
        rows = Path("/proc/net/tcp").read_text().splitlines()
        (inode,) = (row.split()[9] for row in rows if ours in row.partition(f":{self.port:04X} ")[2])
        return next(pid for pid in self.workers() if f"socket:[{inode}]" in open_files(pid))

    # Requests

    def connect(self, timeout: float = 60.0) -> Connection:
        """Open a connection."""
        return Connection(self.port, timeout=timeout)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        request_id: str | None = None,
    ) -> Response:
        """Send one request on a new connection, and return the response."""
        with self.connect() as connection:
            connection.send(build_request(method, target, headers, body, request_id=request_id))
            return connection.read_response(method)

    def raw(self, data: bytes, method: str = "GET") -> Response:
        """Send bytes unmodified on a new connection, and return one response."""
        with self.connect() as connection:
            connection.send(data)
            return connection.read_response(method)


def open_files(pid: int) -> set[str]:
    """Return the open files of a process as /proc names them: paths, `socket:[…]`."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(path.readlink()))
    return found
