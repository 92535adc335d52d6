"""Takes the lines of containers as they are written: the engine sends them here, and none goes with its container."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, Self

from tests.support.waiting import wait_for

_MESSAGE = re.compile(r"<\d+>\S+ +\d+ \S+ (?P<container>\S+)\[\d+\]: (?P<text>.*)")


class Collector:
    """What a server for the engine's syslog driver has taken."""

    def __init__(self) -> None:
        self._statuses: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in ("nginx", "api")}
        self._servers: dict[str, str] = {}
        self.logging: dict[str, Any] = {}
        """What a service in a compose file needs, so that its lines come here."""

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        collector = cls()

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    collector.take(line.decode())

        with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            options = {"syslog-address": f"tcp://127.0.0.1:{server.server_address[1]}", "tag": "{{.Name}}"}
            collector.logging = {"logging": {"driver": "syslog", "options": options}}
            Thread(target=server.serve_forever, daemon=True).start()
            yield collector
            server.shutdown()

    def take(self, message: str) -> None:
        """Keep what a line says, if it is one of nginx or an access line."""
        found = _MESSAGE.match(message)
        assert found, message
        line: dict[str, Any] = json.loads(found["text"]) if found["text"].startswith("{") else {}
        if "status" in line:
            service = "nginx" if line.get("logger") == "nginx" else "api"
            self._statuses[service][line["request_id"]].append(line["status"])
            if service == "api":
                self._servers[line["request_id"]] = found["container"]

    def shares(self, request_ids: set[str]) -> Counter[str]:
        """Return how many of these requests each container of the service has served."""
        return Counter(self._servers[request_id] for request_id in request_ids if request_id in self._servers)

    def wait_for(self, request_ids: set[str], service: str) -> dict[str, list[int]]:
        """Wait until each of these requests has a line of a service; return the statuses of all, by ID.

        A second line of a request would have come by then, as those of later requests have, except for the last few.
        """
        statuses = self._statuses[service]
        wait_for(lambda: request_ids <= statuses.keys(), f"a line of {service} for each request")
        return dict(statuses)
