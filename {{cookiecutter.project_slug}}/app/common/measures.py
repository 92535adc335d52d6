"""What an integration measures besides requests, for whoever counts it: nobody does while the table is empty."""

from collections.abc import Callable, Mapping
from typing import Final

measure_watchers: Final[dict[str, Callable[[str, float, Mapping[str, str]], None]]] = {}
"""Who is told of each measurement: its name, the seconds, and its labels, of which there is an end."""


def measure(name: str, seconds: float, **labels: str) -> None:
    """Tell of a measurement; those who are told must not raise."""
    for told in measure_watchers.values():
        told(name, seconds, labels)
