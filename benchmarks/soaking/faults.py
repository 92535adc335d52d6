"""The checks of the soak test: each violation becomes a sentence."""

from collections import Counter
from collections.abc import Mapping

from benchmarks.soaking.kinds import DEMO, KINDS, SentCounts
from benchmarks.soaking.lines import LogContents
from benchmarks.soaking.watch import Trend, WorkerSamples

GROWTH = 2048
"""KiB by which the memory of a worker may grow between the warm-up and the end."""


def response_faults(sent: SentCounts) -> list[str]:
    """Return a sentence for each status whose number of responses is not the expected one."""
    expected: Counter[int] = Counter()
    for name, count in sent.kinds.items():
        if not name.startswith("client disconnects"):
            expected[KINDS[name].status] += count
    found = [
        f"Expected {expected[status]} responses with status {status}, got {sent.statuses[status]}."
        for status in sorted(expected | sent.statuses)
        if sent.statuses[status] != expected[status]
    ]
    return found + ([f"{sent.without_id} responses have no ID."] if sent.without_id else [])


def log_faults(sent: SentCounts, logs: LogContents) -> list[str]:
    """Return a sentence for each kind whose numbers of lines and requests differ, and for each type of invalid line."""
    logged = {(name, KINDS[name].status): count for name, count in sent.kinds.items() if KINDS[name].is_logged}
    expected, counts = Counter(logged), logs.access.counts
    found = [
        f"Expected {expected[key]} access log lines of {key[0] or 'unknown'!r} with status {key[1]}, got {counts[key]}."
        for key in sorted(expected | counts)
        if counts[key] != expected[key]
    ]
    return found + [f"{count} {what}." for what, count in _invalid_lines(sent, logs).items() if count]


def _invalid_lines(sent: SentCounts, logs: LogContents) -> dict[str, int]:
    access, demo, errors = logs
    return {
        "access log lines are torn": access.torn,
        "access log lines belong to no kind of request": access.unknown,
        "access log lines repeat an ID": access.duplicates,
        "lines of demo.log are torn": demo.torn,
        "lines of error.log are torn": errors.torn,
        "lines of demo.log are missing": sum(sent.kinds[name] for name in DEMO) - demo.messages["demo"],
        "tracebacks are missing": sent.kinds["unhandled exception, with a traceback"]
        - errors.messages["Unhandled RuntimeError"],
    }


def worker_faults(samples: WorkerSamples, trends: Mapping[int, Trend]) -> list[str]:
    """Return a sentence if a worker has died, and for each resource that grew."""
    found = []
    if sorted(samples.before) != sorted(samples.at_end):
        found.append("The process IDs of the workers have changed: a worker died and was replaced.")
    for pid, after in samples.after.items():
        before, growth = samples.before[pid], trends[pid].growth
        if growth > GROWTH:
            found.append(
                f"The memory of a worker grew by {growth:.0f} KiB after the warm-up; the limit is {GROWTH} KiB."
            )
        if after.descriptors != before.descriptors:
            found.append(
                f"An idle worker had {before.descriptors} file descriptors before and {after.descriptors} after."
            )
        if after.threads != before.threads:
            found.append(f"An idle worker had {before.threads} threads before and {after.threads} after.")
    return found
