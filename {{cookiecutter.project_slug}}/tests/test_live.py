"""Smoke test of the running server: gunicorn, and the request ID in every place."""

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

from app.environment import PROJECT_ROOT
from app.settings import Settings
from tests.support import HEADER, ID, Logs


class Service:
    """gunicorn in a separate process, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.logs = Logs(folder / "log")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        inherited.pop("GUNICORN_CMD_ARGS", None)
        own = {"PORT": str(port), "WORKERS": "1", "LOG_PATH": str(self.logs.folder), "PYTHONPATH": str(PROJECT_ROOT)}
        command = [sys.executable, "-m", "gunicorn", "-c", str(PROJECT_ROOT / "gun.py")]
        self.process = subprocess.Popen(
            command, cwd=folder, env=inherited | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False)

    def wait(self) -> None:
        """Return when the worker serves requests; fail after two minutes."""
        deadline = time.monotonic() + 120
        while not any("Application startup complete" in line for line in self.logs.error):
            assert self.process.poll() is None, self.logs.error
            assert time.monotonic() < deadline, self.logs.error
            time.sleep(0.02)

    def stop(self) -> int:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("live"))
    try:
        service.wait()
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()


def test_header_body_log_record_and_access_line_have_the_same_id(service: Service) -> None:
    response = service.client.get("/api/demo?token=secret", headers={HEADER: ID})
    assert response.headers.get_list(HEADER) == [response.json()["request_id"]] == [ID]
    (own,) = service.logs.wait("demo.log", ID)
    assert re.search(rf"\[pid:\d+\] demo\.py\(line:\d+\) INFO \[{ID}\] demo$", own)
    (access,) = service.logs.wait("access.log", ID)
    assert re.search(rf' {ID} 200 \d\.\d{{3}}s 127\.0\.0\.1:\d+ - "GET /api/demo\?token=\*\*\* HTTP/1\.1"$', access)


def test_unhandled_error_is_logged_once_with_the_id(service: Service) -> None:
    response = service.client.get("/api/demo/fail")
    request_id = response.json()["request_id"]
    assert (response.status_code, response.headers[HEADER]) == (500, request_id)
    (access,) = service.logs.wait("access.log", request_id)
    assert access.endswith(" RuntimeError")
    (error,) = service.logs.wait("error.log", request_id)
    assert error.endswith(f"ERROR [{request_id}] Unhandled RuntimeError")
    assert service.logs.error.count("    RuntimeError: this is a defect, shown on purpose") == 1


def test_malformed_request_gets_an_id_and_an_access_line(service: Service) -> None:
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port or 0), 5) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        response = connection.recv(65536).decode()
    (request_id,) = re.findall(r"x-request-id: (\S+)", response)
    assert response.startswith("HTTP/1.1 400 ")
    assert len(service.logs.wait("access.log", request_id)) == 1


def test_sigterm_waits_for_the_request_in_flight(service: Service) -> None:
    with service.client.stream(
        "GET", "/api/demo/stream?lines=3&pause=0.1", headers={HEADER: "the-last-one"}
    ) as response:
        service.process.send_signal(signal.SIGTERM)
        assert response.read() == b"line 1\nline 2\nline 3\n"
    assert service.stop() == 0
    assert sum(" the-last-one 200 " in line for line in service.logs.access) == 1
    assert not any("Traceback" in line for line in service.logs.error[-5:])
