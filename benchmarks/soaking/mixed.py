"""Sends most requests of the soak test with wrk; a Lua script mixes the kinds and counts the responses."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.soaking.kinds import MIXED, SentCounts

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("mixed.lua")


def lua_kinds() -> str:
    """Return the kinds as Lua tables; JSON strings are valid Lua strings as long as they are ASCII."""
    return ", ".join(
        f"{{name={json.dumps(name)}, share={kind.share}, text={json.dumps(kind.text)}}}" for name, kind in MIXED.items()
    )


@contextmanager
def run_wrk(port: int, requests: int, folder: Path, limit: float) -> Iterator[subprocess.Popen[str]]:
    """Run wrk until all requests are answered, `limit` seconds have passed, or the context ends."""
    script = folder / "mixed.lua"
    variables = f"local kinds, limit = {{{lua_kinds()}}}, {requests}\n"
    script.write_text(variables + SCRIPT.read_text("utf-8"), encoding="utf-8")
    times = [f"-d{limit:.0f}s", "--timeout", "30s"]
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", *times, "-s", str(script), f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            yield wrk
        finally:
            wrk.kill()


def read_counts(wrk: subprocess.Popen[str]) -> SentCounts:
    """Return the counts that the script printed; raise SystemExit if it did not finish."""
    assert wrk.stdout is not None
    rows = [line.split("\t") for line in wrk.stdout.read().splitlines() if line.count("\t") == 2]  # noqa: PLR2004
    if not any(what == "without_id" for what, _, _ in rows):
        raise SystemExit("The time limit was reached before every request was answered.")
    kinds = Counter({name: int(count) for what, count, name in rows if what == "sent"})
    statuses = Counter({int(code): int(count) for what, count, code in rows if what == "status"})
    return SentCounts(kinds, statuses, sum(int(count) for what, count, _ in rows if what == "without_id"))
