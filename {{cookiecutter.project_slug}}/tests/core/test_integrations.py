"""Integrations: discovery, installation, middlewares, start-up errors, lifespans and readiness checks."""

import asyncio
import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent

import fastapi.routing
import pytest
from starlette.types import Receive, Scope, Send

import app.integrations as package
from app.common.exceptions import AlreadyLoggedError
from app.common.http.refusals import REFUSAL_KEY, Refusal, RefusalMiddleware
from app.common.middlewares import ContextMiddleware
from app.environment import PROJECT_ROOT
from app.integrations import CannotStart, integration_names, lifespans, settings_classes
from app.main import Application, create_app
from app.settings import get_settings
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

Add = Callable[..., None]
PROJECT_INTEGRATIONS = integration_names()  # before the fixture `add` replaces them

events: list[object] = []
"""What the integrations of a test have done, in order."""

INSTALL = """
import anyio
import asyncio
import logging
from contextlib import asynccontextmanager
import fastapi.routing
from app.common.exceptions import NotReady
from app.common.request_id import current_request_id
from tests.core.test_integrations import events

NAME = __name__.rpartition(".")[2]

def install(app, settings):
    events.append("install " + NAME)
"""

SETTINGS = f"""{INSTALL}
from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from app.environment import EnvironmentSettings, Words

class SETTINGS(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="ALPHA_")
    size: int = Field(1, ge=1, description="how many")
    queues: Words = Field(("default",), description="which ones")
    rate: float = Field(1, gt=0, description="how fast")
    ports: list[int] = Field([], repr=False, description="which ports")
    word: str = Field("", repr=False, description="which word")

    @field_validator("size", "word")
    @classmethod
    def _fits(cls, value):
        if value in (7, "hunter2"):
            raise ValueError(str(value) + " is taken")
        return value

    @model_validator(mode="after")
    def _fit(self):
        assert self.word != "hunter3", self.word + " is for others"
        assert self.size != 8, "a size of 8 is for others"
        return self
"""


def lifespan(body: str = "yield") -> str:
    return f"""{INSTALL}
@asynccontextmanager
async def lifespan(app):
    events.append("enter " + NAME)
{indent(body, "    ")}
    events.append("leave " + NAME)
"""


def ready(body: str) -> str:
    return f"\nasync def ready():\n    {body}\n"


@pytest.fixture(autouse=True)
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return a function that adds integrations with the given code; the project's integrations are disabled."""
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    modules_before = dict(sys.modules)
    for name, module in modules_before.items():
        if name.startswith("app.integrations.") and hasattr(module, "__path__"):
            monkeypatch.delitem(sys.modules, name)

    def create(**codes: str) -> None:
        for name, code in codes.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(code)
        importlib.invalidate_caches()

    yield create
    events.clear()
    for name in [name for name in sys.modules if name.startswith("app.integrations.") and name not in modules_before]:
        del sys.modules[name]
        vars(package).pop(name.split(".")[2], None)


def start_error(logs: Logs) -> str:
    """Create the application, which must fail; check exit status and log, and return the reason."""
    with pytest.raises(CannotStart) as raised:
        create_app()
    assert raised.value.code == 3
    sentence = str(raised.value)
    assert sum(f" {sentence}" in line for line in logs.error) == 1
    return sentence


# Discovery


def test_packages_are_found_in_alphabetical_order(add: Add, tmp_path: Path) -> None:
    add(zeta="", alpha="", mid="")
    (tmp_path / "no_package").mkdir()
    (tmp_path / "no_package" / "leftover.txt").touch()
    (tmp_path / "module.py").touch()
    assert integration_names() == ["alpha", "mid", "zeta"]


def test_integrations_of_the_project_are_its_folders() -> None:
    found = sorted(path.parent.name for path in PROJECT_ROOT.glob("app/integrations/*/__init__.py"))
    assert found == PROJECT_INTEGRATIONS


def test_package_imports_neither_web_framework_nor_application() -> None:
    code = "import sys, app.integrations; print(*{'fastapi', 'starlette', 'app.main', 'gunicorn'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize(("added", "logged"), [((), "none"), (("beta", "alpha"), "alpha, beta")])
def test_integrations_are_logged_at_startup(added: tuple[str, ...], logged: str, add: Add, logs: Logs) -> None:
    add(**dict.fromkeys(added, INSTALL))
    with connect(create_app()) as client:
        assert client.get("/readyz").json()["result"] == "ready"
    assert [line.partition("Integrations: ")[2] for line in logs.error if "Integrations" in line] == [f"{logged}."]


# `install`


def test_install_receives_the_application_and_its_settings(add: Add) -> None:
    add(beta=INSTALL, alpha=f"{INSTALL}    events.append((app, settings))")
    app = create_app()
    assert events == ["install alpha", (app, get_settings()), "install beta"]


