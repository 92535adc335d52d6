"""Integrations: found by presence, started and stopped in order, asked whether they are ready, and never in the way."""

import asyncio
import importlib
import logging
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fastapi.routing
import pytest
from gunicorn.config import Config
from starlette.testclient import TestClient

import app.integrations as package
from app.common.exceptions import AlreadyLoggedError
from app.common.log_handler import configure_logging
from app.integrations import CannotStart, load_integrations, names
from app.integrations.server_hooks import HOOKS, MUST_WORK, Hook, with_hooks_of_integrations
from app.main import create_app
from app.services import health
from app.settings import PROJECT_ROOT, get_settings
from tests.support import HEADER, ID, Logs, connect

Add = Callable[..., Path]

events: list[object] = []
"""What the integrations of a test have done, in their order."""

INSTALL = """
from contextlib import asynccontextmanager
from app.common.exceptions import NotReady
from tests.core.test_integrations import events

def install(app, settings):
    events.append(f"install {__name__.rpartition('.')[2]}")
"""
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


def test_the_folders_are_those_of_the_project() -> None:
    code = "import app.integrations as package; print(*package.names())"
    found = subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    folders = {path.parent.name for path in PROJECT_ROOT.glob("app/integrations/*/__init__.py")}
    assert found.stdout.split() == sorted(folders)


def test_a_task_queue_s_worker_gets_no_application() -> None:
    code = "import sys, app.integrations; print(*{'fastapi', 'starlette', 'app.main', 'gunicorn'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-Bc", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize(("added", "told"), [((), "none"), (("beta", "alpha"), "alpha, beta")])
def test_a_line_says_which_are_on(added: tuple[str, ...], told: str, add: Add, logs: Logs) -> None:
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


def test_nothing_that_is_mounted_stands_before_a_route_of_ours(add: Add) -> None:
    add(
        "alpha",
        f"{INSTALL}    from starlette.responses import PlainTextResponse as Text\n    app.mount('/', Text('a'))",
    )
    client = connect(create_app())
    assert client.get("/anything").text == "a"
    assert client.get("/livez").json()["result"] == "alive"
    assert client.get("/api/demo").json()["result"] == "demo"


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


def test_a_package_that_is_missing_is_told_in_a_sentence(add: Add, logs: Logs) -> None:
    add("alpha", "import nowhere.at_all")
    sentence = refusal(logs)
    assert sentence.startswith("The integration alpha does not start. It needs nowhere, which is not installed: ")
    assert sentence.endswith("remove the folder app/integrations/alpha.")
    assert not any("Traceback" in line for line in logs.error)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("", "__init__.py has no `install(app, settings)`"),
        ("install = 1", "__init__.py has no `install(app, settings)`"),
        (f"{INSTALL}\nlifespan = 1", "`lifespan` that is no function"),
        (f"{INSTALL}\ndef ready(): pass", "`ready` that is no `async def ready()`"),
    ],
)
def test_a_folder_that_breaks_the_contract_is_told_in_a_sentence(code: str, told: str, add: Add, logs: Logs) -> None:
    add("alpha", code)
    sentence = refusal(logs)
    assert sentence.startswith("The integration alpha does not start. app/integrations/alpha/__init__.py has ")
    assert told in sentence


@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        "import app.nothing",
        "from app import nothing",
        "def install(app, settings): 1 / 0",
        "def install(app, settings): app.nothing()",
    ],
)
def test_a_defect_keeps_its_traceback(code: str, add: Add, logs: Logs) -> None:
    add("alpha", code)
    assert refusal(logs) == "The integration alpha does not start."
    assert sum("Traceback" in line for line in logs.error) == 1
    assert any("alpha/__init__.py" in line for line in logs.error)


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


# From start to end


def test_lifespans_are_entered_in_order_and_left_in_reverse(add: Add) -> None:
    for name in ("beta", "gamma", "alpha"):
        add(name, INSTALL if name == "beta" else LIFESPAN)
    app = create_app()
    events.clear()
    with connect(app):
        assert events == ["enter alpha", "enter gamma"]
    assert events[2:] == ["leave gamma", "leave alpha"]


