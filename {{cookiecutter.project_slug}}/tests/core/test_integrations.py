"""Integrations: found by presence, started and stopped in order, asked whether they are ready, and never in the way."""

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
from app.integrations import CannotStart, lifespans, names, settings_classes
from app.main import Application, create_app
from app.settings import get_settings
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

Add = Callable[..., None]
OF_THE_PROJECT = names()  # before a test puts others in their place

events: list[object] = []
"""What the integrations of a test have done, in their order."""

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
    """Return a function that adds integrations, by the code of their __init__.py; the project's own are left out."""
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    known = dict(sys.modules)
    for name, module in known.items():
        if name.startswith("app.integrations.") and hasattr(module, "__path__"):
            monkeypatch.delitem(sys.modules, name)

    def create(**codes: str) -> None:
        for name, code in codes.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(code)
        importlib.invalidate_caches()

    yield create
    events.clear()
    for name in [name for name in sys.modules if name.startswith("app.integrations.") and name not in known]:
        del sys.modules[name]
        vars(package).pop(name.split(".")[2], None)


def refusal(logs: Logs) -> str:
    """Return the sentence with which the start ends; the log has it once, and the exit status ends gunicorn too."""
    with pytest.raises(CannotStart) as stopped:
        create_app()
    assert stopped.value.code == 3
    sentence = str(stopped.value)
    assert sum(f" {sentence}" in line for line in logs.error) == 1
    return sentence


# Which there are


def test_folders_that_are_packages_are_found_in_the_order_of_their_names(add: Add, tmp_path: Path) -> None:
    add(zeta="", alpha="", mid="")
    (tmp_path / "no_package").mkdir()
    (tmp_path / "no_package" / "leftover.txt").touch()
    (tmp_path / "module.py").touch()
    assert names() == ["alpha", "mid", "zeta"]


def test_the_project_s_integrations_are_its_folders() -> None:
    assert sorted(path.parent.name for path in PROJECT_ROOT.glob("app/integrations/*/__init__.py")) == OF_THE_PROJECT


def test_task_queue_s_worker_gets_no_application() -> None:
    code = "import sys, app.integrations; print(*{'fastapi', 'starlette', 'app.main', 'gunicorn'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize(("added", "told"), [((), "none"), (("beta", "alpha"), "alpha, beta")])
def test_integrations_are_logged_at_startup(added: tuple[str, ...], told: str, add: Add, logs: Logs) -> None:
    add(**dict.fromkeys(added, INSTALL))
    with connect(create_app()) as client:
        assert client.get("/readyz").json()["result"] == "ready"
    assert [line.partition("Integrations: ")[2] for line in logs.error if "Integrations" in line] == [f"{told}."]


# What they add to the application


def test_each_is_installed_with_the_application_and_its_settings(add: Add) -> None:
    add(beta=INSTALL, alpha=f"{INSTALL}    events.append((app, settings))")
    app = create_app()
    assert events == ["install alpha", (app, get_settings()), "install beta"]


def test_routes_of_an_integration_hide_no_others(add: Add) -> None:
    own = "    app.mount('/parcel', fastapi.FastAPI())\n    app.get('/livez')(lambda: 'mine')"
    add(alpha=INSTALL + own, beta=f"{INSTALL}    app.get('/more')(lambda: 'more')")
    client = connect(create_app())
    assert client.get("/livez").json()["result"] == "alive"
    assert client.get("/more").json() == "more"
    assert client.get("/nowhere").json()["code"] == 404


# What they put around the application

WRAP = f"""{INSTALL}
def wrap(app, settings):
    events.append((NAME, settings))
    async def around(scope, receive, send):
        async def observed(message):
            if message["type"] == "http.response.start":
                events.append((NAME, scope["method"], message["status"], current_request_id()))
            await send(message)
        await app(scope, receive, observed)
    return around
"""


