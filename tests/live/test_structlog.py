"""What is bound belongs to its request, on kept and pipelined connections, under each server."""

import shutil
from pathlib import Path

import pytest

from tests.support.client import build_request, new_id
from tests.support.service import Service
from tests.support.waiting import wait_for

CONNECTIONS, REQUESTS = 8, 25


@pytest.mark.parametrize("server", ["gunicorn", "gunicorn-asgi", "uvicorn-h11", "hypercorn", "granian"])
def test_nothing_bound_mixes(connected: Path, tmp_path: Path, server: str) -> None:
    """Each line of a request, the access line too, has the request's own value, and each request began with none."""
    shutil.copy(Path(__file__).with_name("structlog_probe.py"), connected)
    env = {"FASTSTREAM_CONSUME": "false", "LOG_FORMAT": "text"}
    ids = {f"{number}": new_id(f"bound{number}") for number in range(CONNECTIONS * REQUESTS)}
    with Service(connected, tmp_path, server=server, app="structlog_probe:app", env=env) as service:
        connections = [service.connect() for _ in range(CONNECTIONS)]
        for first, connection in enumerate(connections):
            mine = range(first, len(ids), CONNECTIONS)
            wanted = [build_request("GET", f"/bound/{n}", request_id=ids[f"{n}"], close=False) for n in mine]
            connection.send(b"".join(wanted))
        for first, connection in enumerate(connections):
            answers = [connection.answer() for _ in range(REQUESTS)]
            assert [answer.json()["result"] for answer in answers] == [*range(first, len(ids), CONNECTIONS)]
            connection.close()
        wait_for(lambda: service.access_text().count(" number=") == len(ids), "TODO-WHAT")
        wait_for(lambda: service.app_text().count("by logging") == len(ids), "TODO-WHAT")
        lines = (service.app_text() + service.access_text()).splitlines()
    for number, request_id in ids.items():
        own = [line for line in lines if request_id in line and "app.outbound" not in line]
        assert len(own) == 3, own
        assert all(f" number={number} " in f"{line} " for line in own), own
    assert sum(" found=0" in line for line in lines) == len(ids)
