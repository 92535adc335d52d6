"""The page on a soak."""

from collections.abc import Mapping, Sequence

from benchmarks.soaking.faults import GROWTH
from benchmarks.soaking.kinds import KINDS, Sent
from benchmarks.soaking.lines import Written
from benchmarks.soaking.mixed import CONNECTIONS
from benchmarks.soaking.watch import WARM_UP, Trend, Watched

HEAD = "| kind | status | sent | access lines |"
ALL_HOLD = (
    "Every bound holds: each request was answered once, with the status that it should have; it left as many access "
    "lines as it should, each with an ID of its own; each line was read strictly; no worker died."
)


def words(sent: Sent, watched: Watched, trends: Mapping[int, Trend], faults: Sequence[str]) -> list[str]:
    """Give what stands above the table."""
    return [
        "# Soak",
        "",
        f"{sent.kinds.total():,} requests in {watched.seconds:.0f} s, {len(watched.before)} workers, lines in files.",
        f"{CONNECTIONS} connections of wrk mix the kinds, and one client does what wrk cannot.",
        "",
        *([ALL_HOLD] if not faults else [f"- {fault}" for fault in faults]),
        "",
        f"Memory: resident, in KiB, without the first {WARM_UP:.0%} of the lines; at most {GROWTH} may come to it.",
        "Slope: of a linear regression over what is left. PSS: KiB, idle again.",
        "Descriptors: idle before, under load at most, idle again. Threads: idle before, idle again.",
        "",
        *workers(watched, trends),
    ]


def workers(watched: Watched, trends: Mapping[int, Trend]) -> list[str]:
    """Give the table of the workers."""
    head = (
        "| worker | after warm-up | at the end | growth | slope, bytes per 1,000 lines | PSS | descriptors | threads |"
    )
    lines = [head, "|---" * 8 + "|"]
    for number, (pid, after) in enumerate(watched.after.items(), 1):
        found, before = trends[pid], watched.before[pid]
        most = max(one.descriptors for one in watched.under_load[pid])
        memory = f"{found.after_warm_up:.0f} | {found.at_end:.0f} | {found.growth:+.0f} | {found.slope:+.0f}"
        held = f"{before.descriptors}, {most}, {after.descriptors} | {before.threads}, {after.threads}"
        lines.append(f"| {number} | {memory} | {after.pss} | {held} |")
    return lines


def rows(sent: Sent, written: Written) -> list[str]:
    """Give the rows of the table: each kind, what was sent, and its lines."""
    lines = []
    for name, kind in KINDS.items():
        count = written.access.counts[name, kind.status]
        lines.append(f"| {name} | {kind.status or '-'} | {sent.kinds[name]:,} | {count:,} |")
    return lines
