"""The demo routes and their log lines. Delete this file together with the routes."""

import pytest
from starlette.testclient import TestClient

from tests.support import HEADER, ID, Logs

WITH_ID = {HEADER: ID}


def test_demo_responds_and_logs_with_the_id(client: TestClient, logs: Logs) -> None:
    assert client.get("/api/demo", headers=WITH_ID).json()["result"] == "demo"
    assert [line.endswith(f"INFO [{ID}] demo") for line in logs.lines("demo.log")] == [True]


def test_wait_takes_the_requested_time(client: TestClient, logs: Logs) -> None:
    assert client.get("/api/demo/wait?seconds=0.05", headers=WITH_ID).json()["result"] == 0.05
    assert float(logs.access[0].split()[4].rstrip("s")) >= 0.05
    assert f"[{ID}] waiting for 0.05 seconds" in logs.error[0]


@pytest.mark.parametrize("seconds", ["31", "-1", "nan", "x"])
def test_wait_rejects_seconds_out_of_range(seconds: str, client: TestClient) -> None:
    response = client.get(f"/api/demo/wait?seconds={seconds}", headers=WITH_ID)
    assert (response.status_code, response.json()["code"], response.json()["request_id"]) == (422, 422, ID)


def test_service_error_has_its_own_code(client: TestClient) -> None:
    response = client.get("/api/demo/refuse", headers=WITH_ID)
    assert (response.status_code, response.json()["code"], response.json()["request_id"]) == (409, 4091, ID)


def test_stream_logs_with_the_id(client: TestClient, logs: Logs) -> None:
    response = client.get("/api/demo/stream?lines=3&pause=0.01", headers=WITH_ID)
    assert (response.text, response.headers[HEADER]) == ("line 1\nline 2\nline 3\n", ID)
    assert sum(f"[{ID}] line " in line for line in logs.error) == 3
    assert float(logs.access[0].split()[4].rstrip("s")) >= 0.03


def test_background_task_logs_with_the_id(client: TestClient, logs: Logs) -> None:
    assert client.get("/api/demo/background?seconds=0.01", headers=WITH_ID).json()["result"] == "accepted"
    assert logs.error[-1].endswith(f"[{ID}] cleaned up")


def test_unhandled_error_is_a_500_with_the_id_and_a_traceback(client: TestClient, logs: Logs) -> None:
    response = client.get("/api/demo/fail", headers=WITH_ID)
    assert (response.status_code, response.json()["request_id"], response.headers[HEADER]) == (500, ID, ID)
    assert "on purpose" not in response.text
    assert logs.error[0].endswith(f"ERROR [{ID}] Unhandled RuntimeError")
    assert logs.error[-1] == "    RuntimeError: this is a defect, shown on purpose"
    assert logs.access[0].endswith('"GET /api/demo/fail HTTP/1.1" RuntimeError')
