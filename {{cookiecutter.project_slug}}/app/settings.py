"""Environment variables become one frozen `Settings`; a bad value stops the start with a sentence."""

import ipaddress
import logging
import os
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def available_processors() -> int:
    """Return the number of processors this process may use, which a container's CPU set makes smaller."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def project_metadata() -> dict[str, Any]:
    """Return the `[project]` table of pyproject.toml: name, version, description; empty if there is no such file."""
    path = PROJECT_ROOT / "pyproject.toml"
    project: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["project"] if path.is_file() else {}
    return project


HEADERS_WITH_A_MEANING = frozenset(
    "accept allow authorization cache-control connection content-encoding content-length content-type cookie date etag "  # noqa: SIM905
    "expect host keep-alive location origin range referer server set-cookie te trailer transfer-encoding upgrade "
    "user-agent vary via x-forwarded-for x-forwarded-proto".split()
)
"""An ID in one of these would break the message or mislead its reader (RFC 9110)."""

_HOST_ENTRY = re.compile(r"(\*?\.)?([^\s/@:*\[\]?#]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?").fullmatch

PREFIXES_WITH_A_MEANING = ("access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-")


def _split(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A comma-separated list in the environment."""


def server_url(*schemes: str) -> str:
    """Return the pattern of a server's URL, in which no part of a password can pass for a port, which is then told."""
    return rf"^({'|'.join(schemes)})://(([^\s/?#@%]|%[\dA-Fa-f]{{2}})*@)?[\w.,:\[\]-]*([/?][^\s@#]*)?$"


class EnvironmentSettings(BaseSettings):
    """Read from the environment and, in development, from `.env`; an integration's have its name as `env_prefix`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )


class Settings(EnvironmentSettings):
    """Everything that the environment may decide, with a default that is sound in production."""

    host: str = Field("127.0.0.1", min_length=1, description="address that gunicorn binds")
    port: int = Field(8000, ge=1, le=65535, description="port that gunicorn binds")
    workers: int = Field(default_factory=available_processors, ge=1, le=512, description="worker processes")
    loop: Literal["auto", "asyncio", "uvloop"] = Field("auto", description="event loop; auto: uvloop where installed")
    debug: bool = Field(False, description="docs pages, readable errors; never in production")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", description="lowest level kept")
    log_levels: Words = Field((), description="levels of single loggers: app.outbound=WARNING,sqlalchemy=DEBUG")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or one JSON object a line")
    log_id_length: int = Field(0, ge=0, description="characters of each ID that a line shows; 0: all")
    log_path: Path | None = Field(None, description="folder for log files; empty: stdout and stderr")
    log_rotation: Literal["off", "time", "size"] = Field(
        "off", description="rotate the files in the process (single process only): at midnight, or at 200 MiB"
    )
    access_log_exclude: Words = Field(("/livez", "/readyz"), description="paths that leave no access line")
    masked_query: Words = Field(
        ("token", "pass", "pwd", "secret", "key", "auth", "jwt", "credential", "signature", "session"),
        description="query parameters whose name contains one of these are masked in the access line",
    )
    masked_log: Words = Field(
        ("authorization", "cookie", "password", "passwd", "secret", "token", "api_key", "access_key", "private_key"),
        description="names of secrets: what stands after one of them in a line (name=…, a JSON key) becomes ***",
    )

    request_id_header: str = Field(
        "X-Request-ID", pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$", description="header that carries the ID"
    )
    request_id_trust: Literal["always", "proxies", "never"] = Field(
        "always", description="whose incoming IDs are taken over"
    )
    forwarded_allow_ips: Words = Field(
        ("127.0.0.1",), description="addresses and networks of proxies whose X-Forwarded-* count; * for everyone"
    )
    cors_origins: Words = Field((), description="origins that browsers may call from; empty: no CORS; * for all")
    outbound_hosts: Words = Field((), description="hosts that get the ID on outgoing calls")

    max_body_bytes: int = Field(16 * 1024 * 1024, ge=0, description="larger request bodies: 413")
    limit_request_line: int = Field(8190, ge=64, le=65536, description="bytes of the request target; more: 414")
    limit_request_fields: int = Field(100, ge=1, le=1000, description="header lines; more: 431")
    limit_request_head: int = Field(32768, ge=256, le=1048576, description="bytes of all header lines; more: 431")
    limit_concurrency: int = Field(
        0, ge=0, description="requests that one worker serves at a time; more: 503; 0: no limit"
    )
    head_timeout: float = Field(20, gt=0, description="seconds for a request's head to arrive; longer: 408")
    body_timeout: float = Field(30, gt=0, description="seconds for a request's body, and one more for every 500 bytes")

    pid_file: Path | None = Field(None, description="file for the master's process ID, for `kill -HUP`; empty: none")
    write_timeout: float = Field(60, gt=0, description="seconds for a client to take what was sent; then it is cut off")
    timeout: int = Field(60, ge=2, description="seconds without a heartbeat until a worker is killed")
    graceful_timeout: int = Field(30, ge=2, description="seconds for requests in flight when a worker stops")
    keepalive: int = Field(65, ge=1, description="seconds an idle connection stays open")
    max_requests: int = Field(0, ge=0, description="requests until a worker is replaced; 0: never")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_levels")
    @classmethod
    def _levels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not re.fullmatch(r"[\w.-]+=(DEBUG|INFO|WARNING|ERROR|CRITICAL)", word, re.IGNORECASE):
                raise ValueError(f"{word!r} is not a logger and its level such as app.outbound=DEBUG")
        return value

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("it is no address; for a unix socket, start gunicorn with --bind unix:PATH")
        return value.strip("[]")

    @field_validator("request_id_header")
    @classmethod
    def _free(cls, value: str) -> str:
        if value.lower() in HEADERS_WITH_A_MEANING or value.lower().startswith(PREFIXES_WITH_A_MEANING):
            raise ValueError(f"the header {value} means something else; choose a name such as X-Request-ID")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if word != "*":
                ipaddress.ip_network(word, strict=False)
        return value

    @field_validator("outbound_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not _HOST_ENTRY(word):
                raise ValueError(f"{word!r} is not a host, .domain or *.domain with an optional :port")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if word != "*" and (not word.startswith(("http://", "https://")) or word.count("/") != 2):  # noqa: PLR2004
                raise ValueError(f"{word!r} is not an origin such as https://example.org")
        return value

    @model_validator(mode="after")
    def _rotation_needs_files(self) -> "Settings":
        if self.log_rotation != "off" and self.log_path is None:
            raise ValueError("LOG_ROTATION rotates files: set LOG_PATH to a folder as well, or LOG_ROTATION=off")
        return self


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def variable_of(kind: type[BaseSettings], name: str) -> str:
    """Return the environment variable that a field is read from."""
    return f"{kind.model_config.get('env_prefix', '')}{name}".upper()


def explain(error: ValidationError, kind: type[BaseSettings] = Settings) -> str:
    """Return one full sentence for each fault: the variable, what is wrong with it, and what it may be.

    What a field with `repr=False` holds is a secret, and is not shown.
    """
    sentences = []
    for fault in error.errors():
        reason = _reason(fault, kind)
        if not fault["loc"]:
            sentences.append(f"{reason}.")
            continue
        field = kind.model_fields.get(str(fault["loc"][0]))
        name = variable_of(kind, ".".join(str(part) for part in fault["loc"]))
        value = f"{fault['input']!r:.80}" if field is None or field.repr else "not what it should be"
        about = f" {name} is: {field.description}." if field and field.description else ""
        sentences.append(
            f"The environment variable {name} is missing.{about}"
            if fault["type"] == "missing"
            else f"The environment variable {name} is {value}: {reason}.{about}"
        )
    return "\n".join(sentences)


def _reason(fault: "ErrorDetails", kind: type[BaseSettings]) -> str:
    """Return what is wrong, in words that hold no secret; only a validator's own may do so."""
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    secrets = {name for name, field in kind.model_fields.items() if not field.repr}
    if fault["type"] not in ("value_error", "assertion_error") or not secrets:
        return reason
    if fault["loc"]:
        return "its check failed" if fault["loc"][0] in secrets else reason
    values = [str(value) for name, value in dict(fault["input"]).items() if name in secrets and value]
    return "The settings do not fit together" if any(value in reason for value in values) else reason