def test_one_that_fails_at_the_start_is_named_and_the_others_are_left(add: Add, logs: Logs) -> None:
    add("alpha", LIFESPAN)
    add("beta", LIFESPAN.replace("    yield", "    raise ConnectionError('nobody answers')\n    yield"))
    add("gamma", LIFESPAN)
    app = create_app()
    events.clear()
    with pytest.raises(AlreadyLoggedError, match="The integration beta did not start"), connect(app):
        pass
    assert events == ["enter alpha", "enter beta", "leave alpha"]
    assert sum("The integration beta did not start" in line for line in logs.error) == 1
    assert sum("ConnectionError: nobody answers" in line for line in logs.error) == 1


def test_one_that_fails_at_the_end_is_named_and_the_others_are_left(add: Add, logs: Logs) -> None:
    add("alpha", LIFESPAN)
    add("beta", LIFESPAN.replace("    yield", "    yield\n    raise ConnectionError('gone')"))
    with pytest.raises(AlreadyLoggedError, match="The integration beta did not stop"), connect(create_app()):
        events.clear()
    assert events == ["leave alpha"]
    assert sum("ConnectionError: gone" in line for line in logs.error) == 1


def test_the_server_does_not_repeat_what_the_log_has_said(logs: Logs) -> None:
    configure_logging(get_settings())
    server = logging.getLogger("uvicorn.error")
    server.error(
        "Traceback (most recent call last):\n...\napp.common.exceptions.AlreadyLoggedError: It did not start.\n"
    )
    assert logs.error == []
    server.error("Traceback (most recent call last):\n...\nValueError: something else\n")
    assert len(logs.error) == 1


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


def test_all_are_ready(probe: Callable[..., TestClient], logs: Logs) -> None:
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
    response = probe(alpha=f"{READY}raise OSError('amqp://user:secret@host')").get("/readyz", headers={HEADER: ID})
    assert (response.status_code, response.json()["cause"]) == (503, "alpha: Its check failed; the log says how.")
    assert sum(f"[{ID}] The readiness check of alpha failed" in line for line in logs.error) == 1
    assert logs.error.count("    OSError: amqp://user:secret@host") == 1


def test_a_check_that_hangs_is_cut_off_and_named(probe: Callable[..., TestClient]) -> None:
    client = probe(alpha=HANGS, beta=f"{READY}pass", gamma=NOT_READY)
    began = time.monotonic()
    response = client.get("/readyz")
    assert time.monotonic() - began < 3
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


def test_it_may_get_ready_again(probe: Callable[..., TestClient]) -> None:
    client = probe(alpha=f"{READY}if 'broken' in events: raise NotReady('It is broken.')")
    statuses = []
    for state in ([], ["broken"], []):
        events[:] = state
        statuses.append(client.get("/readyz").status_code)
    assert statuses == [200, 503, 200]


def test_the_document_tells_of_503() -> None:
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
    own = {"on_starting", "when_ready", "on_reload"}
    assert set(hooks(**dict.fromkeys(own, print))) == own
    assert set(runpy.run_path(str(PROJECT_ROOT / "gun.py"))) & HOOKS.keys() == own


def test_gunicorn_takes_every_hook_and_gun_py_hands_it_over(add: Add) -> None:
    parameters = {name: ", ".join("abc"[:count]) for name, count in HOOKS.items()}
    code = "\n".join(
        f"def {name}({listed}): events.append(('{name}', {listed}))" for name, listed in parameters.items()
    )
    add("alpha", server=RECORD + code)
    config = runpy.run_path(str(PROJECT_ROOT / "gun.py"))
    for name, count in HOOKS.items():
        taken = Config()
        taken.set(name, config[name])
        getattr(taken, name)(*[None] * count) if name != "on_starting" else config[name](None)
    assert [event[0] for event in events] == list(HOOKS)  # type: ignore[index]


def test_the_package_around_is_not_imported(add: Add) -> None:
    add("alpha", "1 / 0", server="def on_exit(server): pass")
    assert set(hooks()) == {"on_exit"}
    assert "app.integrations.alpha" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def chld_exit(server, worker): pass", "server.py has a function chld_exit, and gunicorn would never call it"),
        ("def pre_request(worker, request): pass", "function pre_request"),
        ("def child_exit(worker): pass", "child_exit takes 1 arguments, and gunicorn gives it 2"),
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


def test_the_integrations_of_the_project_keep_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "__path__", [str(PROJECT_ROOT / "app" / "integrations")])
    assert [one.name for one in load_integrations()] == names()
    assert hooks().keys() <= HOOKS.keys()
