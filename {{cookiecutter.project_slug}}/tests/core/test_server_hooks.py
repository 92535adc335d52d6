"""The hooks in server.py, and the worker that cannot start: what ends gunicorn, and what must not."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.workers.base import Worker
from uvicorn_worker import UvicornWorker

import app.integrations as package
from app import settings
from app.common import workers
from app.common.exceptions import AlreadyLoggedError
from app.common.log_handler import configure_logging
from app.common.workers import RequestUvicornWorker
from app.integrations.server_hooks import HOOKS, MUST_WORK, Hook, with_hooks_of_integrations
from app.settings import get_settings
from tests.support import Logs

Hooks = Mapping[str, Hook]


@pytest.fixture(autouse=True)
def configured(logs: Logs) -> None:  # noqa: ARG001 - it says where the logs are
    configure_logging(get_settings())


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Hooks]:
    """Return a function that loads the hooks of one integration, alpha, whose server.py is this."""
    folder = tmp_path / "integrations" / "alpha"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.setattr(package, "__path__", [str(folder.parent)])
    monkeypatch.delitem(sys.modules, "server_hooks_of_alpha", raising=False)

    def load(code: str) -> Hooks:
        (folder / "server.py").write_text(code)
        return with_hooks_of_integrations()

    return load


# What a server.py may hold


def test_hooks_whose_failure_ends_the_server() -> None:
    assert set(MUST_WORK) == {"on_starting", "when_ready", "post_fork", "post_worker_init"}


def test_hooks_module_may_define_dataclasses(hooks: Callable[[str], Hooks], capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Size:\n    of: int\n"
    )
    hooks(f"{code}\ndef on_exit(server): print(Size(7))")["on_exit"](None)
    assert capsys.readouterr().out == "Size(of=7)\n"


@pytest.mark.parametrize(
    "code",
    [
        "def child_exit(*arguments): print(len(arguments))",
        "def child_exit(server, *more): print(1 + len(more))",
        "def child_exit(server, worker, more=None): print(2)",
        "child_exit = lambda server, worker: print(2)",
    ],
)
def test_hook_with_a_fitting_signature_is_called(
    code: str, hooks: Callable[[str], Hooks], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config()
    config.set("child_exit", hooks(code)["child_exit"])
    config.child_exit(None, None)
    assert capsys.readouterr().out == "2\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("async def child_exit(server, worker): pass", "child_exit is an `async def`, and gunicorn would not await it"),
        ("child_exit = None", "child_exit is no function, and gunicorn would call it"),
        ("child_exit = 'rm'", "child_exit is no function, and gunicorn would call it"),
        ("def child_exit(a, b, c): pass", "child_exit takes 3 arguments, and gunicorn gives it 2"),
        ("def child_exit(worker): pass", "child_exit takes 1 arguments, and gunicorn gives it 2"),
    ],
)
def test_hook_that_cannot_be_called_ends_the_start(code: str, told: str, hooks: Callable[[str], Hooks]) -> None:
    with pytest.raises(SystemExit, match=rf"^In app/integrations/alpha/server\.py, {told}"):
        hooks(code)


# What a hook may do


@pytest.mark.parametrize("name", sorted(HOOKS))
@pytest.mark.parametrize("code", ["", "0"])
def test_a_worker_that_is_told_to_leave_leaves_its_hook_as_well(
    name: str, code: str, hooks: Callable[[str], Hooks], logs: Logs
) -> None:
    with pytest.raises(SystemExit) as stopped:
        hooks(f"def {name}(*arguments): raise SystemExit({code})")[name](*[None] * HOOKS[name])
    assert not stopped.value.code
    assert logs.error == []


@pytest.mark.parametrize("name", ["post_fork", "post_worker_init"])
def test_a_worker_whose_preparation_fails_may_be_tried_again(name: str, hooks: Callable[[str], Hooks]) -> None:
    def give_up() -> None:
        raise SystemExit(1)

    worker = SimpleNamespace(give_up=give_up)
    with pytest.raises(SystemExit) as stopped:
        hooks(f"def {name}(*arguments): raise OSError")[name](*[None, worker][-HOOKS[name] :])
    assert stopped.value.code == 1


# At SIGHUP

GOOD = "def on_exit(server): server.append('good')"


def said(hook: Hook) -> str:
    """Return what a hook tells its server."""
    heard: list[str] = []
    hook(heard)
    return heard.pop()


@pytest.mark.parametrize(
    ("code", "told", "lines"),
    [
        ("def on_exit(server) print('bad')", "The integration alpha does not start. This is why:", 2),
        ("import nowhere", "The integration alpha does not start. It needs nowhere, which is not installed", 2),
        (
            "def on_start(server): pass",
            "stay as they were. app/integrations/alpha/server.py has a function on_start",
            1,
        ),
        ("on_exit = None", "stay as they were. In app/integrations/alpha/server.py, on_exit is no function", 1),
    ],
)
def test_a_running_server_keeps_its_hooks(
    code: str, told: str, lines: int, hooks: Callable[[str], Hooks], logs: Logs
) -> None:
    good = hooks(GOOD)["on_exit"]
    settings.hold(get_settings())
    kept = hooks(code)["on_exit"]
    assert said(kept) == said(good) == "good"
    assert sum("The hooks of the integrations stay as they were." in line for line in logs.error) == 1
    assert sum(told in line for line in logs.error) == 1
    assert sum(" ERROR " in line for line in logs.error) == lines
    assert said(hooks(GOOD.replace("good", "mended"))["on_exit"]) == "mended"


def test_a_server_that_does_not_run_yet_has_no_hooks_to_keep(hooks: Callable[[str], Hooks]) -> None:
    hooks(GOOD)
    with pytest.raises(SystemExit, match="on_exit is no function"):
        hooks("on_exit = None")


# A lifespan that has failed

TRACEBACK = "Traceback (most recent call last):\n...\napp.common.exceptions.AlreadyLoggedError: It did not start.\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uvicorn.error", (TRACEBACK,)),
        ("gunicorn.error", ("ASGI lifespan startup failed: %s", RuntimeError(f"Lifespan startup failed: {TRACEBACK}"))),
        ("gunicorn.error", ("Lifespan shutdown error: %s", TRACEBACK)),
        ("_granian", (TRACEBACK,)),
    ],
)
def test_server_does_not_repeat_a_logged_lifespan_error(name: str, words: tuple[object, ...], logs: Logs) -> None:
    logging.getLogger(name).error(*words)
    assert logs.error == []
    logging.getLogger(name).error(*[str(word).replace("AlreadyLogged", "Another") for word in words])
    assert len(logs.error) == 1


def test_logged_lifespan_error_is_dropped_from_servers_only(logs: Logs) -> None:
    server = logging.getLogger("_granian")
    for error in (AlreadyLoggedError("It did not start."), OSError("disk")):
        server.error("ASGI lifespan startup failed", exc_info=error)
    assert sum("startup failed" in line for line in logs.error) == 1
    assert logs.error[-1] == "    OSError: disk"
    logging.getLogger("app.services.demo").error("It is ours.", exc_info=AlreadyLoggedError("No server."))
    assert any("It is ours." in line for line in logs.error)


# A worker that cannot start


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Return a function that starts a worker which fails, and returns the exit status, or the error as it is."""
    monkeypatch.setattr(workers, "PAUSE", 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(RequestUvicornWorker, "first", 2)
    token, writer = os.pipe()
    os.set_blocking(token, False)
    os.write(writer, b"x")
    monkeypatch.setattr(RequestUvicornWorker, "token", token)
    monkeypatch.setattr(RequestUvicornWorker, "_set_up", lambda _self: None)

    def end(age: int, error: BaseException, *, booted: bool = False) -> object:
        def fail(_self: Worker) -> None:
            raise error

        monkeypatch.setattr(Worker, "init_process", fail)
        worker = object.__new__(RequestUvicornWorker)
        worker.age, worker.booted, worker.log = age, booted, logging.getLogger("gunicorn.error")
        with pytest.raises(BaseException) as stopped:  # noqa: PT011 - whichever it is
            worker.init_process()
        return stopped.value.code if isinstance(stopped.value, SystemExit) else stopped.value

    return end


@pytest.mark.parametrize("error", [SystemExit(3), SyntaxError("pass pass"), ImportError("no app")], ids=repr)
def test_a_replacement_that_cannot_start_is_tried_again(
    error: BaseException, start: Callable[..., object], logs: Logs
) -> None:
    assert start(3, error) == 1
    assert sum("This worker cannot start; the next try is in 0 seconds." in line for line in logs.error) == 1
    assert sum("Exception in worker process" in line for line in logs.error) == (not isinstance(error, SystemExit))


def test_first_worker_that_cannot_start_ends_gunicorn(start: Callable[..., object], logs: Logs) -> None:
    """Whoever comes first: gunicorn stumbles over a second one that ends so."""
    assert [start(2, SystemExit(3)), start(1, SystemExit(3)), start(2, SyntaxError("pass pass"))] == [3, 0, 0]
    assert logs.error == []


def test_gunicorn_is_told_the_fault_of_the_first(start: Callable[..., object]) -> None:
    fault = SyntaxError("pass pass")
    assert [start(1, fault), start(2, fault)] == [fault, 0]


def test_a_worker_that_has_served_ends_as_it_did(start: Callable[..., object], logs: Logs) -> None:
    fault = OSError("disk")
    ends = [start(3, SystemExit(0), booted=True), start(3, SystemExit(1), booted=True), start(3, fault, booted=True)]
    assert ends == [0, 1, fault]
    assert logs.error == []


def test_a_reload_that_asks_for_more_workers_has_no_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestUvicornWorker, "first", 0)
    monkeypatch.setattr(UvicornWorker, "__init__", lambda self, **given: self.__dict__.update(given))
    for age, count in enumerate((2, 2, 5, 5, 5), start=1):
        RequestUvicornWorker(age=age, cfg=SimpleNamespace(workers=count))
    assert RequestUvicornWorker.first == 2
