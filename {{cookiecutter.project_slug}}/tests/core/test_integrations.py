"""Integrations: found by presence, started and stopped in order, asked whether they are ready, and never in the way."""

import asyncio
import importlib
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import fastapi.routing
import pytest
from gunicorn.config import Config
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

import app.integrations as package
from app.common import lifespans
from app.common.exceptions import AlreadyLoggedError
from app.common.log_handler import configure_logging
from app.common.middlewares import ContextMiddleware
from app.common.refusal import REFUSAL_KEY, Refusal
from app.integrations import CannotStart, names, observe_work, settings_classes
from app.integrations.server_hooks import HOOKS, MUST_WORK, Hook, with_hooks_of_integrations
from app.main import create_app
from app.services import health
from app.settings import PROJECT_ROOT, get_settings, read_settings
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

Add = Callable[..., Path]
OF_THE_PROJECT = names()  # before a test puts others in their place

events: list[object] = []
"""What the integrations of a test have done, in their order."""

INSTALL = """
from contextlib import asynccontextmanager
from app.common.exceptions import NotReady
from tests.core.test_integrations import events

def install(app, settings):
    events.append(f"install {__name__.rpartition('.')[2]}")
"""
MOUNT = (
    INSTALL.replace("{", "{{").replace("}", "}}")
    + """
    from fastapi import FastAPI
    app.mount('{path}', FastAPI())
"""
)
LIFESPAN = f"""{INSTALL}
@asynccontextmanager
async def lifespan(app):
    events.append(f"enter {{__name__.rpartition('.')[2]}}")
    yield
    events.append(f"leave {{__name__.rpartition('.')[2]}}")
"""


@pytest.fixture(autouse=True)
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return a function that adds an integration; those of the project stay out."""
    folder = tmp_path / "integrations"
    folder.mkdir()
    monkeypatch.setattr(package, "__path__", [str(folder)])
    known = dict(sys.modules)
    for name, module in known.items():
        if name.startswith("app.integrations.") and hasattr(module, "__path__"):
            monkeypatch.delitem(sys.modules, name)

    def create(name: str, code: str = INSTALL, **files: str) -> Path:
        (folder / name).mkdir()
        for file, text in {"__init__": code, **files}.items():
            (folder / name / f"{file}.py").write_text(text)
        importlib.invalidate_caches()
        return folder / name

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


def test_folders_that_are_packages_are_found_in_the_order_of_their_names(add: Add) -> None:
    for name in ("zeta", "alpha", "mid"):
        add(name)
    (package_folder := Path(package.__path__[0]) / "no_package").mkdir()
    (package_folder / "leftover.txt").touch()
    (Path(package.__path__[0]) / "module.py").touch()
    assert names() == ["alpha", "mid", "zeta"]


def test_the_project_s_integrations_are_its_folders() -> None:
    assert sorted(path.parent.name for path in PROJECT_ROOT.glob("app/integrations/*/__init__.py")) == OF_THE_PROJECT


def test_a_task_queue_s_worker_gets_no_application() -> None:
    code = "import sys, app.integrations; print(*{'fastapi', 'starlette', 'app.main', 'gunicorn'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize(("added", "told"), [((), "none"), (("beta", "alpha"), "alpha, beta")])
def test_integrations_are_logged_at_startup(added: tuple[str, ...], told: str, add: Add, logs: Logs) -> None:
    for name in added:
        add(name)
    with connect(create_app()) as client:
        assert client.get("/readyz").json()["result"] == "ready"
    assert [line.partition("Integrations: ")[2] for line in logs.error if "Integrations" in line] == [f"{told}."]


# What they add to the application


def test_each_is_installed_with_the_application_and_its_settings(add: Add) -> None:
    add("beta")
    add("alpha", f"{INSTALL}    events.append((app, settings))\n")
    app = create_app()
    assert events == ["install alpha", (app, get_settings()), "install beta"]


def test_no_route_of_an_integration_stands_before_one_of_ours(add: Add) -> None:
    add("alpha", f"{INSTALL}    app.get('/livez')(lambda: 'mine')\n    app.get('/more')(lambda: 'more')\n")
    client = connect(create_app())
    assert client.get("/livez").json()["result"] == "alive"
    assert client.get("/more").json() == "more"


def test_what_is_mounted_at_a_path_of_its_own_hides_nothing(add: Add) -> None:
    add("alpha", MOUNT.format(path="/parcel"))
    add("beta", f"{INSTALL}    app.get('/more')(lambda: 'more')\n")
    client = connect(create_app())
    assert client.get("/more").json() == "more"
    assert client.get("/nowhere").json()["code"] == 404


# What they put around the application

WRAP = f"""{INSTALL}
def wrap(app, settings):
    name = __name__.rpartition('.')[2]
    events.append((name, settings))
    async def around(scope, receive, send):
        async def observed(message):
            if message["type"] == "http.response.start":
                events.append((name, scope["method"], message["status"], current_request_id()))
            await send(message)
        await app(scope, receive, observed)
    return around

