"""`make run`: generates a service, serves it, shows the one ID of a few requests in every place, and keeps serving."""

import os
import subprocess
import sys
import time
from http.client import HTTPException
from pathlib import Path
from uuid import uuid4

from scripts.generate import generate, install
from scripts.server import Server, wait_until
from scripts.snapshot import ROOT
from scripts.terminal import end_by_interrupt, end_only_once, foreground
from scripts.trail import Step, follow, picture

START_SECONDS = 60.0
HIGHEST_PORT = 65535
STEPS = (
    Step("a request that brings no ID gets one", "/api/demo"),
    Step("a request that brings its own keeps it", "/api/demo", given="order-4711-attempt-2"),
    Step("an error that nobody caught, and its traceback", "/api/demo/fail"),
    Step("a page that is not there", "/nowhere", given="lost-and-found-1", logs=False),
    Step("work that goes on after the answer", "/api/demo/background"),
)


def address(host: str) -> str:
    """Give the address under which a server that listens on `host` is reached from here."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def came_up(server: Server, host: str, port: int) -> bool:
    """Wait until our server answers. Another one on the same port answers too, but its line does not come to us."""
    end = time.monotonic() + START_SECONDS
    while server.runs and wait_until(end):
        probe = Step("is it there?", "/api/demo", given=f"probe-{uuid4().hex}", logs=False)
        try:
            trail = follow(server, host, port, probe, seconds=2)
        except (OSError, HTTPException):
            continue
        if trail.access:
            return True
    return False


def show(server: Server, host: str, port: int) -> bool:
    """Print every step's trail; True when the ID is in every place."""
    complete = True
    for step in STEPS:
        trail = follow(server, host, port, step)
        print("\n".join(picture(trail)), flush=True)
        complete = complete and trail.complete
    return complete


def serve(server: Server, host: str, port: int) -> int:
    """Show the requests, then let the server speak until it ends or is ended; give the exit code."""
    if not came_up(server, host, port):
        server.stop()
        print("The service did not start. Its own words:", *server.err, *server.out, sep="\n", file=sys.stderr)
        return 1
    if not show(server, host, port):
        print("An ID is missing where one belongs.", file=sys.stderr)
        return 1
    print(f"The service stays at http://{host}:{port}. Ctrl-C stops it. Its lines from here on:\n", flush=True)
    server.echo = True
    return min(abs(server.join()), 1)


def prepare(uv: Path) -> Path:
    """Generate and install the service; give its folder."""
    print("Generating the service with every default ...", flush=True)
    project = generate()
    print(f"Installing what its lock says into {project.relative_to(ROOT)}/.venv ...\n", flush=True)
    install(project, uv)
    return project


def port_of(text: str) -> int:
    """Read a TCP port; raises SystemExit with a sentence when it is none."""
    if not text.isdecimal() or not 0 < int(text) <= HIGHEST_PORT:
        sys.exit(f"PORT is {text!r}: write a number from 1 to {HIGHEST_PORT}.")
    return int(text)


def demonstrate(uv: Path) -> int:
    """Do all of it; give the exit code. Raises KeyboardInterrupt when it is ended, after the server has been."""
    host, port = os.environ.get("HOST") or "127.0.0.1", port_of(os.environ.get("PORT") or "8000")
    try:
        project = prepare(uv)
    except subprocess.CalledProcessError as error:
        print(f"This command failed: {error.cmd}", error.stdout, error.stderr, sep="\n", file=sys.stderr)
        return 1
    server = Server(project, host, port)
    try:
        return serve(server, address(host), port)
    finally:
        end_only_once()
        server.stop()


def main() -> int:
    """Run the demo with the uv that the first argument names; 0 when the user ended it."""
    end_by_interrupt()
    try:
        with foreground():
            return demonstrate(Path(sys.argv[1]).absolute())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
