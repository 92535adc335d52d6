"""Alive and ready: answered with the envelope, without an access line."""

import pytest
from starlette.testclient import TestClient

from tests.support import HEADER, ID, Logs


@pytest.mark.parametrize(("path", "result"), [("/livez", "alive"), ("/readyz", "ready")])
def test_health(path: str, result: str, client: TestClient, logs: Logs) -> None:
    response = client.get(path, headers={HEADER: ID})
    assert (response.status_code, response.headers[HEADER]) == (200, ID)
    assert (response.json()["result"], response.json()["request_id"]) == (result, ID)
    assert logs.access == []
