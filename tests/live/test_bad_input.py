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
        "LOOP": ("trio", "asyncio"),
        "DEBUG": ("perhaps", "boolean"),
        "LOG_FORMAT": ("xml", "json"),
        "LOG_LEVEL": ("LOUD", "WARNING"),
        "LOG_ROTATION": ("hourly", "size"),
        "REQUEST_ID_TRUST": ("maybe", "proxies"),
        "REQUEST_ID_HEADER": ("Content-Length", "header"),
        "CORS_ORIGINS": ("example.org", "https://example.org"),
        "MAX_BODY_BYTES": ("16M", "integer"),
        "LIMIT_REQUEST_LINE": ("1", "64"),
        "LIMIT_REQUEST_FIELDS": ("0", "1"),
        "LIMIT_REQUEST_HEAD": ("999999999", "1048576"),
        "LIMIT_CONCURRENCY": ("-2", "0"),
        "HEAD_TIMEOUT": ("nan", "0"),
        "BODY_TIMEOUT": ("soon", "number"),
        "TIMEOUT": ("0", "2"),
        "GRACEFUL_TIMEOUT": ("-1", "2"),
        "KEEPALIVE": ("0", "1"),
        "MAX_REQUESTS": ("-5", "0"),
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


def test_rotation_without_files_ends_the_start(project: Path) -> None:
    """Two variables that do not go together: both are named."""
    code, text = run_server(project, LOG_ROTATION="time")
    assert code == 1
    check_sentence(text, "LOG_ROTATION", "LOG_PATH")


def test_long_value_is_cut_off(project: Path) -> None:
    code, text = run_server(project, LOG_FORMAT="x" * 50_000)
    assert code == 1
    assert len(text) < 1000


def test_bad_value_in_the_env_file_ends_the_start(project: Path) -> None:
    (project / ".env").write_text("LOG_FORMAT=yaml\n", "utf-8")
    try:
        code, text = run_server(project)
    finally:
        (project / ".env").unlink()
    assert code == 1
    check_sentence(text, "LOG_FORMAT", "yaml")


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


@pytest.mark.parametrize("code", [AT_IMPORT, AT_STARTUP], ids=["import", "startup"])
def test_application_that_cannot_start_ends_the_master(project: Path, tmp_path: Path, code: str) -> None:
    """It logs why, without a storm of workers."""
    (project / "cannot_start.py").write_text(code, "utf-8")
    with Service(project, tmp_path, app="cannot_start:app", wait=False) as service:
        assert service.process.wait(60) not in (0, None)
        text = service.app_text()
    assert "LookupError: no application" in text
    assert text.count("Booting worker") <= 4
    assert text.count("Traceback (most recent call last)") <= 4


def test_application_that_does_not_exist_is_reported(project: Path, tmp_path: Path) -> None:
    for app in ("app.nothing:app", "app.main:nothing"):
        with Service(project, tmp_path / app, app=app, wait=False) as service:
            assert service.process.wait(60) not in (0, None)
            assert "nothing" in service.app_text()


def test_empty_values_count_as_none(project: Path, tmp_path: Path) -> None:
    """Compose files make such variables."""
    names = {name for values in BAD_VALUES for name in values} - {"PORT", "HOST", "WORKERS"} | {"FORWARDED_ALLOW_IPS"}
    with Service(project, tmp_path, env=dict.fromkeys(names, "")) as service:
        assert service.request("GET", "/api/demo").status == 200
