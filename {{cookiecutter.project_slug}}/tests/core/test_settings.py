"""Settings: every variable has a default, and an invalid value prevents startup with an explanation."""

import os
from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from app import settings as settings_module
from app.environment import PROJECT_ROOT, EnvironmentSettings, Words, project_metadata, read_settings
from app.settings import Settings, available_processors, get_settings, reload_settings


class QueueSettings(EnvironmentSettings):
    """Settings of an integration."""

    model_config = SettingsConfigDict(env_prefix="QUEUE_")

    size: int = Field(1, ge=1, description="how many")
    names: Words = Field(("default",), description="which ones")
    password: str = Field("12345678", min_length=8, repr=False, description="a secret")
    url: str = Field(description="where it is")


@pytest.fixture(autouse=True)
def without_log_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_PATH")


def test_defaults_of_the_settings() -> None:
    settings = read_settings(Settings)
    assert (settings.host, settings.port, settings.debug) == ("127.0.0.1", 8000, False)
    assert (settings.log_level, settings.log_format, settings.log_path) == ("INFO", "text", None)
    assert (settings.request_id_header, settings.request_id_trust) == ("X-Request-ID", "always")
    assert (settings.forwarded_allow_ips, settings.cors_origins) == (("127.0.0.1",), ())
    assert settings.max_body_bytes == 16 * 2**20


