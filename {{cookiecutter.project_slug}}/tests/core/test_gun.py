"""gun.py: the configuration of gunicorn from environment variables."""

import logging.config
import runpy
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.environment import PROJECT_ROOT
from app.settings import available_processors

# Like a master that replaces another one (SIGUSR2): hooks of integrations skip the work of a first start.
ARBITER = SimpleNamespace(master_pid=1)


def run_gun_py() -> dict[str, Any]:
    return runpy.run_path(str(PROJECT_ROOT / "gun.py"))


def test_defaults_of_gunicorn() -> None:
    config = run_gun_py()
    assert config["bind"] == "127.0.0.1:8000"
    assert config["workers"] == available_processors()
    assert config["worker_class"] == "app.common.workers.RequestUvicornWorker"
    assert config["wsgi_app"] == "app.main:app"
    assert (config["daemon"], config["preload_app"]) == (False, False)
    assert config["graceful_timeout"] < config["timeout"]


@pytest.mark.parametrize(
    ("variables", "name", "value"),
    [
        ({"HOST": "0.0.0.0", "PORT": "80"}, "bind", "0.0.0.0:80"),
        ({"HOST": "::1", "PORT": "80"}, "bind", "[::1]:80"),
        ({"WORKERS": "3"}, "workers", 3),
        ({"TIMEOUT": "7"}, "timeout", 7),
        ({"GRACEFUL_TIMEOUT": "8"}, "graceful_timeout", 8),
        ({"KEEPALIVE": "9"}, "keepalive", 9),
        ({"MAX_REQUESTS": "1000"}, "max_requests", 1000),
        ({"MAX_REQUESTS": "1000"}, "max_requests_jitter", 100),
        ({"LOG_LEVEL": "WARNING"}, "loglevel", "warning"),
        ({"FORWARDED_ALLOW_IPS": "10.0.0.1,10.0.0.2"}, "forwarded_allow_ips", "10.0.0.1,10.0.0.2"),
        ({"PID_FILE": "run/pid"}, "pidfile", "run/pid"),
        ({}, "pidfile", None),
    ],
)
def test_variable_is_applied(
    variables: dict[str, str], name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_gun_py()  # gunicorn runs the file again on SIGHUP, which must read the environment again
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)
    assert run_gun_py()[name] == value


def test_logging_of_the_master_creates_the_log_folder(tmp_path: Path) -> None:
    logging.config.dictConfig(run_gun_py()["logconfig_dict"])
    logging.getLogger("gunicorn.error").warning("from the master")
    assert "from the master" in (tmp_path / "log" / "error.log").read_text()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "none", "The environment variable PORT is 'none'"),
        ("LOG_ROTATION", "time", "LOG_ROTATION is 'time'"),  # several processes cannot rotate the same files
    ],
)
def test_invalid_value_prevents_startup(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        run_gun_py()


def test_address_in_use_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        on_starting = run_gun_py()["on_starting"]
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1:{port}: another program uses it"):
            on_starting(ARBITER)
        monkeypatch.setenv("LISTEN_FDS", "1")
        on_starting(ARBITER)
    monkeypatch.delenv("LISTEN_FDS")
    on_starting(ARBITER)


def test_address_of_another_machine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "192.0.2.1")
    with pytest.raises(SystemExit, match=r"The service cannot listen on 192\.0\.2\.1:8000"):
        run_gun_py()["on_starting"](ARBITER)
