"""A service that cannot work does not start: it says in a sentence what is wrong and what would be right, and ends."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import run_python, serve
from tests.support.process import environment_of
from tests.support.servers import SERVERS
from tests.support.service import Service

if TYPE_CHECKING:
    from pathlib import Path

BAD_VALUES = (
    ("PORT", "abc", "integer"),
    ("PORT", "70000", "65535"),
    ("PORT", "0", "1"),
    ("WORKERS", "0", "1"),
    ("WORKERS", "two", "integer"),
    ("WORKERS", "100000", "512"),
    ("HOST", "256.1.1.1", "address"),
    ("HOST", "no.such.host.invalid", "address"),
    ("LOOP", "trio", "asyncio"),
    ("DEBUG", "perhaps", "boolean"),
    ("LOG_FORMAT", "xml", "json"),
    ("LOG_LEVEL", "LOUD", "WARNING"),
    ("LOG_ROTATION", "hourly", "size"),
    ("LOG_PATH", "gun.py/log", "folder"),
    ("REQUEST_ID_TRUST", "maybe", "proxies"),
    ("REQUEST_ID_HEADER", "bad header", "header"),
    ("REQUEST_ID_HEADER", "X-Request-ID\r\nX-Other: 1", "header"),
    ("REQUEST_ID_HEADER", "X-Ä", "header"),
    ("REQUEST_ID_HEADER", "Content-Length", "header"),
    ("CORS_ORIGINS", "example.org", "https://example.org"),
    ("CORS_ORIGINS", "https://example.org/path", "https://example.org"),
    ("MAX_BODY_BYTES", "-1", "0"),
    ("MAX_BODY_BYTES", "16M", "integer"),
    ("LIMIT_REQUEST_LINE", "1", "64"),
    ("LIMIT_REQUEST_FIELDS", "0", "1"),
    ("LIMIT_REQUEST_HEAD", "999999999", "1048576"),
    ("LIMIT_CONCURRENCY", "-2", "0"),
    ("HEAD_TIMEOUT", "0", "0"),
    ("HEAD_TIMEOUT", "nan", "0"),
    ("BODY_TIMEOUT", "soon", "number"),
    ("TIMEOUT", "0", "2"),
    ("GRACEFUL_TIMEOUT", "-1", "2"),
    ("KEEPALIVE", "0", "1"),
    ("MAX_REQUESTS", "-5", "0"),
)
"""A variable, a bad value for it, and a word without which the sentence does not help."""


def run_server(project: Path, *, server: str = "gunicorn", **env: str) -> tuple[int, str]:
    """Start a server that must not stay; return its exit code and what it said."""
    result = subprocess.run(
        SERVERS[server]("app.main:app", 0),
        cwd=project,
        env=environment_of(project) | {"PORT": "8", "WORKERS": "2"} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=8,
    )
    return result.returncode, result.stdout + result.stderr


def check_sentence(text: str, *words: str) -> None:
    """The text has a sentence with all the words, and no traceback."""
    assert "Traceback" not in text
    sentences = [line for line in text.splitlines() if words[0] in line]
    assert sentences, text
    assert any(all(word.lower() in line.lower() for word in words) for line in sentences), sentences
    assert all(line.endswith(".") for line in sentences), sentences


@pytest.mark.parametrize(("name", "value", "word"), BAD_VALUES)
def test_bad_value(project: Path, name: str, value: str, word: str) -> None:
    """A bad value of a variable ends the start with a sentence that names it, shows it, and says what is right."""
    code, text = run_server(project, **{name: value})
    assert code not in (0, None)
    check_sentence(text, name, word)
    assert ascii(value)[1:-1].lower() in ascii(text).lower().replace("\\\\", "\\"), text


@pytest.mark.parametrize("value", ["foo", "127.0.0.1,10.0.0.0/99", "proxy.example.org"])
def test_bad_proxies(project: Path, value: str) -> None:
    """gunicorn reads this variable by itself, before any file of ours, and says less; the application says it all."""
    code, text = run_server(project, FORWARDED_ALLOW_IPS=value)
    assert code not in (0, None)
    assert value.rpartition(",")[2] in text
    assert "Traceback" not in text
    result = run_python(project, "import app.main", FORWARDED_ALLOW_IPS=value)
    assert result.returncode == 1
    check_sentence(result.stderr, "FORWARDED_ALLOW_IPS", value, "network")


def test_rotation_without_files(project: Path) -> None:
    """Two variables that do not go together: both are named."""
    code, text = run_server(project, LOG_ROTATION="time")
    assert code == 1
    check_sentence(text, "LOG_ROTATION", "LOG_PATH")


def test_several_bad_values(project: Path) -> None:
    """All of them are told at once, each in its own sentence."""
    code, text = run_server(project, PORT="abc", LOG_FORMAT="xml", WORKERS="-1")
    assert code == 1
    assert len(text.strip().splitlines()) == 3
    for name in ("PORT", "LOG_FORMAT", "WORKERS"):
        check_sentence(text, name)


def test_long_value_is_cut(project: Path) -> None:
    """An endless value does not flood the sentence."""
    code, text = run_server(project, LOG_FORMAT="x" * 50_000)
    assert code == 1
    assert len(text) < 1000


def test_bad_value_in_the_file(project: Path) -> None:
    """A file `.env` counts as the environment does."""
    (project / ".env").write_text("LOG_FORMAT=yaml\n", "utf-8")
    try:
        code, text = run_server(project)
    finally:
        (project / ".env").unlink()
    assert code == 1
    check_sentence(text, "LOG_FORMAT", "yaml")


@pytest.mark.parametrize("server", ["uvicorn-json", "hypercorn", "granian"])
def test_bad_value_under_another_server(project: Path, server: str) -> None:
    """The sentence is there under every server, and the server ends."""
    code, text = run_server(project, server=server, LOG_FORMAT="xml")
    assert code != 0 or server == "hypercorn"  # whose exit code says nothing of its workers
    assert "The environment variable LOG_FORMAT is 'xml'" in text


def test_taken_port(project: Path) -> None:
    """A port that another program uses: said at once, in one sentence."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        began = time.monotonic()
        code, text = run_server(project, PORT=str(other.getsockname()[1]))
    assert code not in (0, None)
    assert time.monotonic() - began < 4
    check_sentence(text, "cannot listen", "PORT", "another program")


