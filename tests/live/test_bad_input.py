"""A service that cannot work does not start: it says in a sentence what is wrong and what would be right, and ends."""

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

BAD_VALUES = (
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
"""For each start the variables, a bad value for each, and a word without which the sentence does not help."""


def run_server(project: Path, *, server: str = "gunicorn", **env: str) -> tuple[int, str]:
    """Start a server that must not stay; return its exit code and what it said."""
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


def check_sentence(text: str, *words: str) -> None:
    """The text has a sentence with all the words, and no traceback."""
    assert "Traceback" not in text
    sentences = [line for line in text.splitlines() if words[0] in line]
    assert sentences, text
    assert any(all(word.lower() in line.lower() for word in words) for line in sentences), sentences
    assert all(line.endswith(".") for line in sentences), sentences


@pytest.mark.parametrize("values", BAD_VALUES)
def test_bad_values_end_the_start_with_a_sentence_for_each(project: Path, values: dict[str, tuple[str, str]]) -> None:
    """It names the variable, shows the value, and says what is right; the values of one start are told at once."""
    code, text = run_server(project, **{name: value for name, (value, _) in values.items()})
    assert code not in (0, None)
    for name, (value, word) in values.items():
        check_sentence(text, name, word)
        assert ascii(value)[1:-1].lower() in ascii(text).lower().replace("\\\\", "\\"), text


def test_proxy_that_is_no_network_ends_the_start(project: Path) -> None:
    """gunicorn reads this variable by itself, before any file of ours, and says less; the application says it all."""
    value = "127.0.0.1,10.0.0.0/99"
    code, text = run_server(project, FORWARDED_ALLOW_IPS=value)
    assert code not in (0, None)
    assert "10.0.0.0/99" in text
    assert "Traceback" not in text
    result = run_python(project, "import app.main", FORWARDED_ALLOW_IPS=value)
    assert result.returncode == 1
    check_sentence(result.stderr, "FORWARDED_ALLOW_IPS", value, "network")


def test_long_value_is_cut_off(project: Path) -> None:
    code, text = run_server(project, LOG_FORMAT="x" * 50_000)
    assert code == 1
    assert len(text) < 1000


@pytest.mark.parametrize("server", ["uvicorn-json", "hypercorn", "granian"])
def test_bad_value_ends_the_start_under_every_server(project: Path, server: str) -> None:
    code, text = run_server(project, server=server, LOG_FORMAT="xml")
    assert code != 0 or server == "hypercorn"  # whose exit code says nothing of its workers
    assert "The environment variable LOG_FORMAT is 'xml'" in text


def test_taken_port_is_reported_at_once(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, text = run_server(project, PORT=str(other.getsockname()[1]))
    assert code not in (0, None)
    assert "Connection in use" not in text, "gunicorn would try five times"
    check_sentence(text, "cannot listen", "PORT", "another program")


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
def test_application_that_cannot_start_ends_the_master(
    project: Path, tmp_path: Path, code: str, app: str, error: str
) -> None:
    (project / "cannot_start.py").write_text(code, "utf-8")
    with Service(project, tmp_path, app=app, wait=False) as service:
        assert service.process.wait(60) not in (0, None)
        text = service.app_text()
    assert error in text
    assert text.count("Booting worker") <= 4
    assert text.count("Traceback (most recent call last)") <= 4


def test_empty_values_count_as_none(project: Path, tmp_path: Path) -> None:
    code = (
        "from app.environment import variable_of; from app.settings import Settings as S; "
        "print(*(variable_of(S, name) for name in S.model_fields))"
    )
    names = {*run_python(project, code).stdout.split()} - {"PORT", "HOST", "WORKERS"}
    assert len(names) > 20
    with Service(project, tmp_path, env=dict.fromkeys(names, "")) as service:
        assert service.request("GET", "/api/demo").status == 200