def test_routes_of_an_integration_do_not_shadow_the_routes_of_the_service(add: Add) -> None:
    own = "    app.mount('/parcel', fastapi.FastAPI())\n    app.get('/livez')(lambda: 'mine')"
    add(alpha=INSTALL + own, beta=f"{INSTALL}    app.get('/more')(lambda: 'more')")
    client = connect(create_app())
    assert client.get("/livez").json()["result"] == "alive"
    assert client.get("/more").json() == "more"
    assert client.get("/nowhere").json()["code"] == 404


# `wrap`

WRAP = f"""{INSTALL}
def wrap(app, settings):
    events.append((NAME, settings))
    async def middleware(scope, receive, send):
        async def observing_send(message):
            if message["type"] == "http.response.start":
                events.append((NAME, scope["method"], message["status"], current_request_id()))
            await send(message)
        await app(scope, receive, observing_send)
    return middleware
"""


def test_middleware_of_an_integration_sees_every_request(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add(alpha=WRAP)
    monkeypatch.setenv("CORS_ORIGINS", "https://example.org")
    monkeypatch.setenv("MAX_BODY_BYTES", "10")
    app = create_app()
    assert [event for event in events if isinstance(event, tuple)] == [("alpha", get_settings())], "one call"
    preflight = {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}
    client = connect(app)

    @app.get("/boom")
    async def boom() -> None:
        raise ZeroDivisionError

    for status, method, path, headers, body in (
        (200, "GET", "/api/demo", {}, ""),
        (404, "GET", "/nowhere", {}, ""),
        (500, "GET", "/boom", {}, ""),
        (200, "OPTIONS", "/api/demo", preflight, ""),
        (413, "POST", "/api/demo", {}, "more than ten bytes"),
    ):
        events.clear()
        client.request(method, path, headers={HEADER: ID, **headers}, content=body)
        assert events == [("alpha", method, status, ID)]
    events.clear()
    asyncio.run(drive(app, {**http_scope("/"), REFUSAL_KEY: Refusal(414, "Too long.")}))
    assert [event[:3] for event in events] == [("alpha", "GET", 414)]  # type: ignore[index]


def test_first_wrap_is_outermost(add: Add) -> None:
    add(beta=INSTALL, alpha=WRAP, gamma=WRAP)
    client = connect(create_app())
    events.clear()
    client.get("/livez")
    assert [event[0] for event in events] == ["gamma", "alpha"], "the response passes the outermost last"  # type: ignore[index]


def test_without_wrap_no_middleware_is_added(add: Add) -> None:
    add(alpha=INSTALL)
    outermost = create_app().stack
    assert isinstance(outermost, ContextMiddleware)
    assert isinstance(outermost.app, RefusalMiddleware)


def test_install_may_patch_the_request_handlers_of_fastapi(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "get_request_handler", fastapi.routing.get_request_handler)  # restored
    add(alpha=HANDLER)
    connect(create_app()).get("/api/demo")
    assert events == ["/api/demo"]


HANDLER = f"""{INSTALL}
    events.clear()
    original = fastapi.routing.get_request_handler
    def wrapper(*args, **kwargs):
        handler = original(*args, **kwargs)
        async def observing_handler(request):
            events.append(request.url.path)
            return await handler(request)
        return observing_handler
    fastapi.routing.get_request_handler = wrapper
"""


# Start-up errors


def test_missing_package_is_reported_in_a_sentence(add: Add, logs: Logs) -> None:
    add(alpha="import nowhere.at_all")
    sentence = start_error(logs)
    assert sentence.startswith("The integration alpha does not start. The module nowhere is not installed: ")
    assert sentence.endswith("the folder app/integrations/alpha.")
    assert not any("Traceback" in line for line in logs.error)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SIZE": "0"}, "The environment variable ALPHA_SIZE is '0': Input should be greater"),
        ({"SIZE": "0", "RATE": "x"}, "The ... ALPHA_SIZE: how many. The environment variable ALPHA_RATE is 'x': "),
        ({"PORTS": "17,18"}, "The environment variable ALPHA_PORTS is not valid JSON, such as [1, 2]. ALPHA_"),
        ({"PORTS": "17,18"}, "The ... ALPHA_PORTS: which ports."),
        ({"SIZE": "7"}, "The environment variable ALPHA_SIZE is '7': 7 is taken. ALPHA_SIZE: how many."),
        ({"WORD": "hunter2"}, "The environment variable ALPHA_WORD is invalid: validation failed. ALPHA_"),
        ({"SIZE": "8"}, "a size of 8 is for others."),
        ({"WORD": "hunter3"}, "The settings are inconsistent."),
    ],
)
def test_invalid_setting_aborts_the_start_and_no_secret_is_logged(
    variables: dict[str, str], reason: str, add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    add(alpha=SETTINGS)
    for name, value in variables.items():
        monkeypatch.setenv(f"ALPHA_{name}", value)
    begin, _, more = reason.partition(" ... ")
    sentence = start_error(logs)
    assert sentence.startswith(f"The integration alpha does not start. {begin}")
    assert more in sentence
    assert not any(word in line for word in ("hunter", "17,18", "Traceback") for line in logs.error)


def test_settings_classes_do_not_read_the_environment(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add(alpha=SETTINGS, beta=INSTALL)
    monkeypatch.setenv("ALPHA_SIZE", "none")
    classes = settings_classes()
    assert list(classes) == ["alpha"]
    assert set(classes["alpha"].model_fields) == {"size", "queues", "rate", "ports", "word"}


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "import app.nothing",
        "from app import nothing",
        "def install(app, settings): 1 / 0",
        "def install(app, settings): app.nothing()",
        f"{INSTALL}\ndef wrap(app, settings): 1 / 0",
    ],
)
def test_unexpected_error_is_logged_with_its_traceback(code: str, add: Add, logs: Logs) -> None:
    add(alpha=code)
    assert start_error(logs) == "The integration alpha does not start."
    assert sum("Traceback" in line for line in logs.error) == 1
    assert any("alpha/__init__.py" in line for line in logs.error)


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "def install(app, settings): raise SystemExit"])
def test_worker_that_is_stopped_during_its_start_exits_silently(code: str, add: Add, logs: Logs) -> None:
    add(alpha=code)
    with pytest.raises(SystemExit) as raised:
        create_app()
    assert not raised.value.code
    assert not any("alpha" in line for line in logs.error)


