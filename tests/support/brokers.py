"""Real brokers for the tests, on loopback, at ports of their own: they stop, die, and come back with what they kept."""

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
    """A server in a process of its own; a context manager that leaves neither process nor file behind."""

    scheme = ""
    path = ""
    seconds = 20.0

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"trail-{type(self).__name__.lower()}-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"{self.scheme}://{HOST}:{self.port}{self.path}"

    def command(self) -> list[str]:
        """Give the words that start it in the foreground."""
        raise NotImplementedError

    def variables(self) -> Mapping[str, str]:
        """Give what it reads from the environment."""
        return {}

    def prepare(self) -> None:
        """Make what it needs before its first start."""

    def answers(self) -> bool:
        """Tell whether it serves clients."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def start(self) -> None:
        """Start it, and return when it serves."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={**os.environ, **self.variables()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(self.answers, type(self).__name__, seconds=self.seconds)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end, or kill it, and return when it is gone."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(self.process.pid, number)
            self.process.wait(30)
            self.process = None

    def tell(self, number: int) -> None:
        """Send a signal to it, and to what it has started."""
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def restart(self) -> None:
        """Let it go, and come back with what it has kept."""
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
    """Redis that writes each command to disk before it answers."""

    scheme, path = "redis", "/0"

    def command(self) -> list[str]:
        """Give the words."""
        server = str(program("redis-server", "redis-server"))
        kept = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        return [server, "--bind", HOST, "--port", str(self.port), *kept]


class Nats(Broker):
    """NATS with JetStream."""

    scheme = "nats"

    def command(self) -> list[str]:
        """Give the words."""
        server = str(program("nats-server", "nats-server"))
        return [server, "-a", HOST, "-p", str(self.port), "-js", "-sd", str(self.folder)]


class RabbitMQ(Broker):
    """RabbitMQ, none of whose ports is open to others."""

    scheme, path, seconds = "amqp", "//", 60.0

    def __init__(self) -> None:
        super().__init__()
        self.distribution, self.epmd = free_port(), free_port()

    def command(self) -> list[str]:
        """Give the words: not those of Debian's wrapper, which changes the user."""
        program("rabbitmqctl", "rabbitmq-server")
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def variables(self) -> Mapping[str, str]:
        """Give what keeps it in its folder and on loopback."""
        return {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"trail{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.epmd),
        }

    def answers(self) -> bool:
        """Tell whether it speaks AMQP: it asks whoever speaks another version to use its own."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as connection:
            connection.sendall(b"AMQP\x00\x00\x00\x00")
            return connection.recv(4) == b"AMQP"
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and the helper that it has started."""
        super().stop(number)
        subprocess.run(["pkill", "-f", f"epmd.*{self.epmd}"], check=False)
        # The helper is found by its port only in its environment.
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ProcessLookupError):
                is_it = (process / "comm").read_text().strip() == "epmd"
                if is_it and f"ERL_EPMD_PORT={self.epmd}".encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


class Postgres(Broker):
    """PostgreSQL, which root may not run: then it is run by the user that Debian's package makes."""

    scheme = "postgresql"

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def _as_user(self, *words: str) -> list[str]:
        if os.geteuid() != 0:
            return list(words)
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]

    def _program(self, name: str) -> str:
        program("pg_ctlcluster", "postgresql")
        return str(max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))

    def prepare(self) -> None:
        """Make the database's files."""
        initdb = self._program("initdb")
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        made = [initdb, "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(self._as_user(*made), check=True, capture_output=True, cwd="/")

    def command(self) -> list[str]:
        """Give the words."""
        options = {"port": self.port, "listen_addresses": HOST, "unix_socket_directories": ""}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return self._as_user(self._program("postgres"), "-D", str(self.folder / "data"), *words)

    def answers(self) -> bool:
        """Tell whether it takes clients: its line says so, its port is open before."""
        output = (self.folder / "output.txt").read_text("utf-8", "replace")
        return super().answers() and "ready to accept connections" in output.rpartition("starting PostgreSQL")[2]


BROKERS: dict[str, Callable[[], Broker]] = {"redis": Redis, "nats": Nats, "rabbitmq": RabbitMQ, "postgres": Postgres}
"""By the names that tests give them."""
