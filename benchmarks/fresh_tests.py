"""`make test` in a fresh project without a `.venv`: how long it takes, and each command in it."""

from pathlib import Path

from benchmarks.generating import Bench, Taken, seconds

ROUNDS = 3
TIMED_UV = """#!/bin/sh
began=$(date +%s.%N)
"{uv}" "$@"
code=$?
echo "$began $(date +%s.%N) $*" >> "{times}"
exit $code
"""


def timed_uv(folder: Path, uv: Path) -> tuple[Path, Path]:
    """Write a script that does what uv does, and notes how long it took; give it, and where it does so."""
    script, times = folder / "timed-uv", folder / "times"
    script.write_text(TIMED_UV.format(uv=uv, times=times), encoding="utf-8")
    script.chmod(0o755)
    return script, times


def commands_in(times: Path) -> dict[str, Taken]:
    """Give the seconds of each command that was given to uv."""
    found = {}
    for line in times.read_text("utf-8").splitlines():
        began, ended, words = line.split(" ", 2)
        name = words.removeprefix("run --no-sync ").removeprefix("python -m ")
        found[name if name != words else f"uv {words}"] = Taken(float(ended) - float(began))
    return found


def testing(bench: Bench, uv: Path) -> dict[str, list[Taken]]:
    """Give the seconds of `make test` in a fresh project, and of each of its commands."""
    script, times = timed_uv(bench.folder, uv)
    found: dict[str, list[Taken]] = {}
    for number in range(ROUNDS + 1):
        seconds(bench.command(), bench.folder)
        (project,) = (bench.folder / "output").iterdir()
        times.unlink(missing_ok=True)
        whole = seconds(["make", "test", f"UV={script}"], project)
        if number:  # the first round fills uv's cache
            for name, taken in {"whole": whole, **commands_in(times)}.items():
                found.setdefault(f"`make test`: {name}", []).append(taken)
    return found