from app.common.request_id import current_request_id
"""


def test_what_is_around_the_application_sees_every_request(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("alpha", WRAP)
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
    for name in ("beta", "alpha", "gamma"):
        add(name, INSTALL if name == "beta" else WRAP)
    client = connect(create_app())
    events.clear()
    client.get("/livez")
    assert [event[0] for event in events] == ["gamma", "alpha"], "an answer goes outwards"  # type: ignore[index]


def test_without_a_wrap_nothing_is_around(add: Add) -> None:
    add("alpha")
    app = create_app()
    connect(app).get("/livez")
    door = app.middleware_stack
    assert isinstance(door, ContextMiddleware)
    assert (door.app, door.refuser) == (app.served, app.refuser)


def test_what_makes_the_handlers_may_still_be_wrapped(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "get_request_handler", fastapi.routing.get_request_handler)  # to be restored
    add(
        "alpha",
        """
import fastapi.routing
from tests.core.test_integrations import events

def install(app, settings):
    original = fastapi.routing.get_request_handler
    def wrapper(*args, **kwargs):
        handler = original(*args, **kwargs)
        async def observed(request):
            events.append(request.url.path)
            return await handler(request)
        return observed
    fastapi.routing.get_request_handler = wrapper
""",
    )
    connect(create_app()).get("/api/demo")
    assert events == ["/api/demo"]


# What keeps one from its start


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("", "{init} has no `install(app, settings)`"),
        ("install = 1", "{init} has no `install(app, settings)`"),
        (f"{INSTALL}\nwrap = 1", "{init} has a `wrap` that is no function"),
        (f"{INSTALL}\nlifespan = 1", "{init} has a `lifespan` that is no function"),
        (f"{INSTALL}\ndef ready(): pass", "{init} has a `ready` that is no `async def ready()`"),
        (f"{INSTALL}\ndef wrap(app, settings): return None", "Its `wrap` returns no application."),
        (MOUNT.format(path=""), "It mounts something at /, which would answer for ... mount it at a path of its own."),
        (MOUNT.format(path="/"), "It mounts something at /, which would answer for ... mount it at a path of its own."),
        (
            "import nowhere.at_all",
            "It needs nowhere, which is not installed: ... remove the folder app/integrations/alpha.",
        ),
    ],
)
def test_integration_that_cannot_start_is_reported_in_a_sentence(code: str, told: str, add: Add, logs: Logs) -> None:
    add("alpha", code)
    begin, _, end = told.replace("{init}", "app/integrations/alpha/__init__.py").partition(" ... ")
    sentence = refusal(logs)
    assert sentence.startswith(f"The integration alpha does not start. {begin}")
    assert sentence.endswith(end)
    assert not any("Traceback" in line for line in logs.error)


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
def test_a_defect_keeps_its_traceback(code: str, add: Add, logs: Logs) -> None:
    add("alpha", code)
    assert refusal(logs) == "The integration alpha does not start."
    assert sum("Traceback" in line for line in logs.error) == 1
    assert any("alpha/__init__.py" in line for line in logs.error)


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "def install(app, settings): raise SystemExit"])
def test_a_worker_that_is_told_to_end_while_it_starts_ends_quietly(code: str, add: Add, logs: Logs) -> None:
    add("alpha", code)
    with pytest.raises(SystemExit) as stopped:
        create_app()
    assert not stopped.value.code
    assert not any("alpha" in line for line in logs.error)


@pytest.mark.parametrize("name", ["log", "names", "starting", "import_module", "server_hooks", "logging"])
def test_a_folder_may_not_have_a_name_of_the_package_s_own(name: str, add: Add, logs: Logs) -> None:
    add(name)
    told = f"app/integrations needs the name {name} itself: rename the folder app/integrations/{name}."
    assert refusal(logs) == f"The integration {name} does not start. {told}"


def test_reserved_folder_name_is_reported_before_its_import(tmp_path: Path) -> None:
    shutil.copytree(PROJECT_ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (folder := tmp_path / "app" / "integrations" / "server_hooks").mkdir()
    (folder / "__init__.py").write_text("def install(app, settings): pass\n")
    code = "from app.integrations.server_hooks import with_hooks_of_integrations"
    run = subprocess.run([sys.executable, "-Bc", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("app/integrations needs the name server_hooks itself: rename the folder")
    assert "Traceback" not in run.stderr


# What they watch in a process that works on tasks

OBSERVE = f"{INSTALL}\ndef observe(settings):\n    events.append((__name__.rpartition('.')[2], settings))\n"


def test_a_worker_of_tasks_is_observed_by_those_that_want_to(add: Add, logs: Logs) -> None:
    for name in ("beta", "alpha"):
        add(name, OBSERVE)
    add("gamma", "1 / 0  # observes nothing, so it is not even imported")
    observe_work(get_settings())
    assert events == [("alpha", get_settings()), ("beta", get_settings())]
    assert logs.error == []


def test_an_observer_that_fails_ends_the_worker_with_a_sentence(add: Add, logs: Logs) -> None:
    add("alpha", OBSERVE.replace("events.append", "raise SystemExit('ALPHA_SIZE is bad.')  # "))
    configure_logging(get_settings())
    with pytest.raises(CannotStart, match=r"^The integration alpha does not start\. ALPHA_SIZE is bad\.$"):
        observe_work(get_settings())
    assert len(logs.error) == 1


# Its settings

SETTINGS = f"""{INSTALL}    events.append(read_settings(SETTINGS))

