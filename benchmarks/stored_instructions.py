"""The counted instructions that are kept in the repository, and what has moved since."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.report import RESULTS

TOLERANCE = 0.03
"""The share by which a figure may move either way."""
STORED = RESULTS / "instructions.json"


def stored() -> dict[str, Any]:
    """Give what is stored: for each minor version of Python, the versions and the instructions."""
    found: dict[str, Any] = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
    return found


def store(minor: str, found: Mapping[str, int], by: Mapping[str, str]) -> None:
    """Keep the figures of one minor version of Python; those of others stay."""
    content = {**stored(), minor: {"instructions": found, "versions": by}}
    RESULTS.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def faults(minor: str, found: Mapping[str, int], by: Mapping[str, str]) -> list[str]:
    """Give a sentence for each figure that is not as it was stored, or one that says why nothing can be compared."""
    before = stored().get(minor)
    if before is None:
        return [f"No figures are stored for Python {minor}: --store writes these."]
    other: list[str] = []
    if before["versions"] != dict(by):
        names = sorted(name for name in {*by, *before["versions"]} if by.get(name) != before["versions"].get(name))
        changes = ", ".join(f"{name} {before['versions'].get(name)} became {by.get(name)}" for name in names)
        other = [f"The stored figures are of other versions ({changes}): --store writes these."]
    known: dict[str, int] = before["instructions"]
    return other + [fault for name in found if (fault := compare(name, found[name], known.get(name, 0)))]


def compare(name: str, now: int, before: int) -> str:
    """Give a sentence when a figure has moved further than it may, either way; else nothing."""
    if not before:
        return f"{name}: no figure is stored; --store writes these."
    if abs(now - before) <= TOLERANCE * before:
        return ""
    more, advice = ("more", "Shorten the path again, or, if it must be, s") if now > before else ("fewer", "S")
    return (
        f"{name}: {now:,} instructions a request are {abs(now / before - 1):.1%} {more} than the stored {before:,} "
        f"(allowed: {TOLERANCE:.0%}). {advice}tore the new figure with --store."
    )
