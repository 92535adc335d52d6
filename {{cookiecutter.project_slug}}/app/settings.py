"""Environment variables become one frozen `Settings`; a bad value stops the start with a sentence."""

import ipaddress
import logging
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from app.environment import EnvironmentSettings, Words, each, read_settings


def available_processors() -> int:
    """Return the number of processors this process may use, which a container's CPU set makes smaller."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


HEADERS_WITH_A_MEANING = frozenset(
    "accept allow authorization cache-control connection content-encoding content-length content-type cookie date etag "  # noqa: SIM905
    "expect host keep-alive location origin range referer server set-cookie te trailer transfer-encoding upgrade "
    "user-agent vary via x-forwarded-for x-forwarded-proto".split()
)
"""An ID in one of these would break the message or mislead its reader (RFC 9110)."""

PREFIXES_WITH_A_MEANING = ("access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-")

LEVEL = each(r"[\w.-]+=(?i:DEBUG|INFO|WARNING|ERROR|CRITICAL)", "a logger and its level such as app.outbound=DEBUG")
HOST = each(
    r"(\*?\.)?([^\s/@:*\[\]?#]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", "a host, .domain or *.domain with an optional :port"
)
ORIGIN = each(r"\*|https?://[^/]*", "an origin such as https://example.org")


class Settings(EnvironmentSettings):
    """Everything that the environment may decide, with a default that is sound in production."""

    host: str = Field("127.0.0.1", min_length=1, description="address that gunicorn binds")
    port: int = Field(8000, ge=1, le=65535, description="port that gunicorn binds")
    workers: int = Field(default_factory=available_processors, ge=1, le=512, description="worker processes")
    loop: Literal["auto", "asyncio", "uvloop"] = Field("auto", description="event loop; auto: uvloop where installed")
    debug: bool = Field(False, description="docs pages, readable errors; never in production")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", description="lowest level kept")
    log_levels: Annotated[Words, LEVEL] = Field(
        (), description="levels of single loggers: app.outbound=WARNING,sqlalchemy=DEBUG"
    )
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or one JSON object a line")
    log_id_length: int = Field(0, ge=0, description="characters of each ID that a line shows; 0: all")
    log_path: Path | None = Field(None, description="folder for log files; empty: stdout and stderr")
    log_rotation: Literal["off", "time", "size"] = Field(
        "off", description="a single process rotates: midnight, 200 MiB"
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
    request_id_trust: Literal["always", "proxies", "never"] = Field("always", description="whose incoming IDs are kept")
    forwarded_allow_ips: Words = Field(("127.0.0.1",), description="proxies whose X-Forwarded-* count; * for everyone")
    cors_origins: Annotated[Words, ORIGIN] = Field(
        (), description="origins that browsers may call from; empty: no CORS; * for all"
    )
    outbound_hosts: Annotated[Words, HOST] = Field((), description="hosts that get the ID on outgoing calls")

    max_body_bytes: int = Field(16 * 1024 * 1024, ge=0, description="larger request bodies: 413")
    limit_request_line: int = Field(8190, ge=64, le=65536, description="bytes of the request target; more: 414")
    limit_request_fields: int = Field(100, ge=1, le=1000, description="header lines; more: 431")
    limit_request_head: int = Field(32768, ge=256, le=1048576, description="bytes of all header lines; more: 431")
    limit_concurrency: int = Field(0, ge=0, description="requests a worker serves at a time; more: 503; 0: no limit")
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

    @model_validator(mode="after")
    def _rotation_needs_files(self) -> "Settings":
        if self.log_rotation != "off" and self.log_path is None:
            raise ValueError("LOG_ROTATION rotates files: set LOG_PATH to a folder as well, or LOG_ROTATION=off")
        return self


current: list[Settings] = []
"""The settings of this process, once there are any."""


def use_settings(settings: Settings) -> None:
    """Make these the settings of this process."""
    current[:] = [settings]


def get_settings() -> Settings:
    """Return the settings of this process; the first call reads them from the environment."""
    if not current:
        use_settings(read_settings(Settings))
    return current[0]


def reload_settings() -> Settings:
    """Read the settings again, as at SIGHUP; a value that has become bad is logged, and nothing changes."""
    try:
        use_settings(read_settings(Settings))
    except SystemExit as error:
        if not current:
            raise
        logging.getLogger("gunicorn.error").error("The settings stay as they were. %s", error)  # noqa: TRY400
    return current[0]
