"""`make drift` finds out whether generated services still work with the packages of today.

For a few combinations of options: generate, move every package up as far as pyproject.toml allows, run the service's
own checks, then serve it and follow real requests, since all tests can pass in a service that answers nothing.
"""

import argparse
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.combinations import Row, options, pairwise
from scripts.demo import came_up
from scripts.generate import clean_environment
from scripts.server import Server
from scripts.snapshot import ROOT, copy_repository
from scripts.terminal import end_by_interrupt
from scripts.trail import Step, Trail, follow

HOST = "127.0.0.1"
# More than one worker, and an access line for every request, also for those about health.
SETTINGS = "WORKERS=2\nACCESS_LOG_EXCLUDE=/nothing\n"
STEPS = (
    (Step("an answer", "/api/demo", given="order-4711-attempt-2"), {200}),
    (Step("a page that is not there", "/nowhere", logs=False), {404}),
    (Step("a value that is none", "/api/demo/wait?seconds=soon", logs=False), {422}),
    (Step("an error that nobody caught", "/api/demo/fail"), {500}),
    # An option may wait for a server that is not here, and has to say so.
    (Step("readiness", "/readyz", logs=False), {200, 503}),
)
# What `make drift` was told is not meant for the Makefile of the service.
OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
MOVED, HELD = "Moved up", "Newer than pyproject.toml allows"


class DriftError(Exception):
    """Something does not work. Its arguments: a sentence about it, and everything that was said."""


def run(folder: Path, uv: Path, *words: str | Path) -> str:
    """Run a command with `uv` on PATH and give all it says; raises DriftError when it does not end with 0."""
    command = [str(word) for word in words]
    variables = {name: value for name, value in clean_environment().items() if name not in OF_MAKE}
    variables["PATH"] = f"{uv.parent}{os.pathsep}{variables['PATH']}"
    # pytest cleans up in a folder that all its runs share, and fails when another one is faster.
    variables["TMPDIR"] = str(folder.parent)
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise DriftError(f"`{shlex.join(command)}` ends with {done.returncode}", done.stdout)
    return done.stdout


def generate(template: Path, work: Path, uv: Path, row: Row) -> Path:
    """Bake the template with the answers of a row, below the folder `work`, and give the project's folder."""
    settings, output = work / "settings.yaml", work / "output"
    settings.write_text(json.dumps({"replay_dir": str(work / "replay")}), "utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--config-file", str(settings)]
    run(work, uv, *command, "--output-dir", output, *(f"{name}={value}" for name, value in row.items()))
    return next(output.iterdir())


def update(project: Path, uv: Path, versions: dict[str, set[str]]) -> None:
    """Move every package up as far as pyproject.toml allows, install it, and note what moved and what could not."""
    run(project, uv, uv, "lock", "--check")  # a service is handed over with this lock, and the next line would mend it
    said = run(project, uv, uv, "lock", "--upgrade")
    versions[MOVED].update(re.findall(r"^(?:Added|Removed|Updated) (.+)$", said, re.MULTILINE))
    tree = run(project, uv, uv, "tree", "--locked", "--outdated", "--depth=1")
    held = re.findall(r"^\W+ (\S+ v\S+) .*\(latest: (v\S+)\)$", tree, re.MULTILINE)
    versions[HELD].update(f"{package} -> {latest}" for package, latest in held)
    run(project, uv, uv, "sync", "--quiet", "--locked")


def fault_of(trail: Trail, good: Collection[int]) -> str:
    """Say what is wrong with an answer; nothing when its status is a good one and the one ID is in every place."""
    what = f"GET {trail.step.path} ({trail.step.title})"
    if trail.status not in good:
        return f"{what} is answered with {trail.status}, not with {' or '.join(map(str, sorted(good)))}"
    if trail.step.given not in {None, trail.request_id}:
        return f"{what} does not keep the ID that it brings along"
    places = {"header": trail.header, "body": trail.body, "access line": trail.access}
    places |= {"log": trail.log} if trail.step.logs else {}
    missing = [place for place, words in places.items() if not trail.request_id or trail.request_id not in words]
    return f"{what} lacks its ID in: {', '.join(missing)}" if missing else ""


def first_fault(server: Server, port: int) -> str:
    """Send the requests and say what is wrong with the first that is not as it should be; nothing when all are."""
    if not came_up(server, HOST, port):
        return "gunicorn does not come up, or writes no access line with the ID"
    try:
        faults = (fault_of(follow(server, HOST, port, step), good) for step, good in STEPS)
        return next(filter(None, faults), "")
    except (OSError, HTTPException) as error:
        return f"A request is not answered: {error!r}"


def serve(project: Path) -> None:
    """Serve the project for as long as the requests take; raises DriftError when something is wrong."""
    (project / ".env").write_text(SETTINGS, "utf-8")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    server = Server(project, HOST, port)
    try:
        fault = first_fault(server, port)
    finally:
        server.stop()
    if not fault and server.process.returncode:
        fault = f"gunicorn ends with {server.process.returncode} when it is told to stop"
    if fault:
        raise DriftError(fault, "\n".join([*server.err, *server.out]))


def fault_with(template: Path, uv: Path, row: Row, versions: dict[str, set[str]]) -> tuple[str, ...]:
    """Do everything with one combination: nothing when it works, else a sentence and everything that was said."""
    with TemporaryDirectory() as name:
        try:
            project = generate(template, Path(name), uv, row)
            update(project, uv, versions)
            run(project, uv, "make", "test")
            serve(project)
        except DriftError as error:
            return error.args
    return ()


def main() -> int:
    """Check the rows, with a line for each; tell of the packages, then of what failed; 1 if anything did."""
    rows = dict(enumerate(pairwise(options()), start=1))
    parser = argparse.ArgumentParser(prog="make drift")
    parser.add_argument("uv", type=Path, help="the uv to work with")
    parser.add_argument("--only", type=int, choices=rows, help="the one combination to check, by its number")
    parser.add_argument("--template", type=Path, default=ROOT, help="the template to generate from")
    told = parser.parse_args()
    versions: dict[str, set[str]] = {MOVED: set(), HELD: set()}
    failed: list[tuple[str, ...]] = []
    with TemporaryDirectory() as name:
        template = copy_repository(Path(name) / "template", told.template)
        for number in [told.only] if told.only else rows:
            start = time.monotonic()
            fault = fault_with(template, told.uv.absolute(), rows[number], versions)
            chosen = ", ".join(option for option, value in rows[number].items() if value) or "no option"
            words = fault[0] if fault else "works"
            print(f"{number:>3} {time.monotonic() - start:>5.0f} s  {chosen}: {words}", flush=True)
            failed += [fault] if fault else []
    for title, packages in versions.items():
        print(f"\n{title}:", *sorted(packages) or ["nothing"], sep="\n  ")
    for sentence, said in failed:
        print(f"\n{sentence}. Everything that was said:\n\n{said}")
    return 1 if failed else 0


if __name__ == "__main__":
    end_by_interrupt()
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit("Stopped.")