def _explain_no_json(error: SettingsError, kind: type[BaseSettings]) -> str:
    """Return a sentence for a value that pydantic-settings could not even take apart."""
    found = re.search(r'field "(\w+)"', str(error))
    if found is None:
        return f"The environment variables of {kind.__name__} cannot be read: {error}."
    field, name = kind.model_fields.get(found[1]), variable_of(kind, found[1])
    about = f" {name} is: {field.description}." if field and field.description else ""
    return f"The environment variable {name} is not written in JSON, such as [1, 2].{about}"


def read_settings(kind: type[AnySettings]) -> AnySettings:
    """Read the environment and `.env`.

    Raises SystemExit with one sentence for each bad value; the process then ends with status 1.
    """
    try:
        return kind()
    except ValidationError as error:
        raise SystemExit(explain(error, kind)) from None
    except SettingsError as error:
        raise SystemExit(_explain_no_json(error, kind)) from None


def load_settings() -> Settings:
    """Read the settings of the service itself."""
    return read_settings(Settings)


_in_force: list[Settings] = []


def hold(settings: Settings) -> None:
    """Keep the settings with which a server runs, in case that they cannot be read again."""
    _in_force[:] = [settings]


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read once; `get_settings.cache_clear()` makes the next call read again.

    Where a server runs already (SIGHUP), a value that has become bad is told in the log, and those in force stay.
    """
    try:
        return load_settings()
    except SystemExit as error:
        if not _in_force:
            raise
        logging.getLogger("gunicorn.error").error("The settings stay as they were. %s", error)  # noqa: TRY400
        return _in_force[0]
