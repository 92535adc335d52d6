"""The settings of the service, read from environment variables; invalid values prevent startup."""

import ipaddress
import logging
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from app.environment import EnvironmentSettings, Words, each_matches, read_settings


def available_processors() -> int:
    """Return the number of CPUs that this process may use, which a container's CPU set can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


RESERVED_HEADERS = frozenset(
    "accept allow authorization cache-control connection content-encoding content-length content-type cookie date etag "  # noqa: SIM905
    "expect host keep-alive location origin range referer server set-cookie te trailer transfer-encoding upgrade "
    "user-agent vary via x-forwarded-for x-forwarded-proto".split()
)
"""Headers with a standard meaning (RFC 9110): an ID in one of them would break the message or mislead its recipient."""

RESERVED_PREFIXES = ("access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-")

LEVEL = each_matches(r"[\w.-]+=(?i:DEBUG|INFO|WARNING|ERROR|CRITICAL)", "a logger level such as app.outbound=DEBUG")
HOST = each_matches(
    r"(\*?\.)?([^\s/@:*\[\]?#]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", "a host, .domain or *.domain with an optional :port"
)
ORIGIN = each_matches(r"\*|https?://[^/]*", "an origin such as https://example.org")


class Settings(EnvironmentSettings):
    """All settings of the service; the defaults are suitable for production."""

    host: str = Field("127.0.0.1", min_length=1, description="address that gunicorn listens on")
    port: int = Field(8000, ge=1, le=65535, description="port that gunicorn listens on")
    workers: int = Field(default_factory=available_processors, ge=1, le=512, description="number of worker processes")
    loop: Literal["auto", "asyncio", "uvloop"] = Field("auto", description="event loop; auto: uvloop if installed")
    debug: bool = Field(False, description="API documentation, error details in responses; never in production")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", description="lowest log level")
    log_levels: Annotated[Words, LEVEL] = Field(
        (), description="log levels of single loggers: app.outbound=WARNING,sqlalchemy=DEBUG"
    )
    log_format: Literal["text", "json"] = Field("text", description="text for people, or json: one object per line")
    log_id_length: int = Field(0, ge=0, description="characters of each ID in log lines; 0: all")
    log_path: Path | None = Field(None, description="folder for log files; empty: stdout and stderr")
    log_rotation: Literal["off", "time", "size"] = Field(
        "off", description="log rotation, for a single process only; time: at midnight; size: at 200 MiB"
    )
    access_log_exclude: Words = Field(("/livez", "/readyz"), description="paths logged only if the request fails")
    masked_query: Words = Field(
        ("token", "pass", "pwd", "secret", "key", "auth", "jwt", "credential", "signature", "session"),
        description="query parameters whose name contains one of these are masked in access log lines",
    )
    masked_log: Words = Field(
        ("authorization", "cookie", "password", "passwd", "secret", "token", "api_key", "access_key", "private_key"),
        description="names of secrets; in log lines, *** replaces the value after such a name (name=…, a JSON key)",
    )

    request_id_header: str = Field(
        "X-Request-ID", pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$", description="header that carries the request ID"
    )
    request_id_trust: Literal["always", "proxies", "never"] = Field(
        "always", description="accept request IDs from callers; proxies: only from those in FORWARDED_ALLOW_IPS"
    )
    forwarded_allow_ips: Words = Field(("127.0.0.1",), description="trusted proxies (X-Forwarded-* headers); *: all")
    cors_origins: Annotated[Words, ORIGIN] = Field((), description="origins that CORS allows; empty: no CORS; *: all")
    outbound_hosts: Annotated[Words, HOST] = Field((), description="hosts to which outgoing calls send the request ID")

    max_body_bytes: int = Field(16 * 1024 * 1024, ge=0, description="maximum bytes of a request body; more: 413")
    limit_request_line: int = Field(8190, ge=64, le=65536, description="maximum bytes of the request target; more: 414")
    limit_request_fields: int = Field(100, ge=1, le=1000, description="maximum number of headers; more: 431")
    limit_request_head: int = Field(32768, ge=256, le=1048576, description="maximum bytes of all headers; more: 431")
    limit_concurrency: int = Field(0, ge=0, description="concurrent requests per worker; more: 503; 0: no limit")
    head_timeout: float = Field(20, gt=0, description="seconds to receive the head of a request; longer: 408")
    body_timeout: float = Field(30, gt=0, description="seconds for a body, plus 1 per 500 bytes received; longer: 408")

    pid_file: Path | None = Field(None, description="file for the master's process ID, for `kill -HUP`; empty: none")
    write_timeout: float = Field(60, gt=0, description="seconds until a client that does not read is disconnected")
    timeout: int = Field(60, ge=2, description="seconds without a heartbeat until a worker is killed")
    graceful_timeout: int = Field(30, ge=2, description="seconds for in-flight requests when a worker stops")
    keepalive: int = Field(65, ge=1, description="seconds until an idle connection is closed")
    max_requests: int = Field(0, ge=0, description="requests until a worker is replaced; 0: never")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("not an address; for a Unix socket, start gunicorn with --bind unix:PATH")
        return value.strip("[]")

    @field_validator("request_id_header")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value.lower() in RESERVED_HEADERS or value.lower().startswith(RESERVED_PREFIXES):
            raise ValueError(f"the header {value} has another meaning; choose a name such as X-Request-ID")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if word != "*":
                ipaddress.ip_network(word, strict=False)
        return value

    @model_validator(mode="after")
    def _rotation_needs_files(self) -> "Settings":
        if self.log_rotation != "off" and self.log_path is None:
            raise ValueError("LOG_ROTATION needs log files: set LOG_PATH to a folder, or set LOG_ROTATION=off")
        return self


current: list[Settings] = []
"""The settings of this process; empty until they are first read or set."""


def use_settings(settings: Settings) -> None:
    """Make these the settings of this process."""
    current[:] = [settings]


def get_settings() -> Settings:
    """Return the settings of this process; the first call reads them from the environment."""
    if not current:
        use_settings(read_settings(Settings))
    return current[0]


def reload_settings() -> Settings:
    """Read the settings again, as on SIGHUP; if a value is now invalid, log it and keep the current settings."""
    try:
        use_settings(read_settings(Settings))
    except SystemExit as error:
        if not current:
            raise
        logging.getLogger("gunicorn.error").error("The current settings stay in effect. %s", error)  # noqa: TRY400
    return current[0]
