"""`make drift`: check that generated services still work with the newest packages.

For a few combinations of options: generate a service, upgrade every package as far as pyproject.toml allows, run
`make test`, then start the service and check the IDs of real requests, as its tests can pass while the server fails.
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
from scripts.demo import wait_until_serving
from scripts.generate import clean_environment
from scripts.server import Server
from scripts.snapshot import ROOT, copy_repository
from scripts.terminal import raise_interrupt_on_signals
from scripts.trail import Step, StepResult, run_step

HOST = "127.0.0.1"
# More than one worker, and an access log line for every request, including health checks.
SETTINGS = "WORKERS=2\nACCESS_LOG_EXCLUDE=/nothing\n"
# Requests, and the statuses that each may have.
STEPS = (
    (Step("a response", "/api/demo", sent_id="order-4711-attempt-2"), {200}),
    (Step("an unknown path", "/nowhere", logs=False), {404}),
    (Step("an invalid value", "/api/demo/wait?seconds=soon", logs=False), {422}),
    (Step("an unhandled exception", "/api/demo/fail"), {500}),
    # 503: a server that an option needs, such as a broker, is not running here.
    (Step("readiness", "/readyz", logs=False), {200, 503}),
)
# With these variables make would pass the options of `make drift` on to `make test` of the service; `run` removes them.
MAKE_VARIABLES = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
UPGRADED, HELD_BACK = "Upgraded", "Newer versions that pyproject.toml does not allow"


class DriftError(Exception):
    """A check has failed. The arguments are a sentence that describes the failure, and the output of the command."""


def run(folder: Path, uv: Path, *arguments: str | Path) -> str:
    """Run a command with `uv` on PATH and return its output; raises DriftError if its exit code is not 0."""
    command = [str(argument) for argument in arguments]
    variables = {name: value for name, value in clean_environment().items() if name not in MAKE_VARIABLES}
    variables["PATH"] = f"{uv.parent}{os.pathsep}{variables['PATH']}"
    # All runs of pytest clean up one temporary folder, and concurrent ones can fail: this run gets its own.
    variables["TMPDIR"] = str(folder.parent)
    result = subprocess.run(
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
    if result.returncode:
        raise DriftError(f"`{shlex.join(command)}` exits with {result.returncode}", result.stdout)
    return result.stdout


def generate(template: Path, work: Path, uv: Path, row: Row) -> Path:
    """Render the template with the options of a row in the folder `work`, and return the project's folder."""
    settings, output = work / "settings.yaml", work / "output"
    settings.write_text(json.dumps({"replay_dir": str(work / "replay")}), "utf-8")  # JSON is valid YAML
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--config-file", str(settings)]
    run(work, uv, *command, "--output-dir", output, *(f"{name}={value}" for name, value in row.items()))
    return next(output.iterdir())


def update(project: Path, uv: Path, versions: dict[str, set[str]]) -> None:
    """Upgrade every package as far as pyproject.toml allows, install it, and add the changes to `versions`."""
    run(project, uv, uv, "lock", "--check")  # the next command would repair an invalid lock file
    output = run(project, uv, uv, "lock", "--upgrade")
    versions[UPGRADED].update(re.findall(r"^(?:Added|Removed|Updated) (.+)$", output, re.MULTILINE))
    tree = run(project, uv, uv, "tree", "--locked", "--outdated", "--depth=1")
    outdated = re.findall(r"^\W+ (\S+ v\S+) .*\(latest: (v\S+)\)$", tree, re.MULTILINE)
    versions[HELD_BACK].update(f"{package} -> {latest}" for package, latest in outdated)
    run(project, uv, uv, "sync", "--quiet", "--locked")


def describe_error(result: StepResult, statuses: Collection[int]) -> str:
    """Return what is wrong with a response; empty if its status is expected and its ID is in every place."""
    request = f"GET {result.step.path} ({result.step.title})"
    if result.status not in statuses:
        return f"{request} returns {result.status} instead of {' or '.join(map(str, sorted(statuses)))}"
    if result.step.sent_id not in {None, result.request_id}:
        return f"{request} does not keep the ID that was sent"
    places = {"header": result.header, "body": result.body, "access log": result.access}
    places |= {"log": result.log} if result.step.logs else {}
    missing = [place for place, text in places.items() if not result.request_id or result.request_id not in text]
    return f"{request} does not have its ID in: {', '.join(missing)}" if missing else ""


def find_error(server: Server, port: int) -> str:
    """Send the requests and describe the first error; empty if there is no error."""
    if not wait_until_serving(server, HOST, port):
        return "gunicorn does not start, or writes no access log line with the ID"
    try:
        errors = (describe_error(run_step(server, HOST, port, step), statuses) for step, statuses in STEPS)
        return next(filter(None, errors), "")
    except (OSError, HTTPException) as error:
        return f"A request gets no response: {error!r}"


def serve(project: Path) -> None:
    """Start the project's server, send the requests, and stop it; raises DriftError on the first error."""
    (project / ".env").write_text(SETTINGS, "utf-8")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    server = Server(project, HOST, port)
    try:
        message = find_error(server, port)
    finally:
        server.stop()
    if not message and server.process.returncode:
        message = f"gunicorn exits with {server.process.returncode} after SIGTERM"
    if message:
        raise DriftError(message, "\n".join([*server.err, *server.out]))


def check_combination(template: Path, uv: Path, row: Row, versions: dict[str, set[str]]) -> tuple[str, ...]:
    """Run all checks with one combination: return nothing if they pass, else a sentence and the output."""
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
    """Check the combinations: print a line for each, then the packages and the failures; return 1 if one has failed."""
    rows = dict(enumerate(pairwise(options()), start=1))
    parser = argparse.ArgumentParser(prog="make drift")
    parser.add_argument("uv", type=Path, help="the path of the uv executable")
    parser.add_argument("--only", type=int, choices=rows, help="check only the combination with this number")
    parser.add_argument("--template", type=Path, default=ROOT, help="the folder of the template")
    arguments = parser.parse_args()
    versions: dict[str, set[str]] = {UPGRADED: set(), HELD_BACK: set()}
    failures: list[tuple[str, ...]] = []
    with TemporaryDirectory() as name:
        template = copy_repository(Path(name) / "template", arguments.template)
        for number in [arguments.only] if arguments.only else rows:
            start = time.monotonic()
            failure = check_combination(template, arguments.uv.absolute(), rows[number], versions)
            chosen = ", ".join(option for option, value in rows[number].items() if value) or "no option"
            outcome = failure[0] if failure else "works"
            print(f"{number:>3} {time.monotonic() - start:>5.0f} s  {chosen}: {outcome}", flush=True)
            failures += [failure] if failure else []
    for title, packages in versions.items():
        print(f"\n{title}:", *sorted(packages) or ["none"], sep="\n  ")
    for sentence, output in failures:
        print(f"\n{sentence}. Output:\n\n{output}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise_interrupt_on_signals()
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit("Stopped.")
