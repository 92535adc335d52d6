"""`make run`: generate a service, start it, and show where the ID of a few requests appears; it keeps running."""

import os
import subprocess
import sys
import time
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

from scripts.generate import generate, install
from scripts.server import Server, sleep_before
from scripts.snapshot import ROOT
from scripts.terminal import foreground, ignore_exit_signals, raise_interrupt_on_signals
from scripts.trail import Step, format_result, run_step

START_TIMEOUT_SECONDS = 60.0
MAX_PORT = 65535
STEPS = (
    Step("a request without an ID gets one", "/api/demo"),
    Step("a request with an ID keeps it", "/api/demo", sent_id="order-4711-attempt-2"),
    Step("an unhandled exception", "/api/demo/fail"),
    Step("an unknown path", "/nowhere", sent_id="lost-and-found-1", logs=False),
    Step("a background task that runs after the response", "/api/demo/background"),
)


def client_address(host: str) -> str:
    """Return the address at which a client on this machine reaches a server that listens on `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def wait_until_serving(server: Server, host: str, port: int) -> bool:
    """Wait until our server responds; False if it exits, or after START_TIMEOUT_SECONDS.

    Another server may respond on the same port. Our server is recognized by its access log line with the probe's ID.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while server.is_running and sleep_before(deadline):
        probe = Step("probe", "/api/demo", sent_id=f"probe-{uuid4().hex}", logs=False)
        try:
            result = run_step(server, host, port, probe, seconds=2)
        except (OSError, HTTPException):
            continue
        if result.access:
            return True
    return False


def run_steps(server: Server, host: str, port: int) -> bool:
    """Run and print every step; return whether the ID was in every place."""
    complete = True
    for step in STEPS:
        result = run_step(server, host, port, step)
        print("\n".join(format_result(result)), flush=True)
        complete = complete and result.complete
    return complete


def serve(server: Server, host: str, port: int) -> int:
    """Run the steps, then print the server's output until it exits; return the exit code."""
    if not wait_until_serving(server, host, port):
        server.stop()
        print("The service did not start. Its output:", *server.err, *server.out, sep="\n", file=sys.stderr)
        return 1
    if not run_steps(server, host, port):
        print("A request ID is missing: see MISSING above.", file=sys.stderr)
        return 1
    print(f"The service is running at http://{host}:{port}. Press Ctrl-C to stop it. Its log follows.\n", flush=True)
    server.echo = True
    return min(abs(server.join()), 1)


def prepare(uv: Path) -> Path:
    """Generate the service and install its packages; return its folder."""
    print("Generating a service with the default answers ...", flush=True)
    project = generate()
    print(f"Installing its locked packages into {project.relative_to(ROOT)}/.venv ...\n", flush=True)
    install(project, uv)
    return project


def parse_port(text: str) -> int:
    """Return a TCP port as a number; raises SystemExit with a message if it is invalid."""
    if not text.isdecimal() or not 0 < int(text) <= MAX_PORT:
        sys.exit(f"PORT is {text!r}: set it to a number from 1 to {MAX_PORT}.")
    return int(text)


def run_demo(uv: Path) -> int:
    """Generate, install and serve; return the exit code.

    Raises KeyboardInterrupt on an exit signal, after the server has stopped.
    """
    host, port = os.environ.get("HOST") or "127.0.0.1", parse_port(os.environ.get("PORT") or "8000")
    try:
        project = prepare(uv)
    except subprocess.CalledProcessError as error:
        print(f"This command failed: {error.cmd}", error.stdout, error.stderr, sep="\n", file=sys.stderr)
        return 1
    server = Server(project, host, port)
    try:
        return serve(server, client_address(host), port)
    finally:
        ignore_exit_signals()
        server.stop()


def main() -> int:
    """Run the demo with the uv executable in the first argument; return 0 if a signal has stopped it."""
    raise_interrupt_on_signals()
    try:
        with foreground():
            return run_demo(Path(sys.argv[1]).absolute())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
