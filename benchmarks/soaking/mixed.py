"""The bulk of the soak's requests, made by wrk with a script in Lua that mixes the kinds and counts what comes back."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.soaking.kinds import MIXED, Sent

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("mixed.lua")


def lua_kinds() -> str:
    """Give the kinds as Lua's tables; its strings are written as those of JSON, as far as they are ASCII."""
    return ", ".join(
        f"{{name={json.dumps(name)}, share={kind.share}, text={json.dumps(kind.text)}}}" for name, kind in MIXED.items()
    )


@contextmanager
def started(port: int, requests: int, folder: Path, limit: float) -> Iterator[subprocess.Popen[str]]:
    """Run wrk, which ends when all requests are answered, or after `limit` seconds, or with this."""
    script = folder / "mixed.lua"
    given = f"local kinds, limit = {{{lua_kinds()}}}, {requests}\n"
    script.write_text(given + SCRIPT.read_text("utf-8"), encoding="utf-8")
    times = [f"-d{limit:.0f}s", "--timeout", "30s"]
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", *times, "-s", str(script), f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            yield wrk
        finally:
            wrk.kill()


def counted(wrk: subprocess.Popen[str]) -> Sent:
    """Give what the script has printed; raises SystemExit with a sentence when it has not come to its end."""
    assert wrk.stdout is not None
    words = [line.split("\t") for line in wrk.stdout.read().splitlines() if line.count("\t") == 2]  # noqa: PLR2004
    if not any(what == "nameless" for what, _, _ in words):
        raise SystemExit("Not every request was answered before the time was over.")
    kinds = Counter({name: int(count) for what, count, name in words if what == "sent"})
    statuses = Counter({int(code): int(count) for what, count, code in words if what == "status"})
    return Sent(kinds, statuses, sum(int(count) for what, count, _ in words if what == "nameless"))
