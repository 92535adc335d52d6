"""A syslog server that collects the log lines of containers, so that none is lost when a container is removed."""

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
    """The lines received from the syslog logging driver of the container engine."""

    def __init__(self) -> None:
        self._statuses: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in ("nginx", "api")}
        self._servers: dict[str, str] = {}
        self.logging: dict[str, Any] = {}
        """The `logging` section of a compose service whose lines are to be collected."""

    @classmethod
    @contextmanager
    def run(cls) -> Iterator[Self]:
        collector = cls()

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    collector.receive(line.decode())

        with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            options = {"syslog-address": f"tcp://127.0.0.1:{server.server_address[1]}", "tag": "{{.Name}}"}
            collector.logging = {"logging": {"driver": "syslog", "options": options}}
            Thread(target=server.serve_forever, daemon=True).start()
            yield collector
            server.shutdown()

    def receive(self, message: str) -> None:
        """Record the status and container of an access log line, of nginx or of the service; ignore other lines."""
        found = _MESSAGE.match(message)
        assert found, message
        line: dict[str, Any] = json.loads(found["text"]) if found["text"].startswith("{") else {}
        if "status" in line:
            service = "nginx" if line.get("logger") == "nginx" else "api"
            self._statuses[service][line["request_id"]].append(line["status"])
            if service == "api":
                self._servers[line["request_id"]] = found["container"]

    def requests_per_container(self, request_ids: set[str]) -> Counter[str]:
        """Return the number of these requests that each container of the service has served."""
        return Counter(self._servers[request_id] for request_id in request_ids if request_id in self._servers)

    def wait_for(self, request_ids: set[str], service: str) -> dict[str, list[int]]:
        """Wait for an access log line of each request; return the statuses of all lines, by request ID.

        A second line of a request would have arrived by then, before those of later requests; the last few requests
        are the exception.
        """
        statuses = self._statuses[service]
        wait_for(lambda: request_ids <= statuses.keys(), f"a line of {service} for each request")
        return dict(statuses)