def test_what_is_around_the_application_sees_every_request(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add(alpha=WRAP)
    monkeypatch.setenv("CORS_ORIGINS", "https://example.org")
    monkeypatch.setenv("MAX_BODY_BYTES", "10")
    app = create_app()
    assert [event for event in events if isinstance(event, tuple)] == [("alpha", get_settings())], "it is made once"
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
    assert [event[0] for event in events] == ["gamma", "alpha"], "an answer goes outwards"  # type: ignore[index]


def test_without_a_wrap_nothing_is_around(add: Add) -> None:
    add(alpha=INSTALL)
    outermost = create_app().stack
    assert isinstance(outermost, ContextMiddleware)
    assert isinstance(outermost.app, RefusalMiddleware)


def test_what_makes_the_handlers_may_still_be_wrapped(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "get_request_handler", fastapi.routing.get_request_handler)  # to be restored
    add(alpha=HANDLER)
    connect(create_app()).get("/api/demo")
    assert events == ["/api/demo"]


HANDLER = f"""{INSTALL}
    events.clear()
    original = fastapi.routing.get_request_handler
    def wrapper(*args, **kwargs):
        handler = original(*args, **kwargs)
        async def observed(request):
            events.append(request.url.path)
            return await handler(request)
        return observed
    fastapi.routing.get_request_handler = wrapper
"""


# What keeps one from its start


def test_missing_package_is_reported_in_a_sentence(add: Add, logs: Logs) -> None:
    add(alpha="import nowhere.at_all")
    sentence = refusal(logs)
    assert sentence.startswith("The integration alpha does not start. It needs nowhere, which is not installed: ")
    assert sentence.endswith("the folder app/integrations/alpha.")
    assert not any("Traceback" in line for line in logs.error)


@pytest.mark.parametrize(
    ("variables", "told"),
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
def test_bad_value_ends_the_start_and_no_secret_is_logged(
    variables: dict[str, str], told: str, add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    add(alpha=SETTINGS)
    for name, value in variables.items():
        monkeypatch.setenv(f"ALPHA_{name}", value)
    begin, _, more = told.partition(" ... ")
    sentence = refusal(logs)
    assert sentence.startswith(f"The integration alpha does not start. {begin}")
    assert more in sentence
    assert not any(word in line for word in ("hunter", "17,18", "Traceback") for line in logs.error)


def test_classes_of_settings_are_known_without_the_environment(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_defect_keeps_its_traceback(code: str, add: Add, logs: Logs) -> None:
    add(alpha=code)
    assert refusal(logs) == "The integration alpha does not start."
    assert sum("Traceback" in line for line in logs.error) == 1
    assert any("alpha/__init__.py" in line for line in logs.error)


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "def install(app, settings): raise SystemExit"])
def test_worker_stopped_while_it_starts_ends_quietly(code: str, add: Add, logs: Logs) -> None:
    add(alpha=code)
    with pytest.raises(SystemExit) as stopped:
        create_app()
    assert not stopped.value.code
    assert not any("alpha" in line for line in logs.error)


# From start to end


@pytest.fixture
def start(add: Add) -> Callable[..., Application]:
    """Return a function that makes an application with integrations, whose lifespans are still to come."""

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


# Its background task fails as soon as "fail" is among the events.
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
    ("parts", "told"),
    [
        (TASK_GROUP | BREAKS, "ConnectionError: gone"),
        (ANYIO_GROUP | BREAKS, "ConnectionError: gone"),
        (ANYIO_GROUP | CANCELS, ""),
    ],
)
def test_lifespan_that_ends_early_is_reported_and_others_continue(
    parts: dict[str, str], told: str, start: Start, logs: Logs
) -> None:
    ends_early = lifespan(GROUP.format(**parts)) + ready("await asyncio.sleep(0.01)")
    app = start(alpha=lifespan(), beta=ends_early, gamma=lifespan())
    for _ in range(2):  # a new start begins anew
        events.clear()
        with connect(app) as client:
            assert client.get("/readyz").status_code == 200
            events.append("fail")
            answer = client.get("/readyz")
            assert (answer.status_code, answer.json()["cause"]) == (503, "beta: It has ended; the log says why.")
            assert not any(str(event).startswith("leave") for event in events if event != "leave beta")
            assert client.get("/api/demo").status_code == 200
        assert [event for event in events if event != "leave beta"][-2:] == ["leave gamma", "leave alpha"]
    assert sum("The integration beta has ended before its time" in line for line in logs.error) == 2
    assert sum(" ERROR " in line for line in logs.error) == 2
    assert sum(told in line for line in logs.error if told and line.strip().endswith(told)) == (2 if told else 0)


def test_start_that_takes_long_is_logged_and_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setattr(lifespans, "START_SECONDS", 0.05)
    with connect(start(alpha=lifespan("await asyncio.sleep(0.18)\nyield"))) as client:
        assert client.get("/livez").status_code == 200
    told = [line.partition("WARNING ")[2] for line in logs.error if "WARNING" in line]
    assert len(told) >= 2
    assert told[0].startswith("[-] The integration alpha has not started after 0.05")


HANGING = """
yield
try:
    await asyncio.sleep(30)
finally:
    events.append("cut off")
"""
STUBBORN = """
yield
for _ in range(2):
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        events.append("cut off")
"""


@pytest.mark.parametrize("stop", [HANGING, STUBBORN])
def test_stop_that_hangs_is_cut_off_and_named(
    stop: str, start: Start, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setenv("GRACEFUL_TIMEOUT", "2")
    monkeypatch.setattr(lifespans, "LAST_SECONDS", 0.1)
    app = start(alpha=lifespan(), beta=lifespan(stop))
    with pytest.raises(AlreadyLoggedError, match="beta did not stop"), connect(app):
        began = time.monotonic()
    assert time.monotonic() - began < 9
    assert events.index("cut off") < events.index("leave alpha")
    told = [line for line in logs.error if " ERROR " in line]
    assert ["The integration beta did not stop within 0.5 seconds, and is cut off" in line for line in told] == [True]


def test_loop_that_is_closed_by_force_lets_them_leave_quietly(start: Start, logs: Logs) -> None:
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


def test_lifespan_belongs_to_no_request(start: Start, logs: Logs) -> None:
    app = start(alpha=lifespan("logging.info('I am up')\nyield\nlogging.info('I am down')"))

    async def starts_another(scope: Scope, receive: Receive, send: Send) -> None:
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(drive(ContextMiddleware(starts_another), http_scope("/livez")))
    assert [line.partition("INFO ")[2] for line in logs.error if "I am" in line] == ["[-] I am up", "[-] I am down"]


def test_client_needs_no_lifespan(start: Start, logs: Logs) -> None:
    assert connect(start(alpha=lifespan())).get("/api/demo").status_code == 200
    assert events == []
    assert not any("Integrations" in line for line in logs.error)


# Is it ready?


def test_readyz_names_those_that_are_not_ready_as_long_as_they_are_not(start: Start, logs: Logs) -> None:
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
    answer = document["paths"]["/readyz"]["get"]["responses"]["503"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
    assert HEADER in answer["headers"]
    assert "503" not in document["paths"]["/livez"]["get"]["responses"]
