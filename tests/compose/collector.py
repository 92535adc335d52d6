"""Takes the lines of containers as they are written: the engine sends them here, and none goes with its container."""

import json
import re
import socketserver
import threading
from collections import Counter, defaultdict
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import wait_for

_MESSAGE = re.compile(r"<\d+>\S+ +\d+ \S+ (?P<container>\S+)\[\d+\]: (?P<text>.*)")


class Collector:
    """A server for the engine's syslog driver."""

    def __init__(self) -> None:
        self._statuses: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in ("nginx", "api")}
        self._servers: dict[str, list[str]] = defaultdict(list)
        collector = self

        class Handler(socketserver.StreamRequestHandler):
            """One container."""

            def handle(self) -> None:
                """Take its lines until it ends."""
                for line in self.rfile:
                    collector.take(line.decode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.socket.close()

    def take(self, message: str) -> None:
        """Keep what a line says, if it is one of nginx or an access line."""
        found = _MESSAGE.match(message)
        assert found, message
        line: dict[str, Any] = json.loads(found["text"]) if found["text"].startswith("{") else {}
        if "status" in line:
            service = "nginx" if line.get("logger") == "nginx" else "api"
            self._statuses[service][line["request_id"]].append(line["status"])
            self._servers[line["request_id"]].append(found["container"])

    def logging(self) -> dict[str, Any]:
        """Return what a service in a compose file needs, so that its lines come here."""
        options = {"syslog-address": f"tcp://127.0.0.1:{self._server.server_address[1]}", "tag": "{{.Name}}"}
        return {"logging": {"driver": "syslog", "options": options}}

    def shares(self, request_ids: set[str]) -> Counter[str]:
        """Return how many of these requests each container of the service has served."""
        served = Counter(name for request_id in request_ids for name in self._servers[request_id])
        return Counter({name: count for name, count in served.items() if "-nginx-" not in name})

    def wait_for(self, request_ids: set[str], service: str) -> dict[str, list[int]]:
        """Wait until each of these requests has a line of a service; return the statuses of all, by ID.

        A second line of a request would have come by then, as those of later requests have, except for the last few.
        """
        statuses = self._statuses[service]
        wait_for(lambda: request_ids <= statuses.keys(), f"a line of {service} for each request")
        return dict(statuses)
