"""The requests of the soak test that wrk cannot send: pipelined, malformed, rejected, and with early disconnects."""

import threading
from collections import Counter
from collections.abc import Callable

from benchmarks.soaking.kinds import EDGE_CASES, PIPELINED, Kind, SentCounts
from tests.support.client import Connection

PAUSE = 0.02
"""Seconds between two rounds, so that the requests of wrk are not slowed down."""


class EdgeCaseClient(threading.Thread):
    """Sends each edge case in turn on a new connection, until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.sent = SentCounts(Counter(), Counter())
        self.error: BaseException | None = None
        self._stop_event = threading.Event()
        self._senders = {name: self._sender_for(name) for name in EDGE_CASES}

    def run(self) -> None:
        """Send rounds until stopped; an exception is stored in `error`."""
        try:
            while not self._stop_event.wait(PAUSE):
                self.send_round()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Wait for the current round to finish; raise RuntimeError if a round failed."""
        self._stop_event.set()
        self.join()
        if self.error is not None:
            raise RuntimeError("The client for edge cases failed.") from self.error

    def send_round(self) -> None:
        """Send one request of each kind."""
        for name, send in self._senders.items():
            with Connection(self.port, timeout=30) as connection:
                send(connection, name, EDGE_CASES[name])

    def _sender_for(self, name: str) -> Callable[[Connection, str, Kind], None]:
        senders = {
            "pipelined": self._send_pipelined,
            "client disconnects before the response": self._send_and_close,
            "client disconnects during the response": self._reset_in_response,
            "client disconnects during the request body": self._send_and_close,
            "client disconnects during the request head (no access log line)": self._close_in_head,
        }
        return senders.get(name, self._send_and_read)

    def _send_and_read(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1
        self.sent.statuses[connection.read_response().status] += 1

    def _send_pipelined(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode() * PIPELINED)
        self.sent.kinds[name] += PIPELINED
        for _ in range(PIPELINED):
            self.sent.statuses[connection.read_response().status] += 1

    def _send_and_close(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1

    def _reset_in_response(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1
        connection.socket.recv(1)  # without it, the reset could overtake the request
        connection.abort()

    def _close_in_head(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode()[:-4])
        self.sent.kinds[name] += 1
