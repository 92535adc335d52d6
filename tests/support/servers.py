"""The command lines of the servers under which the service must behave the same."""

from collections.abc import Callable

Command = list[str]


def gunicorn(*options: str) -> Callable[[str, int], Command]:
    """Gunicorn with the service's configuration file and worker."""
    return lambda app, _port: ["gunicorn", "-c", "gun.py", *options, app]


def uvicorn(*options: str) -> Callable[[str, int], Command]:
    """Uvicorn without gunicorn."""
    return lambda app, port: ["uvicorn", app, *_address(port), *options]


def hypercorn(*options: str) -> Callable[[str, int], Command]:
    """Hypercorn with one worker."""
    return lambda app, port: ["hypercorn", "--bind", f"127.0.0.1:{port}", *options, app]


def granian(*options: str) -> Callable[[str, int], Command]:
    """Granian with one worker."""
    return lambda app, port: ["granian", "--interface", "asgi", *_address(port), *options, app]


def _address(port: int) -> Command:
    return ["--host", "127.0.0.1", "--port", str(port)]


SERVERS: dict[str, Callable[[str, int], Command]] = {
    "gunicorn": gunicorn(),
    "gunicorn-asgi": gunicorn("-k", "asgi"),
    "uvicorn": uvicorn(),
    "uvicorn-json": uvicorn("--log-config", "log_config.json"),
    "uvicorn-yaml": uvicorn("--log-config", "log_config.yaml", "--http", "h11"),
    "uvicorn-h11-uvloop": uvicorn("--http", "h11", "--loop", "uvloop"),
    "uvicorn-protocol": uvicorn("--http", "app.common.server.protocol:RequestHttpProtocol", "--no-proxy-headers"),
    "hypercorn": hypercorn(),
    "hypercorn-json": hypercorn("--log-config", "json:log_config.json"),
    "granian": granian(),
}
