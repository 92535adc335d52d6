"""The soak's requests that wrk cannot make: of clients that leave, malformed, pipelined, and refused handshakes."""

import threading
from collections import Counter
from collections.abc import Callable

from benchmarks.soaking.kinds import ODD, PIPELINED, Kind, Sent
from tests.support.client import Connection

PAUSE = 0.02
"""Seconds between two rounds, so that the bulk is not held up."""


class OddClient(threading.Thread):
    """Goes round the odd kinds on new connections until it is told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.sent = Sent(Counter(), Counter())
        self.error: BaseException | None = None
        self._stop_asked = threading.Event()
        self._ways = {name: self._way_of(name) for name in ODD}

    def run(self) -> None:
        """Make rounds; what breaks them is kept in `error`."""
        try:
            while not self._stop_asked.wait(PAUSE):
                self.round()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """Let the round end; raises RuntimeError when one was broken off."""
        self._stop_asked.set()
        self.join()
        if self.error is not None:
            raise RuntimeError("The client that breaks the rules could not go on.") from self.error

    def round(self) -> None:
        """Make each kind once."""
        for name, way in self._ways.items():
            with Connection(self.port, timeout=30) as connection:
                way(connection, name, ODD[name])

    def _way_of(self, name: str) -> Callable[[Connection, str, Kind], None]:
        ways = {
            "pipelined": self._pipeline,
            "client leaves before the answer": self._leave,
            "client leaves within the answer": self._break_off,
            "client leaves within its body": self._leave,
            "client leaves within the head (no line)": self._leave_head,
        }
        return ways.get(name, self._ask)

    def _ask(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1
        self.sent.statuses[connection.answer().status] += 1

    def _pipeline(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode() * PIPELINED)
        self.sent.kinds[name] += PIPELINED
        for _ in range(PIPELINED):
            self.sent.statuses[connection.answer().status] += 1

    def _leave(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1

    def _break_off(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode())
        self.sent.kinds[name] += 1
        connection.socket.recv(1)  # a reset would else overtake the request
        connection.abort()

    def _leave_head(self, connection: Connection, name: str, kind: Kind) -> None:
        connection.send(kind.text.encode()[:-4])
        self.sent.kinds[name] += 1