# `lifespan`


@pytest.fixture
def start(add: Add) -> Callable[..., Application]:
    """Return a function that creates an application with integrations; their lifespans have not started."""

    def create(**codes: str) -> Application:
        add(**codes)
        app = create_app()
        events.clear()
        return app

    return create


Start = Callable[..., Application]


def test_lifespans_are_entered_in_order_and_left_in_reverse(start: Start) -> None:
    with connect(start(beta=INSTALL, gamma=lifespan(), alpha=lifespan())):
        assert events == ["enter alpha", "enter gamma"]
    assert events[2:] == ["leave gamma", "leave alpha"]


@pytest.mark.parametrize(
    "failure", ["ConnectionError('gone')", "SystemExit('No folder.')", "asyncio.CancelledError('by itself')"]
)
@pytest.mark.parametrize(("step", "body"), [("start", "raise {}\nyield"), ("stop", "yield\nraise {}")])
def test_lifespan_that_fails_is_named_and_the_others_are_left(
    step: str, body: str, failure: str, start: Start, logs: Logs
) -> None:
    app = start(alpha=lifespan(), beta=lifespan(body.format(failure)), gamma=lifespan())
    with pytest.raises(AlreadyLoggedError, match=f"The integration beta did not {step}"), connect(app):
        pass
    between = ["enter gamma", "leave gamma"] if step == "stop" else []
    assert events == ["enter alpha", "enter beta", *between, "leave alpha"]
    assert sum(f"The integration beta did not {step}" in line for line in logs.error) == 1
    assert sum("ConnectionError: gone" in line for line in logs.error) == ("ConnectionError" in failure)


# The background task fails when "fail" is among the events.
GROUP = """
async def fail():
    while "fail" not in events:
        await asyncio.sleep(0)
    {failure}
async with {group} as group:
    group.{start}
    yield
"""
TASK_GROUP = {"group": "asyncio.TaskGroup()", "start": "create_task(fail())"}
ANYIO_GROUP = {"group": "anyio.create_task_group()", "start": "start_soon(fail)"}
BREAKS = {"failure": "raise ConnectionError('gone')"}
CANCELS = {"failure": "group.cancel_scope.cancel()"}


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        (TASK_GROUP | BREAKS, "ConnectionError: gone"),
        (ANYIO_GROUP | BREAKS, "ConnectionError: gone"),
        (ANYIO_GROUP | CANCELS, ""),
    ],
)
def test_lifespan_that_ends_early_is_reported_and_others_continue(
    parts: dict[str, str], error: str, start: Start, logs: Logs
) -> None:
    ends_early = lifespan(GROUP.format(**parts)) + ready("await asyncio.sleep(0.01)")
    app = start(alpha=lifespan(), beta=ends_early, gamma=lifespan())
    for _ in range(2):  # a restart resets the state
        events.clear()
        with connect(app) as client:
            assert client.get("/readyz").status_code == 200
            events.append("fail")
            response = client.get("/readyz")
            cause = "beta: Its background work ended unexpectedly: see the log and restart the service."
            assert (response.status_code, response.json()["cause"]) == (503, cause)
            assert not any(str(event).startswith("leave") for event in events if event != "leave beta")
            assert client.get("/api/demo").status_code == 200
        assert [event for event in events if event != "leave beta"][-2:] == ["leave gamma", "leave alpha"]
    assert sum("The integration beta ended unexpectedly" in line for line in logs.error) == 2
    assert sum(" ERROR " in line for line in logs.error) == 2
    assert sum(error in line for line in logs.error if error and line.strip().endswith(error)) == (2 if error else 0)


