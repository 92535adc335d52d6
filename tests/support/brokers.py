"""Real brokers for the tests, each on a free loopback port: tests stop, kill and restart them; their data survives."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.waiting import wait_for

HOST = "127.0.0.1"


class Broker:
    """A server process. The context manager starts it; at the end it kills the process and deletes its files."""

    scheme = ""
    path = ""
    start_timeout = 20.0

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"trail-{type(self).__name__.lower()}-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"{self.scheme}://{HOST}:{self.port}{self.path}"

    def command(self) -> list[str]:
        """Return the command that starts the server in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return additional environment variables for the server."""
        return {}

    def prepare(self) -> None:
        """Create what the server needs before its first start."""

    def is_ready(self) -> bool:
        """Return whether the server accepts connections."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(self.is_ready, f"readiness of {type(self).__name__}", self.start_timeout)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send SIGTERM, or SIGKILL to the whole process group, and wait for the exit."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)
            self.process.wait(30)
            self.process = None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group of the server."""
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def restart(self) -> None:
        """Stop and start the server; its data survives."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException as error:
            if (output := self.folder / "output.txt").exists():
                error.add_note(output.read_text("utf-8", "replace")[-4000:])
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis(Broker):
    """Redis, which here writes each command to disk before it responds."""

    scheme, path = "redis", "/0"

    def command(self) -> list[str]:
        """Return the command."""
        server = str(program("redis-server", "redis-server"))
        storage = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        return [server, "--bind", HOST, "--port", str(self.port), *storage]


class Nats(Broker):
    """NATS with JetStream."""

    scheme = "nats"

    def command(self) -> list[str]:
        """Return the command."""
        server = str(program("nats-server", "nats-server"))
        return [server, "-a", HOST, "-p", str(self.port), "-js", "-sd", str(self.folder)]


class RabbitMQ(Broker):
    """RabbitMQ, with every port on loopback."""

    scheme, path, seconds = "amqp", "//", 60.0

    def __init__(self) -> None:
        super().__init__()
        self.distribution_port, self.epmd_port = free_port(), free_port()

    def command(self) -> list[str]:
        """Return the command of the server itself: Debian's wrapper switches to another user."""
        program("rabbitmqctl", "rabbitmq-server")
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environment(self) -> Mapping[str, str]:
        """Return the variables that keep its files in its folder and its ports on loopback."""
        return {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"trail{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.epmd_port),
        }

    def is_ready(self) -> bool:
        """Return whether it speaks AMQP: to an unsupported version, the server responds with the one it supports."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as connection:
            connection.sendall(b"AMQP\x00\x00\x00\x00")
            return connection.recv(4) == b"AMQP"
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the server, and kill the port mapper (epmd) that it started."""
        super().stop(number)
        subprocess.run(["pkill", "-f", f"epmd.*{self.epmd_port}"], check=False)
        # If the port is not in the command line of epmd, it is in its environment.
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                is_epmd = (process / "comm").read_text().strip() == "epmd"
                if is_epmd and f"ERL_EPMD_PORT={self.epmd_port}".encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


class Postgres(Broker):
    """PostgreSQL. It refuses to run as root, so root runs it as the user `postgres` of Debian's package."""

    scheme = "postgresql"

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def _as_user(self, *command: str) -> list[str]:
        if os.geteuid() != 0:
            return list(command)
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]

    def _program(self, name: str) -> str:
        program("pg_ctlcluster", "postgresql")
        return str(max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))

    def prepare(self) -> None:
        """Create the database files."""
        initdb = self._program("initdb")
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        arguments = [initdb, "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(self._as_user(*arguments), check=True, capture_output=True, cwd="/")

    def command(self) -> list[str]:
        """Return the command."""
        options = {"port": self.port, "listen_addresses": HOST, "unix_socket_directories": ""}
        arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        return self._as_user(self._program("postgres"), "-D", str(self.folder / "data"), *arguments)

    def is_ready(self) -> bool:
        """Return whether it accepts clients: the port is open earlier, so its log must also say so."""
        output = (self.folder / "output.txt").read_text("utf-8", "replace")
        return super().is_ready() and "ready to accept connections" in output.rpartition("starting PostgreSQL")[2]


BROKERS: dict[str, Callable[[], Broker]] = {"redis": Redis, "nats": Nats, "rabbitmq": RabbitMQ, "postgres": Postgres}
"""The brokers by the names that the tests use."""
