"""A service and a worker that share a broker. Tests share them too, and each test may stop any of the three."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.brokers import Broker
from tests.support.client import new_id
from tests.support.lines import AppLine
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for
from tests.support.workers import Worker, wait_for_app_lines


@dataclass
class System:
    """A context manager that starts and stops the service and the worker; the broker must already be running."""

    broker: Broker
    service: Service
    worker: Worker

    @property
    def processes(self) -> tuple[Service, Worker]:
        """The processes that write log lines."""
        return self.service, self.worker

    def __enter__(self) -> Self:
        self.worker.start(wait=False)  # the worker starts in parallel with the service, as imports are slow
        try:
            self.service.__enter__()
            wait_for(lambda: self.worker.ready in self.worker.output(), "readiness of the worker")
            self.service.wait_ready()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.service.__exit__(kind, error, trace)  # raises AssertionError if an ID has two access log lines
        finally:
            self.worker.__exit__(kind, error, trace)

    def restart_stopped(self) -> Self:
        """Start what the previous test has stopped."""
        missing = self.broker.process is None or self.service.process.poll() is not None
        if self.broker.process is None:
            self.broker.start()
        if self.service.process.poll() is not None:
            self.service.__enter__()
        if self.worker.process.poll() is not None:
            self.worker.start()
        if missing:
            self.service.wait_ready()
        return self

    def send(self, target: str, status: int = 202, *, method: str = "POST", request_id: str = "") -> str:
        """Send a request, check the status and the ID of the response, and return the ID."""
        request_id = request_id or new_id("work")
        response = self.service.request(method, target, request_id=request_id)
        found = (response.status, response.header(), response.json()["request_id"])
        assert found == (status, request_id, request_id), response
        return request_id

    def lines(self, request_id: str, count: int, containing: str = "") -> list[AppLine]:
        """Wait for `count` lines of a request whose message contains a text."""
        return wait_for_app_lines(self.processes, request_id, count, containing, timeout=30)

    def check_refused(self, target: str, cause: str, check: str) -> None:
        """Check the service without its broker: it rejects tasks within 5 seconds, is not ready, and is alive."""
        began = time.monotonic()
        response = self.service.request("POST", target, request_id=(request_id := new_id("refused")))
        assert time.monotonic() - began < scaled(5)
        body = response.json()
        assert (response.status, response.header(), body["request_id"]) == (503, request_id, request_id), response
        assert (body["cause"], body["result"]) == (cause, None)
        ready = self.service.request("GET", "/readyz")
        assert (ready.status, ready.json()["cause"]) == (503, f"{check}: {cause}")
        assert self.service.request("GET", "/livez").status == 200