from pydantic import Field
from app.settings import EnvironmentSettings, SettingsConfigDict, Words, read_settings

class SETTINGS(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="ALPHA_")
    size: int = Field(1, ge=1, description="how many")
    queues: Words = Field(("default",), description="which ones")
    rate: float = Field(1, gt=0, description="how fast")
"""


def test_settings_have_the_prefix(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("alpha", SETTINGS)
    for name, text in {"SIZE": "-1", "ALPHA_SIZE": "2", "ALPHA_QUEUES": "a, b"}.items():
        monkeypatch.setenv(name, text)
    create_app()
    assert [(read.size, read.queues) for read in events[1:]] == [(2, ("a", "b"))]  # type: ignore[attr-defined]


def test_a_bad_value_ends_the_start_even_if_nobody_reads_it(
    add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    add("alpha", SETTINGS.replace("    events.append(read_settings(SETTINGS))", ""))
    monkeypatch.setenv("ALPHA_SIZE", "0")
    monkeypatch.setenv("ALPHA_RATE", "fast")
    sentence = refusal(logs)
    assert "The environment variable ALPHA_SIZE is '0': Input should be greater" in sentence
    assert " ALPHA_SIZE is: how many. The environment variable ALPHA_RATE is 'fast': " in sentence


def test_a_setting_has_a_default(add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    add("alpha", SETTINGS.replace('Field(("default",), ', "Field("))
    monkeypatch.setenv("ALPHA_QUEUES", "a")
    sentence = refusal(logs)
    assert "app/integrations/alpha/__init__.py has SETTINGS without a default: ALPHA_QUEUES. Give each one" in sentence


def test_their_classes_are_known_without_the_environment(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("alpha", SETTINGS)
    add("beta")
    monkeypatch.setenv("ALPHA_SIZE", "none")
    classes = settings_classes()
    assert list(classes) == ["alpha"]
    assert set(classes["alpha"].model_fields) == {"size", "queues", "rate"}


def test_a_value_that_cannot_be_taken_apart_is_told_in_a_sentence(
    add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    add("alpha", SETTINGS.replace("rate: float = Field(1, gt=0, ", "rate: list[int] = Field([], repr=False, "))
    monkeypatch.setenv("ALPHA_RATE", "17,18")
    assert refusal(logs).endswith(
        "The environment variable ALPHA_RATE is not written in JSON, such as [1, 2]. ALPHA_RATE is: how fast."
    )
    assert not any("17,18" in line or "Traceback" in line for line in logs.error)


SECRET = f"""from pydantic import field_validator, model_validator
{SETTINGS.replace("rate: float = Field(1, gt=0, ", "rate: str = Field('', repr=False, ")}
    @field_validator("size", "rate")
    @classmethod
    def _fits(cls, value):
        if value in (7, "hunter2"):
            raise ValueError(f"{{value}} is taken")
        return value

    @model_validator(mode="after")
    def _fit(self):
        assert self.rate != "hunter3", f"{{self.rate}} is for others"
        assert self.size != 8, "a size of 8 is for others"
        return self