def test_workers_default_to_the_available_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(Settings).workers == available_processors() >= 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert read_settings(Settings).workers == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert read_settings(Settings).workers == 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "9000", 9000),
        ("port", "9000", 9000),
        ("PORT", "", 8000),
        ("WORKERS", "3", 3),
        ("DEBUG", "1", True),
        ("DEBUG", "no", False),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_LEVELS", "orders=debug, app.outbound=INFO", ("orders=debug", "app.outbound=INFO")),
        ("LOG_ID_LENGTH", "8", 8),
        ("LOG_PATH", "log", Path("log")),
        ("LOG_PATH", "", None),
        ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1,", ("10.0.0.0/8", "::1")),
        ("FORWARDED_ALLOW_IPS", "*", ("*",)),
        ("CORS_ORIGINS", "https://a.example,http://b.example:8080", ("https://a.example", "http://b.example:8080")),
        ("CORS_ORIGINS", "*", ("*",)),
        ("OUTBOUND_HOSTS", "a.example,b.example:8443,[::1]:80", ("a.example", "b.example:8443", "[::1]:80")),
        ("OUTBOUND_HOSTS", "*.c.example,.d.example", ("*.c.example", ".d.example")),
        ("ACCESS_LOG_EXCLUDE", ",", ()),
        ("REQUEST_ID_HEADER", "X-Correlation-ID", "X-Correlation-ID"),
        ("HEAD_TIMEOUT", "0.5", 0.5),
        ("LIMIT_CONCURRENCY", "0", 0),
    ],
)
def test_value_is_read(name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(read_settings(Settings), name.lower()) == value


INVALID = {
    "PORT": ["0", "65536", "http"],
    "WORKERS": ["0", "two", "513"],
    "LOOP": ["trio"],
    "DEBUG": ["perhaps"],
    "LOG_LEVEL": ["LOUD"],
    "LOG_LEVELS": ["orders", "orders=LOUD", "=DEBUG", "a b=INFO", "orders:DEBUG"],
    "LOG_FORMAT": ["xml"],
    "LOG_ID_LENGTH": ["-1", "x"],
    "LOG_ROTATION": ["weekly"],
    "REQUEST_ID_HEADER": ["X Request ID", "X-Request-ID\n", "Ünder"],
    "REQUEST_ID_TRUST": ["sometimes"],
    "FORWARDED_ALLOW_IPS": ["localhost", "10.0.0.0/33"],
    "CORS_ORIGINS": ["example.org", "https://example.org/"],
    "OUTBOUND_HOSTS": ["*", "https://example.org", "example.org,user@example.org"],
    "MAX_BODY_BYTES": ["-1", "16 MiB"],
    "LIMIT_REQUEST_LINE": ["1"],
    "LIMIT_REQUEST_FIELDS": ["0"],
    "LIMIT_REQUEST_HEAD": ["1"],
    "LIMIT_CONCURRENCY": ["-1"],
    "HEAD_TIMEOUT": ["0"],
    "BODY_TIMEOUT": ["nan"],
    "TIMEOUT": ["1"],
    "GRACEFUL_TIMEOUT": ["1"],
    "KEEPALIVE": ["0"],
    "MAX_REQUESTS": ["-1"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in INVALID.items() for text in texts])
def test_invalid_value_prevents_startup_and_is_explained(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit) as stopped:
        get_settings()
    sentence = str(stopped.value)
    assert sentence.startswith(f"The environment variable {name} is ")
    assert f" {name}: {Settings.model_fields[name.lower()].description}." in sentence
    assert sentence.splitlines() == [sentence]


def test_all_invalid_values_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("LOG_LEVELS", "orders")
    with pytest.raises(SystemExit) as stopped:
        read_settings(Settings)
    sentences = str(stopped.value).splitlines()
    assert [sentence.split()[3] for sentence in sentences] == ["PORT", "LOG_LEVELS"]
    assert "'orders' is not a logger level such as" in sentences[1]


def test_log_rotation_needs_log_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_ROTATION", "time")
    with pytest.raises(SystemExit, match="LOG_ROTATION needs log files: set LOG_PATH"):
        read_settings(Settings)
    monkeypatch.setenv("LOG_PATH", "log")
    assert read_settings(Settings).log_rotation == "time"


def test_settings_are_read_once_and_are_immutable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = get_settings()
    monkeypatch.setenv("PORT", "9000")
    assert get_settings() is settings
    settings_module.current.clear()
    assert get_settings().port == 9000
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_reload_with_an_invalid_value_keeps_the_current_settings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on SIGHUP; when the settings are read for the first time, an invalid value raises SystemExit."""
    monkeypatch.setenv("PORT", "0")
    with pytest.raises(SystemExit, match="PORT is '0'"):
        reload_settings()
    monkeypatch.setenv("PORT", "9000")
    assert reload_settings() is get_settings()
    monkeypatch.setenv("PORT", "0")
    assert (reload_settings().port, get_settings().port) == (9000, 9000)
    assert "The current settings stay in effect. The environment variable PORT is '0'" in caplog.text


def test_environment_variables_override_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=9000\nWORKERS=3\nSOMETHING_ELSE=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    monkeypatch.setenv("WORKERS", "4")
    settings = read_settings(Settings)
    assert (settings.port, settings.workers) == (9000, 4)


def test_settings_of_an_integration_have_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SIZE=9\nQUEUE_SIZE=2\nQUEUE_NAMES=a, b\nQUEUE_URL=queue://host\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(QueueSettings.model_config, "env_file", ".env")
    settings = read_settings(QueueSettings)
    assert (settings.size, settings.names, settings.url) == (2, ("a", "b"), "queue://host")
    with pytest.raises(ValidationError, match="frozen"):
        settings.size = 1  # type: ignore[misc]


def test_invalid_values_of_an_integration_are_reported_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_SIZE", "none")
    monkeypatch.setenv("QUEUE_PASSWORD", "hunter2")
    with pytest.raises(SystemExit) as stopped:
        read_settings(QueueSettings)
    size, password, url = str(stopped.value).splitlines()
    assert size.startswith("The environment variable QUEUE_SIZE is 'none': Input should be a valid integer")
    assert size.endswith(" QUEUE_SIZE: how many.")
    assert password.startswith("The environment variable QUEUE_PASSWORD is invalid: String should have")
    assert url == "The environment variable QUEUE_URL is missing. QUEUE_URL: where it is."
    assert "hunter2" not in str(stopped.value)


def test_project_metadata_is_read_from_pyproject_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert project_metadata().keys() >= {"name", "version", "description"}
    assert (PROJECT_ROOT / "gun.py").is_file()
    monkeypatch.setattr("app.environment.PROJECT_ROOT", tmp_path)
    project_metadata.cache_clear()
    assert project_metadata() == {}
    project_metadata.cache_clear()
