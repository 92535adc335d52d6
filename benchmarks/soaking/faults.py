"""What a soak must show: each broken bound becomes a sentence."""

from collections import Counter
from collections.abc import Mapping

from benchmarks.soaking.kinds import DEMO, KINDS, Sent
from benchmarks.soaking.lines import Written
from benchmarks.soaking.watch import Trend, Watched

GROWTH = 2048
"""KiB of memory that a worker may have more at the end than after the warm-up."""


def of_answers(sent: Sent) -> list[str]:
    """Give a sentence for each status that did not come as often as it was asked for."""
    expected: Counter[int] = Counter()
    for name, count in sent.kinds.items():
        if not name.startswith("client leaves"):
            expected[KINDS[name].status] += count
    found = [
        f"{sent.statuses[status]} answers have the status {status}, and {expected[status]} should."
        for status in sorted(expected | sent.statuses)
        if sent.statuses[status] != expected[status]
    ]
    return found + ([f"{sent.nameless} answers have no ID."] if sent.nameless else [])


def of_lines(sent: Sent, written: Written) -> list[str]:
    """Give a sentence for each kind whose lines are not as many as its requests, and for what is wrong with a line."""
    wanted = {(name, KINDS[name].status): count for name, count in sent.kinds.items() if KINDS[name].leaves_line}
    expected, counts = Counter(wanted), written.access.counts
    found = [
        f"{counts[key]} access lines say {key[1]} of {key[0] or 'no kind'!r}, and {expected[key]} should."
        for key in sorted(expected | counts)
        if counts[key] != expected[key]
    ]
    return found + [f"{count} {what}." for what, count in _wrong(sent, written).items() if count]


def _wrong(sent: Sent, written: Written) -> dict[str, int]:
    access, demo, errors = written
    return {
        "access lines are torn": access.torn,
        "access lines are of no kind": access.strange,
        "IDs came twice": access.doubled,
        "lines of demo.log are torn": demo.torn,
        "lines of error.log are torn": errors.torn,
        "lines of demo.log are missing": sum(sent.kinds[name] for name in DEMO) - demo.messages["demo"],
        "tracebacks are missing": sent.kinds["failed, with a traceback"] - errors.messages["Unhandled RuntimeError"],
    }


def of_workers(watched: Watched, trends: Mapping[int, Trend]) -> list[str]:
    """Give a sentence when a worker has died, or holds more than before."""
    found = []
    if sorted(watched.before) != sorted(watched.at_end):
        found.append("The workers are not those that were there at the start: one has died.")
    for pid, after in watched.after.items():
        before, growth = watched.before[pid], trends[pid].growth
        if growth > GROWTH:
            found.append(f"A worker has {growth:.0f} KiB more than after its warm-up, and {GROWTH} are allowed.")
        if after.descriptors != before.descriptors:
            found.append(f"An idle worker had {before.descriptors} descriptors, and has {after.descriptors} now.")
        if after.threads != before.threads:
            found.append(f"An idle worker had {before.threads} threads, and has {after.threads} now.")
    return found