"""


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SIZE", "7", "The environment variable ALPHA_SIZE is '7': 7 is taken. ALPHA_SIZE is: how many."),
        ("RATE", "hunter2", "The environment variable ALPHA_RATE is not what it should be: its check failed. ALPHA_"),
        ("SIZE", "8", "a size of 8 is for others."),
        ("RATE", "hunter3", "The settings do not fit together."),
    ],
)
def test_a_validator_s_own_words_tell_no_secret(
    name: str, value: str, told: str, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("alpha", SECRET)
    monkeypatch.setenv(f"ALPHA_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        read_settings(settings_classes()["alpha"])
    assert str(stopped.value).startswith(told)
    assert "hunter" not in str(stopped.value)


# From start to end


def test_lifespans_are_entered_in_order_and_left_in_reverse(add: Add) -> None:
    for name in ("beta", "gamma", "alpha"):
        add(name, INSTALL if name == "beta" else LIFESPAN)
    app = create_app()
    events.clear()
    with connect(app):
        assert events == ["enter alpha", "enter gamma"]
    assert events[2:] == ["leave gamma", "leave alpha"]


@pytest.mark.parametrize(
    "failure", ["ConnectionError('gone')", "SystemExit('No folder.')", "asyncio.CancelledError('by itself')"]
)
@pytest.mark.parametrize(("step", "between"), [("start", []), ("stop", ["enter gamma", "leave gamma"])])
def test_lifespan_that_fails_is_named_and_the_others_are_left(
    step: str, between: list[str], failure: str, add: Add, logs: Logs
) -> None:
    statement = f"    raise {failure}\n"
    code = f"    yield\n{statement}" if step == "stop" else f"{statement}    yield\n"
    for name in ("alpha", "gamma"):
        add(name, LIFESPAN)
    add("beta", f"import asyncio\n{LIFESPAN.replace('    yield', code)}")
    app = create_app()
    events.clear()
    with pytest.raises(AlreadyLoggedError, match=f"The integration beta did not {step}"), connect(app):
        pass
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
    parts: dict[str, str], told: str, add: Add, logs: Logs
) -> None:
    add("alpha", LIFESPAN)
    add("beta", f"import anyio, asyncio\n{LIFESPAN.replace('    yield', GROUP.format(**parts))}{READY_CODE}")
    add("gamma", LIFESPAN)
    app = create_app()
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


READY_CODE = "\nasync def ready(): await asyncio.sleep(0.01)\n"


def test_a_start_that_takes_long_is_told_and_waited_for(add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs) -> None:
    monkeypatch.setattr(lifespans, "START_SECONDS", 0.05)
    add("alpha", "import asyncio\n" + LIFESPAN.replace("    yield", "    await asyncio.sleep(0.18)\n    yield"))
    with connect(create_app()) as client:
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
def test_a_stop_that_hangs_is_cut_off_and_named(
    stop: str, add: Add, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    monkeypatch.setenv("GRACEFUL_TIMEOUT", "2")
    monkeypatch.setattr(lifespans, "LAST_SECONDS", 0.1)
    add("alpha", LIFESPAN)
    add("beta", f"import asyncio\n{LIFESPAN.replace('    yield', stop)}")
    with pytest.raises(AlreadyLoggedError, match="beta did not stop"), connect(create_app()):
        began = time.monotonic()
    assert time.monotonic() - began < 9
    assert events.index("cut off") < events.index("leave alpha")
    told = [line for line in logs.error if " ERROR " in line]
    assert ["The integration beta did not stop within 0.5 seconds, and is cut off" in line for line in told] == [True]


def test_a_loop_that_is_closed_by_force_lets_them_leave_quietly(add: Add, logs: Logs) -> None:
    for name in ("alpha", "beta", "gamma"):
        add(name, LIFESPAN.replace("    yield", "    try:\n        yield\n    finally:\n        events.append('left')"))
    app = create_app()

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


def test_what_a_lifespan_logs_belongs_to_no_request(add: Add, logs: Logs) -> None:
    add("alpha", f"import logging\n{LIFESPAN.replace('    yield', TELL)}")

    async def starts_another(scope: Scope, receive: Receive, send: Send) -> None:
        inner = create_app()
        async with inner.router.lifespan_context(inner):
            await inner(scope, receive, send)

    asyncio.run(drive(ContextMiddleware(starts_another), http_scope("/livez")))
    assert [line.partition("INFO ")[2] for line in logs.error if "I am" in line] == ["[-] I am up", "[-] I am down"]


TELL = "    logging.info('I am up')\n    yield\n    logging.info('I am down')\n"


def test_a_client_needs_no_lifespan(add: Add, logs: Logs) -> None:
    add("alpha", LIFESPAN)
    assert connect(create_app()).get("/api/demo").status_code == 200
    assert events == ["install alpha"]
    assert not any("Integrations" in line for line in logs.error)


# Is it ready?

READY = f"{INSTALL}\nasync def ready():\n    "
NOT_READY = f"{READY}raise NotReady('The broker does not answer.')"
HANGS = f"""{READY}import asyncio
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        events.append("cancelled")
        await asyncio.sleep(10)
