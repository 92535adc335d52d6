"""A service with invalid settings does not start: it prints a sentence for each invalid value and exits."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import run_python
from tests.support.process import environment_of
from tests.support.servers import SERVERS
from tests.support.service import Service

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full

INVALID_VALUES = (
    {
        "PORT": ("abc", "integer"),
        "WORKERS": ("0", "1"),
        "DEBUG": ("perhaps", "boolean"),
        "LOG_FORMAT": ("xml", "json"),
        "REQUEST_ID_HEADER": ("Content-Length", "header"),
        "CORS_ORIGINS": ("example.org", "https://example.org"),
        "LIMIT_REQUEST_HEAD": ("999999999", "1048576"),
        "HEAD_TIMEOUT": ("nan", "0"),
    },
    {"REQUEST_ID_HEADER": ("X-Request-ID\r\nX-Other: 1", "header")},
    {"HOST": ("256.1.1.1", "address")},
    {"LOG_PATH": ("gun.py/log", "folder")},
)
"""For each start: the variables, an invalid value for each, and a word that its message must contain."""


def run_server(project: Path, *, server: str = "gunicorn", **env: str) -> tuple[int, str]:
    """Start a server that must exit; return its exit code and its output."""
    result = subprocess.run(
        SERVERS[server]("app.main:app", 0),
        cwd=project,
        env=environment_of(project) | {"PORT": "8", "WORKERS": "2"} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return result.returncode, result.stdout + result.stderr


def check_message(text: str, *words: str) -> None:
    """Check that the text has a sentence with all the words, and no traceback."""
    assert "Traceback" not in text
    sentences = [line for line in text.splitlines() if words[0] in line]
    assert sentences, text
    assert any(all(word.lower() in line.lower() for word in words) for line in sentences), sentences
    assert all(line.endswith(".") for line in sentences), sentences


@pytest.mark.parametrize("values", INVALID_VALUES)
def test_each_invalid_value_is_reported_in_a_sentence(project: Path, values: dict[str, tuple[str, str]]) -> None:
    """With the variable, the value and what would be valid; all invalid values are reported together."""
    code, text = run_server(project, **{name: value for name, (value, _) in values.items()})
    assert code not in (0, None)
    for name, (value, word) in values.items():
        check_message(text, name, word)
        assert ascii(value)[1:-1].lower() in ascii(text).lower().replace("\\\\", "\\"), text


def test_invalid_forwarded_allow_ips_is_reported(project: Path) -> None:
    """gunicorn reads this variable itself and reports less; the application reports it in full."""
    value = "127.0.0.1,10.0.0.0/99"
    code, text = run_server(project, FORWARDED_ALLOW_IPS=value)
    assert code not in (0, None)
    assert "10.0.0.0/99" in text
    assert "Traceback" not in text
    result = run_python(project, "import app.main", FORWARDED_ALLOW_IPS=value)
    assert result.returncode == 1
    check_message(result.stderr, "FORWARDED_ALLOW_IPS", value, "network")


def test_long_value_is_truncated(project: Path) -> None:
    code, text = run_server(project, LOG_FORMAT="x" * 50_000)
    assert code == 1
    assert len(text) < 1000


@pytest.mark.parametrize("server", ["uvicorn-json", "hypercorn", "granian"])
def test_invalid_value_is_reported_under_every_server(project: Path, server: str) -> None:
    code, text = run_server(project, server=server, LOG_FORMAT="xml")
    assert code != 0 or server == "hypercorn"  # its exit code does not depend on its workers
    assert "The environment variable LOG_FORMAT is 'xml'" in text


def test_port_in_use_is_reported_without_retries(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, text = run_server(project, PORT=str(other.getsockname()[1]))
    assert code not in (0, None)
    assert "Connection in use" not in text, "gunicorn would try five times"
    check_message(text, "cannot listen", "PORT", "another program")


AT_IMPORT = 'raise LookupError("no application")'
AT_STARTUP = f"""
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(application):
    {AT_IMPORT}
    yield

app = FastAPI(lifespan=lifespan)
"""


@pytest.mark.parametrize(
    ("code", "app", "error"),
    [
        (AT_IMPORT, "cannot_start:app", "LookupError: no application"),
        (AT_STARTUP, "cannot_start:app", "LookupError: no application"),
        ("", "app.nothing:app", "nothing"),
        ("", "app.main:nothing", "nothing"),
    ],
    ids=["import", "startup", "module", "name"],
)
def test_master_exits_if_the_application_cannot_start(
    project: Path, tmp_path: Path, code: str, app: str, error: str
) -> None:
    (project / "cannot_start.py").write_text(code, "utf-8")
    with Service(project, tmp_path, app=app, wait=False) as service:
        assert service.process.wait(60) not in (0, None)
        text = service.app_text()
    assert error in text
    assert text.count("Booting worker") <= 4
    assert text.count("Traceback (most recent call last)") <= 4


def test_empty_variables_count_as_unset(project: Path, tmp_path: Path) -> None:
    code = (
        "from app.environment import variable_of; from app.settings import Settings as S; "
        "print(*(variable_of(S, name) for name in S.model_fields))"
    )
    names = {*run_python(project, code).stdout.split()} - {"PORT", "HOST", "WORKERS"}
    assert len(names) > 20
    with Service(project, tmp_path, env=dict.fromkeys(names, "")) as service:
        assert service.request("GET", "/api/demo").status == 200
