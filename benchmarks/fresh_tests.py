"""Times `make test`, and each uv command in it, in a new project without a `.venv`."""

from pathlib import Path

from benchmarks.generating import Bench, Duration, run_timed

ROUNDS = 3
TIMED_UV = """#!/bin/sh
began=$(date +%s.%N)
"{uv}" "$@"
code=$?
echo "$began $(date +%s.%N) $*" >> "{times}"
exit $code
"""


def write_uv_wrapper(folder: Path, uv: Path) -> tuple[Path, Path]:
    """Write a script that runs uv and appends start time, end time and arguments to a file; return both paths."""
    script, times = folder / "timed-uv", folder / "times"
    script.write_text(TIMED_UV.format(uv=uv, times=times), encoding="utf-8")
    script.chmod(0o755)
    return script, times


def read_command_times(times: Path) -> dict[str, Duration]:
    """Return the duration of each uv command, by its shortened arguments."""
    found = {}
    for line in times.read_text("utf-8").splitlines():
        began, ended, words = line.split(" ", 2)
        name = words.removeprefix("run --no-sync ").removeprefix("python -m ")
        found[name if name != words else f"uv {words}"] = Duration(float(ended) - float(began))
    return found


def time_make_test(bench: Bench, uv: Path) -> dict[str, list[Duration]]:
    """Return the durations of `make test` in a new project and of each of its commands, one per round."""
    script, times = write_uv_wrapper(bench.folder, uv)
    found: dict[str, list[Duration]] = {}
    for number in range(ROUNDS + 1):
        run_timed(bench.command(), bench.folder)
        (project,) = (bench.folder / "output").iterdir()
        times.unlink(missing_ok=True)
        total = run_timed(["make", "test", f"UV={script}"], project)
        if number:  # the first round fills uv's cache
            for name, duration in {"total": total, **read_command_times(times)}.items():
                found.setdefault(f"`make test`: {name}", []).append(duration)
    return found