"""


@pytest.fixture
def probe(add: Add, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """Return a function that makes a client of a service with these integrations."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.2)

    def create(**codes: str) -> TestClient:
        for name, code in codes.items():
            add(name, code)
        return connect(create_app())

    return create


def test_readyz_is_200_when_all_checks_pass(probe: Callable[..., TestClient], logs: Logs) -> None:
    response = probe(alpha=f"{READY}events.append('asked')", beta=INSTALL).get("/readyz", headers={HEADER: ID})
    assert (response.status_code, response.json()["result"]) == (200, "ready")
    assert "asked" in events
    assert logs.access == []


def test_each_that_is_not_ready_is_named_and_the_line_is_written(probe: Callable[..., TestClient], logs: Logs) -> None:
    client = probe(gamma=NOT_READY, alpha=NOT_READY.replace("broker", "cache"), beta=f"{READY}pass")
    response = client.get("/readyz", headers={HEADER: ID})
    cause = "alpha: The cache does not answer. gamma: The broker does not answer."
    assert (response.status_code, response.headers[HEADER]) == (503, ID)
    assert response.json() == {"code": 503, "message": "failed", "cause": cause, "request_id": ID, "result": None}
    assert [f"{ID} 503 " in line for line in logs.access] == [True]
    assert [line.partition("WARNING ")[2] for line in logs.error] == [f"[{ID}] Not ready: {cause}"]
    assert client.get("/livez").status_code == 200


