"""The results page of the soak test."""

from collections.abc import Mapping, Sequence

from benchmarks.soaking.faults import GROWTH
from benchmarks.soaking.kinds import KINDS, SentCounts
from benchmarks.soaking.lines import LogContents
from benchmarks.soaking.mixed import CONNECTIONS
from benchmarks.soaking.watch import WARM_UP, Trend, WorkerSamples

HEAD = "| kind of request | status | requests | access log lines |"
ALL_PASSED = (
    "All checks passed. Each request got one response with the expected status and wrote the expected number of access "
    "log lines. No request ID occurred twice, a strict parser accepted every log line, and no worker died."
)


def intro(sent: SentCounts, samples: WorkerSamples, trends: Mapping[int, Trend], faults: Sequence[str]) -> list[str]:
    """Return the lines above the table of the kinds."""
    return [
        "# Soak test",
        "",
        f"{len(samples.before)} workers served {sent.kinds.total():,} requests in {samples.seconds:.0f} s.",
        f"wrk sent mixed requests over {CONNECTIONS} connections.",
        "A second client sent the requests that wrk cannot send. The workers logged to files.",
        "",
        *([ALL_PASSED] if not faults else [f"- {fault}" for fault in faults]),
        "",
        f"- RSS is the resident memory. The warm-up is the first {WARM_UP:.0%} of the access log lines.",
        f"  After the warm-up, the RSS of a worker may grow by at most {GROWTH} KiB.",
        "- The slope is that of a linear regression over the samples after the warm-up.",
        "- PSS is measured when the workers are idle again.",
        "- File descriptors are counted before the load, under load (maximum), and when the workers are idle again.",
        "- Threads are counted before the load, and when the workers are idle again.",
        "",
        *worker_table(samples, trends),
    ]


def worker_table(samples: WorkerSamples, trends: Mapping[int, Trend]) -> list[str]:
    """Return the lines of the table of the workers."""
    head = (
        "| worker | RSS after the warm-up, KiB | RSS at the end, KiB | growth, KiB | slope, bytes per 1,000 lines "
        "| PSS, KiB | file descriptors | threads |"
    )
    lines = [head, "|---" * 8 + "|"]
    for number, (pid, after) in enumerate(samples.after.items(), 1):
        trend, before = trends[pid], samples.before[pid]
        most = max(one.descriptors for one in samples.under_load[pid])
        memory = f"{trend.after_warm_up:.0f} | {trend.at_end:.0f} | {trend.growth:+.0f} | {trend.slope:+.0f}"
        counts = f"{before.descriptors}, {most}, {after.descriptors} | {before.threads}, {after.threads}"
        lines.append(f"| {number} | {memory} | {after.pss} | {counts} |")
    return lines


def rows(sent: SentCounts, logs: LogContents) -> list[str]:
    """Return the table rows: each kind with its numbers of requests and access log lines."""
    lines = []
    for name, kind in KINDS.items():
        count = logs.access.counts[name, kind.status]
        lines.append(f"| {name} | {kind.status or '-'} | {sent.kinds[name]:,} | {count:,} |")
    return lines
