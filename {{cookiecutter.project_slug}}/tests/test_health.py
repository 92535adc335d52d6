"""Alive and ready: answered with the envelope, without an access line."""

import pytest

from app.main import Application
from tests.support import HEADER, ID, Logs, connect


@pytest.mark.parametrize(("path", "result"), [("/livez", "alive"), ("/readyz", "ready")])
def test_health_has_the_envelope_and_no_access_line(path: str, result: str, app: Application, logs: Logs) -> None:
    app.state.readiness_checks = {}  # whatever integrations need, it need not run here
    response = connect(app).get(path, headers={HEADER: ID})
    assert (response.status_code, response.headers[HEADER]) == (200, ID)
    assert (response.json()["result"], response.json()["request_id"]) == (result, ID)
    assert logs.access == []