def test_a_check_that_crashes_is_named_and_its_traceback_is_in_the_log(
    probe: Callable[..., TestClient], logs: Logs
) -> None:
    response = probe(alpha=f"{READY}raise OSError('broker://user:secret@host')").get("/readyz", headers={HEADER: ID})
    assert (response.status_code, response.json()["cause"]) == (503, "alpha: Its check failed; the log says how.")
    assert sum(f"[{ID}] The readiness check of alpha failed" in line for line in logs.error) == 1
    assert logs.error.count("    OSError: broker://user:***@host") == 1


def test_a_check_that_hangs_is_cut_off_and_named(probe: Callable[..., TestClient]) -> None:
    client = probe(alpha=HANGS, beta=f"{READY}pass", gamma=NOT_READY)
    began = time.monotonic()
    response = client.get("/readyz")
    assert time.monotonic() - began < 9
    cause = "alpha: It did not answer within 0.2 seconds. gamma: The broker does not answer."
    assert (response.status_code, response.json()["cause"]) == (503, cause)
    assert "cancelled" in events


def test_the_checks_run_side_by_side(probe: Callable[..., TestClient]) -> None:
    waits = "import asyncio\n    while len([e for e in events if e == 'here']) < 2:\n        await asyncio.sleep(0)"
    both = f"{READY}events.append('here')\n    {waits}"
    assert probe(alpha=both, beta=both).get("/readyz").status_code == 200


def test_a_check_does_not_outlive_its_request() -> None:
    async def check() -> None:
        await asyncio.sleep(10)

    async def leave() -> set[str]:
        asked = asyncio.create_task(health.ask({"alpha": check}))
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.sleep(0.01)
        return {task.get_name() for task in asyncio.all_tasks()} - {"main"}

    async def main() -> None:
        asyncio.current_task().set_name("main")  # type: ignore[union-attr]
        assert await leave() == set()

    asyncio.run(main())


def test_readyz_recovers(probe: Callable[..., TestClient]) -> None:
    client = probe(alpha=f"{READY}if 'broken' in events: raise NotReady('It is broken.')")
    statuses = []
    for state in ([], ["broken"], []):
        events[:] = state
        statuses.append(client.get("/readyz").status_code)
    assert statuses == [200, 503, 200]