def test_slow_start_is_logged_and_awaited(start: Start, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    monkeypatch.setattr(lifespans, "START_WARNING_SECONDS", 0.05)
    with connect(start(alpha=lifespan("await asyncio.sleep(0.18)\nyield"))) as client:
        assert client.get("/livez").status_code == 200
    warnings = [line.partition("WARNING ")[2] for line in logs.error if "WARNING" in line]
    assert len(warnings) >= 2
    assert warnings[0].startswith("[-] The integration alpha has not started after 0.05")


HANGING = """
yield
try:
    await asyncio.sleep(30)
finally:
    events.append("cancelled")
"""
STUBBORN = """
yield
for _ in range(2):
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        events.append("cancelled")
"""


@pytest.mark.parametrize("stop", [HANGING, STUBBORN])
def test_lifespan_that_hangs_at_shutdown_is_cancelled_and_named(
    stop: str, start: Start, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setenv("GRACEFUL_TIMEOUT", "2")
    monkeypatch.setattr(lifespans, "CANCEL_SECONDS", 0.1)
    app = start(alpha=lifespan(), beta=lifespan(stop))
    with pytest.raises(AlreadyLoggedError, match="beta did not stop"), connect(app):
        began = time.monotonic()
    assert time.monotonic() - began < 9
    assert events.index("cancelled") < events.index("leave alpha")
    errors = [line for line in logs.error if " ERROR " in line]
    assert len(errors) == 1
    assert "The integration beta did not stop within 0.5 seconds and was cancelled" in errors[0]


def test_forced_exit_leaves_the_lifespans_without_errors(start: Start, logs: Logs) -> None:
    leaves = lifespan("try:\n    yield\nfinally:\n    events.append('left')")
    app = start(alpha=leaves, beta=leaves, gamma=leaves)

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.Event().wait()

    async def main() -> None:
        serving = asyncio.create_task(serve())
        while "enter gamma" not in events:
            assert not serving.done()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert events.count("left") == 3
    assert not any(" ERROR " in line for line in logs.error)


def test_lifespan_has_no_request_id(start: Start, logs: Logs) -> None:
    app = start(alpha=lifespan("logging.info('I am up')\nyield\nlogging.info('I am down')"))

    async def start_inner_app(scope: Scope, receive: Receive, send: Send) -> None:
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(drive(ContextMiddleware(start_inner_app), http_scope("/livez")))
    assert [line.partition("INFO ")[2] for line in logs.error if "I am" in line] == ["[-] I am up", "[-] I am down"]


def test_requests_work_without_the_lifespan(start: Start, logs: Logs) -> None:
    assert connect(start(alpha=lifespan())).get("/api/demo").status_code == 200
    assert events == []
    assert not any("Integrations" in line for line in logs.error)


# `ready`


def test_readyz_names_integrations_that_are_not_ready(start: Start, logs: Logs) -> None:
    checks = {name: ready(f"if 'broken' in events: raise NotReady('Its {name} fails.')") for name in ("gamma", "alpha")}
    codes = {name: INSTALL + check for name, check in checks.items()}
    client = connect(start(**codes, beta=INSTALL + ready("pass")))
    response = client.get("/readyz", headers={HEADER: ID})
    assert (response.status_code, response.json()["result"]) == (200, "ready")
    assert logs.access == []
    events.append("broken")
    response = client.get("/readyz", headers={HEADER: ID})
    cause = "alpha: Its alpha fails. gamma: Its gamma fails."
    assert (response.status_code, response.headers[HEADER]) == (503, ID)
    assert response.json() == {"code": 503, "message": "failed", "cause": cause, "request_id": ID, "result": None}
    assert [line.partition("WARNING ")[2] for line in logs.error] == [f"[{ID}] Not ready: {cause}"]
    assert client.get("/livez").status_code == 200
    events.clear()
    assert client.get("/readyz").status_code == 200
    assert [f"{ID} 503 " in line for line in logs.access] == [True]


def test_openapi_documents_503_of_readyz() -> None:
    document = create_app().openapi()
    response = document["paths"]["/readyz"]["get"]["responses"]["503"]
    assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
    assert HEADER in response["headers"]
    assert "503" not in document["paths"]["/livez"]["get"]["responses"]
