"""Values that must agree between nginx, Compose and the service."""

import re
from pathlib import Path

from pydantic_settings import BaseSettings

from app.common import constants, request_id
from app.environment import PROJECT_ROOT, variable_of
from app.integrations import settings_classes
from app.settings import Settings

COMPOSE = (PROJECT_ROOT / "compose.yaml").read_text("utf-8")
NGINX = (PROJECT_ROOT / "deploy/nginx/nginx.conf").read_text("utf-8")
START = (PROJECT_ROOT / "deploy/nginx/start.sh").read_text("utf-8")
DOCKERFILE = (PROJECT_ROOT / "Dockerfile").read_text("utf-8")


def seconds(pattern: str, text: str) -> list[int]:
    """Return the numbers of seconds that match a pattern; fail without a match."""
    found = [int(number) for number in re.findall(pattern, text)]
    assert found, pattern
    return found


def default(name: str) -> object:
    """Return a setting's default."""
    return Settings.model_fields[name].default


def test_nginx_accepts_the_same_ids_as_the_service() -> None:
    (pattern,) = re.findall(r'^_ACCEPTED = .*rb"(.+)"', Path(request_id.__file__).read_text("utf-8"), re.MULTILINE)
    assert f"(?<id>{pattern})" in NGINX


def test_compose_has_the_defaults_of_the_settings() -> None:
    masked = default("masked_query")
    assert isinstance(masked, tuple)
    assert "MASKED_QUERY: ${MASKED_QUERY:-" + ",".join(masked) + "}" in COMPOSE
    assert "GRACEFUL_TIMEOUT: ${GRACEFUL_TIMEOUT:-" + str(default("graceful_timeout")) + "}" in COMPOSE
    assert "MAX_BODY_BYTES: ${MAX_BODY_BYTES:-" + str(default("max_body_bytes")) + "}" in COMPOSE
    assert "REQUEST_ID_HEADER: ${REQUEST_ID_HEADER:-" + constants.REQUEST_ID_HEADER + "}" in COMPOSE
    assert "REQUEST_ID_TRUST: ${REQUEST_ID_TRUST:-" + str(default("request_id_trust")) + "}" in COMPOSE


def test_every_variable_of_the_service_is_a_setting() -> None:
    names = set(re.findall(r"^      ([A-Z_]+):", COMPOSE.partition("\n  api: &api\n")[2], re.MULTILINE))
    classes: list[type[BaseSettings]] = [Settings, *settings_classes().values()]
    assert names <= {variable_of(model, name) for model in classes for name in model.model_fields}
    assert names


def test_stop_grace_period_exceeds_graceful_timeout() -> None:
    graceful = default("graceful_timeout")
    assert isinstance(graceful, int)
    grace_period = min(seconds(r"stop_grace_period: \${STOP_GRACE_PERIOD:-(\d+)s}", COMPOSE))
    (extra,) = seconds(r"worker_shutdown_timeout \$\(\(GRACEFUL_TIMEOUT \+ (\d+)\)\)s", START)
    assert grace_period > graceful + extra > graceful


def test_nginx_closes_idle_connections_before_the_service_does() -> None:
    keepalive = default("keepalive")
    assert isinstance(keepalive, int)
    assert max(seconds(r"keepalive_timeout (\d+)s", START)) < keepalive


def test_image_has_a_supported_python() -> None:
    (version,) = set(re.findall(r"^FROM python:3\.(\d+)-", DOCKERFILE, re.MULTILINE))
    assert int(version) in (11, 12, 13)