def test_openapi_documents_503_of_readyz() -> None:
    document = create_app().openapi()
    answer = document["paths"]["/readyz"]["get"]["responses"]["503"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorResponse"}
    assert HEADER in answer["headers"]
    assert "503" not in document["paths"]["/livez"]["get"]["responses"]


# In gunicorn's own process


def hooks(**own: Hook) -> Mapping[str, Hook]:
    configure_logging(get_settings())
    return with_hooks_of_integrations(**own)


RECORD = "from tests.core.test_integrations import events\n"


def test_hooks_follow_those_of_gun_py_in_the_order_of_names(add: Add) -> None:
    for name in ("beta", "alpha"):
        add(name, server=f"{RECORD}def when_ready(server): events.append(('{name}', server))")
    add("gamma")
    made = hooks(when_ready=lambda server: events.append(("own", server)))
    made["when_ready"]("master")
    assert events == [("own", "master"), ("alpha", "master"), ("beta", "master")]


def test_without_integrations_the_hooks_are_those_of_gun_py() -> None:
    own = {"on_starting", "when_ready", "on_reload", "post_fork"}
    assert set(hooks(**dict.fromkeys(own, print))) == own
    assert set(runpy.run_path(str(PROJECT_ROOT / "gun.py"))) & HOOKS.keys() == own


def test_gunicorn_takes_every_hook_and_gun_py_hands_it_over(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {name: ", ".join("abc"[:count]) for name, count in HOOKS.items()}
    code = "\n".join(
        f"def {name}({listed}): events.append(('{name}', {listed}))" for name, listed in parameters.items()
    )
    add("alpha", server=RECORD + code)
    config = runpy.run_path(str(PROJECT_ROOT / "gun.py"))
    worker = SimpleNamespace(handle_exit=print)
    monkeypatch.setenv("LISTEN_FDS", "1")  # so that the port need not be free
    monkeypatch.setattr(signal, "signal", lambda *given: events.append(given))
    for name, count in HOOKS.items():
        taken = Config()
        taken.set(name, config[name])
        getattr(taken, name)(*[worker] * count) if name != "on_starting" else config[name](None)
    told = [event[0] for event in events]  # type: ignore[index]
    assert told.pop(told.index("post_fork") - 1) == signal.SIGTERM
    assert told == list(HOOKS)


def test_the_package_around_is_not_imported(add: Add) -> None:
    add("alpha", "1 / 0", server="def on_exit(server): pass")
    assert set(hooks()) == {"on_exit"}
    assert "app.integrations.alpha" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def chld_exit(server, worker): pass", "server.py has a function chld_exit, and gunicorn would never call it"),
        ("def pre_request(worker, request): pass", "function pre_request"),
    ],
)
def test_a_hook_that_would_not_be_called_ends_the_start(code: str, told: str, add: Add) -> None:
    add("alpha", server=code)
    with pytest.raises(SystemExit, match=told):
        hooks()


def test_helpers_and_what_is_imported_are_no_hooks(add: Add) -> None:
    add("alpha", server="from shutil import rmtree\nfrom pathlib import Path\nSIZE = 1\ndef _helper(): pass")
    assert hooks() == {}


def test_a_server_py_that_lacks_a_package_ends_the_start(add: Add) -> None:
    add("alpha", server="import nowhere")
    with pytest.raises(CannotStart, match=r"The integration alpha does not start\. It needs nowhere"):
        hooks()


@pytest.mark.parametrize("name", sorted(HOOKS.keys() - MUST_WORK))
@pytest.mark.parametrize("failure", ["TypeError('in a hook')", "SystemExit(4)"])
def test_a_hook_that_fails_does_not_end_the_server(name: str, failure: str, add: Add, logs: Logs) -> None:
    listed = ", ".join("abc"[: HOOKS[name]])
    add("alpha", server=f"def {name}({listed}): raise {failure}")
    add("beta", server=f"{RECORD}def {name}({listed}): events.append('called')")
    hooks()[name](*[None] * HOOKS[name])
    assert events == ["called"]
    assert sum(f"The integration alpha failed in {name}" in line for line in logs.error) == 1
    assert any(failure.partition("(")[0] in line for line in logs.error)


@pytest.mark.parametrize("name", sorted(MUST_WORK))
@pytest.mark.parametrize("failure", ["OSError('in a hook')", "SystemExit('No folder.')"])
def test_a_hook_that_prepares_must_work(name: str, failure: str, add: Add, logs: Logs) -> None:
    listed = ", ".join("abc"[: HOOKS[name]])
    add("alpha", server=f"def {name}({listed}): raise {failure}")
    with pytest.raises(SystemExit) as stopped:
        hooks()[name](*[None] * HOOKS[name])
    assert stopped.value.code == 3
    assert sum(f"The integration alpha failed in {name}" in line for line in logs.error) == 1