@pytest.mark.parametrize(
    ("how", "words"), [("IMPORT", "the probe fails at import"), ("LIFESPAN", "the probe fails at start")]
)
def test_application_that_cannot_start(project: Path, tmp_path: Path, how: str, words: str) -> None:
    """The master says why and ends: no storm of workers."""
    with serve(project, tmp_path, wait=False, settings={f"FAIL_{how}": "1"}) as service:
        assert service.process.wait(15) not in (0, None)
        text = service.app_text()
    assert f"LookupError: {words}" in text
    assert text.count("Booting worker") <= 4
    assert text.count("Traceback (most recent call last)") <= 4


def test_application_that_is_not_there(project: Path, tmp_path: Path) -> None:
    """A module or a name that does not exist is told."""
    for app in ("app.nothing:app", "app.main:nothing"):
        with Service(project, tmp_path / app, app=app, wait=False) as service:
            assert service.process.wait(15) not in (0, None)
            assert "nothing" in service.app_text()


def test_empty_values_are_no_values(project: Path, tmp_path: Path) -> None:
    """An empty variable is as good as none, as compose files make them."""
    names = {name for name, _, _ in BAD_VALUES} - {"PORT", "HOST", "WORKERS"} | {"FORWARDED_ALLOW_IPS", "CORS_ORIGINS"}
    with serve(project, tmp_path, settings=dict.fromkeys(names, "")) as service:
        assert service.request("GET", "/api/demo").status == 200


def test_python_is_quiet(project: Path) -> None:
    """Bad values end a script that uses the application in the same way."""
    result = run_python(project, "import app.main", MAX_BODY_BYTES="many")
    assert result.returncode == 1
    check_sentence(result.stderr, "MAX_BODY_BYTES", "integer")
