"""A service and a worker with a broker between them, shared by tests of which each may stop any of the three."""

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
from tests.support.workers import Worker, wait_for_trail


@dataclass
class System:
    """A context manager: starts service and worker, whose broker runs already, and leaves no process behind."""

    broker: Broker
    service: Service
    worker: Worker

    @property
    def places(self) -> tuple[Service, Worker]:
        """Where lines are written."""
        return self.service, self.worker

    def __enter__(self) -> Self:
        self.worker.start(wait=False)  # both import much: together they take hardly longer than one
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
            self.service.__exit__(kind, error, trace)  # raises where an ID has two access lines
        finally:
            self.worker.__exit__(kind, error, trace)

    def revive(self) -> Self:
        """Start again what the test before has stopped."""
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

    def ask(self, target: str, status: int = 202, *, method: str = "POST", request_id: str = "") -> str:
        """Send a request that is answered with this status under its own ID, and return the ID."""
        request_id = request_id or new_id("work")
        answer = self.service.request(method, target, request_id=request_id)
        assert (answer.status, answer.one(), answer.json()["request_id"]) == (status, request_id, request_id), answer
        return request_id

    def lines(self, request_id: str, count: int, containing: str = "") -> list[AppLine]:
        """Wait for lines of a request with these words."""
        return wait_for_trail(self.places, request_id, count, containing, timeout=30)

    def check_refused(self, target: str, cause: str, check: str) -> None:
        """Without its broker the service refuses work within 5 seconds, is not ready, and serves everything else."""
        began = time.monotonic()
        answer = self.service.request("POST", target, request_id=(request_id := new_id("refused")))
        assert time.monotonic() - began < scaled(5)
        body = answer.json()
        assert (answer.status, answer.one(), body["request_id"]) == (503, request_id, request_id), answer
        assert (body["cause"], body["result"]) == (cause, None)
        ready = self.service.request("GET", "/readyz")
        assert (ready.status, ready.json()["cause"]) == (503, f"{check}: {cause}")
        assert self.service.request("GET", "/livez").status == 200
