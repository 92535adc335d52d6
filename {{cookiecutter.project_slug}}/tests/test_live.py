"""A smoke test of the running server: gunicorn with two workers, and the ID in every place."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.settings import PROJECT_ROOT, Settings
from tests.support import HEADER, ID, Logs


class Service:
    """gunicorn in a process of its own, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.logs = Logs(folder / "log")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        inherited.pop("GUNICORN_CMD_ARGS", None)
        own = {"PORT": str(port), "WORKERS": "2", "LOG_PATH": str(self.logs.folder), "PYTHONPATH": str(PROJECT_ROOT)}
        command = [sys.executable, "-m", "gunicorn", "-c", str(PROJECT_ROOT / "gun.py")]
        self.process = subprocess.Popen(
            command, cwd=folder, env=inherited | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False)

    def wait(self) -> None:
        """Return when both workers serve; fail if they do not within a minute."""
        deadline = time.monotonic() + 60
        while sum("Application startup complete" in line for line in self.logs.error) < 2:
            assert self.process.poll() is None, self.logs.error
            assert time.monotonic() < deadline, self.logs.error
            time.sleep(0.02)

    def stop(self) -> int:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("live"))
    try:
        service.wait()
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def test_one_id_in_header_body_application_line_and_access_line(service: Service) -> None:
    response = service.client.get("/api/demo?token=secret", headers={HEADER: ID})
    assert response.headers.get_list(HEADER) == [response.json()["request_id"]] == [ID]
    (own,) = service.logs.wait("demo.log", ID)
    assert re.search(rf"\[pid:\d+\] demo\.py\(line:\d+\) INFO \[{ID}\] demo$", own)
    (access,) = service.logs.wait("access.log", ID)
    assert re.search(rf' {ID} 200 \d\.\d{{3}}s 127\.0\.0\.1:\d+ - "GET /api/demo\?token=\*\*\* HTTP/1\.1"$', access)


def test_a_defect_has_its_traceback_once_with_the_id(service: Service) -> None:
    response = service.client.get("/api/demo/fail")
    request_id = response.json()["request_id"]
    assert (response.status_code, response.headers[HEADER]) == (500, request_id)
    (access,) = service.logs.wait("access.log", request_id)
    assert access.endswith(" RuntimeError")
    (error,) = service.logs.wait("error.log", request_id)
    assert error.endswith(f"ERROR [{request_id}] Unhandled RuntimeError")
    assert service.logs.error.count("    RuntimeError: this is a defect, shown on purpose") == 1


def test_what_is_no_http_has_an_id_and_a_line(service: Service) -> None:
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port or 0), 5) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        answer = connection.recv(65536).decode()
    (request_id,) = re.findall(r"x-request-id: (\S+)", answer)
    assert answer.startswith("HTTP/1.1 400 ")
    assert len(service.logs.wait("access.log", request_id)) == 1


def test_it_stops_by_sigterm_after_the_request_that_runs(service: Service) -> None:
    with service.client.stream(
        "GET", "/api/demo/stream?lines=3&pause=0.1", headers={HEADER: "the-last-one"}
    ) as response:
        service.process.send_signal(signal.SIGTERM)
        assert response.read() == b"line 1\nline 2\nline 3\n"
    assert service.stop() == 0
    assert sum(" the-last-one 200 " in line for line in service.logs.access) == 1
    assert not any("Traceback" in line for line in service.logs.error[-5:])
