"""Health checks: the response envelope, and no access log line."""

import pytest

from app.main import Application
from tests.support import HEADER, ID, Logs, connect


@pytest.mark.parametrize(("path", "result"), [("/livez", "alive"), ("/readyz", "ready")])
def test_health_checks_are_not_logged(path: str, result: str, app: Application, logs: Logs) -> None:
    app.state.readiness_checks = {}  # dependencies of integrations do not run here
    response = connect(app).get(path, headers={HEADER: ID})
    assert (response.status_code, response.headers[HEADER]) == (200, ID)
    assert (response.json()["result"], response.json()["request_id"]) == (result, ID)
    assert logs.access == []
