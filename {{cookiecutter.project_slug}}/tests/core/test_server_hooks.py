"""gunicorn server hooks of the integrations, and workers that cannot start: which failures make gunicorn exit."""

import logging
import runpy
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.workers.base import Worker
from uvicorn_worker import UvicornWorker

import app.integrations as package
from app.common import workers
from app.common.exceptions import AlreadyLoggedError
from app.common.log_handler import configure_logging
from app.common.workers import RequestUvicornWorker
from app.environment import PROJECT_ROOT
from app.integrations import CannotStart, server_hooks
from app.integrations.server_hooks import Hook, chain_hooks, load_hooks
from app.settings import get_settings
from tests.support import Logs

Hooks = Mapping[str, Hook]
Load = Callable[..., Hooks]
HOOKS = {
    **dict.fromkeys(("on_starting", "on_reload", "when_ready", "post_worker_init", "pre_exec", "on_exit"), 1),
    **dict.fromkeys(("pre_fork", "post_fork", "child_exit", "worker_exit"), 2),
    "nworkers_changed": 3,
}
"""gunicorn's server hooks that gun.py sets, and the number of their arguments."""


@pytest.fixture(autouse=True)
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that loads the hooks: those given by name, and those in the server.py of integrations."""
    configure_logging(get_settings())
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "server_hooks_of_alpha", raising=False)
    monkeypatch.setattr(server_hooks, "_loaded", [])

    def load(alpha: str, beta: str = "", **own: Hook) -> Hooks:
        for name, code in {"alpha": alpha, "beta": beta, "gamma": ""}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "__init__.py").write_text("1 / 0  # gunicorn's master must not import it")
            if code:
                (tmp_path / name / "server.py").write_text(code)
        load_hooks()
        return {name: chain_hooks(name, *filter(None, [own.get(name)])) for name in HOOKS}

    return load


def call(hooks: Hooks, name: str) -> object:
    """Call a hook as gunicorn does; return its exit status, or "it returns"."""
    try:
        hooks[name](*[None] * HOOKS[name])
    except SystemExit as end:
        return end.code
    return "it returns"


# Loading


def test_hooks_of_integrations_are_called_after_gun_py(hooks: Load, capsys: pytest.CaptureFixture[str]) -> None:
    code = "def when_ready(server): print(__name__, server)"
    hooks(code, code, when_ready=partial(print, "gun"))["when_ready"]("master")
    assert capsys.readouterr().out == "gun master\nserver_hooks_of_alpha master\nserver_hooks_of_beta master\n"


def test_gun_py_sets_every_hook(
    hooks: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {name: ", ".join("abc"[:count]) for name, count in HOOKS.items()}
    hooks("\n".join(f"def {name}({arguments}): print('{name}', {arguments})" for name, arguments in listed.items()))
    config = runpy.run_path(str(PROJECT_ROOT / "gun.py"))
    worker = SimpleNamespace(handle_exit=print)
    monkeypatch.setenv("LISTEN_FDS", "1")  # the port need not be free
    monkeypatch.setattr(signal, "signal", print)
    for name, count in HOOKS.items():
        taken = Config()
        taken.set(name, config[name])
        getattr(taken, name)(*[worker] * count) if name != "on_starting" else config[name](None)
    called = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert called.pop(called.index("post_fork") - 1) == str(signal.SIGTERM)
    assert called == list(HOOKS)


@pytest.mark.parametrize(
    "code",
    [
        "def child_exit(*arguments): print(len(arguments))",
        "def child_exit(server, worker, more=None): print(2)",
        "child_exit = lambda server, worker: print(2)",
        "from shutil import rmtree\ndef _helper(): return 2\ndef child_exit(*_): print(_helper())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: 'int'\ndef child_exit(*_): print(A(2).n)",
    ],
)
def test_hook_that_accepts_the_arguments_is_called(code: str, hooks: Load, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config()
    config.set("child_exit", hooks(code)["child_exit"])
    config.child_exit(None, None)
    assert capsys.readouterr().out == "2\n"


def test_error_in_server_py_aborts_the_start(hooks: Load, logs: Logs) -> None:
    with pytest.raises(CannotStart, match=r"^The integration alpha does not start\. The module nowhere is not"):
        hooks("import nowhere")
    assert len(logs.error) == 1


# Failures


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("failure", ["TypeError('in a hook')", "SystemExit('No folder.')", "SystemExit(4)"])
def test_failing_hook_is_logged_and_only_a_startup_hook_aborts_the_start(
    name: str, failure: str, hooks: Load, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    is_startup_hook = name in {"on_starting", "when_ready", "post_fork", "post_worker_init"}
    made = hooks(f"def {name}(*_): raise {failure}", f"def {name}(*_): print('called')")
    assert call(made, name) == (3 if is_startup_hook else "it returns")
    assert capsys.readouterr().out == ("" if is_startup_hook else "called\n")
    assert sum(f"The integration alpha failed in {name}" in line for line in logs.error) == 1
    assert any(failure.partition("(")[0] in line for line in logs.error)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize(("code", "status"), [("", None), ("0", 0)])
def test_worker_that_is_stopped_during_a_hook_exits_silently(
    name: str, code: str, status: int | None, hooks: Load, logs: Logs
) -> None:
    assert call(hooks(f"def {name}(*_): raise SystemExit({code})"), name) == status
    assert logs.error == []


@pytest.mark.parametrize("name", ["post_fork", "post_worker_init"])
def test_worker_whose_startup_hook_fails_may_be_retried(name: str, hooks: Load) -> None:
    worker = SimpleNamespace(handle_boot_failure=lambda: sys.exit(1))
    with pytest.raises(SystemExit) as stopped:
        hooks(f"def {name}(*_): raise OSError")[name](*[None, worker][-HOOKS[name] :])
    assert stopped.value.code == 1


# Reload (SIGHUP)

KEPT = "The previous hooks of the integrations stay in effect."


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        ("def on_exit(server) print('bad')", ["The integration alpha does not start. The traceback shows", KEPT]),
        ("import nowhere", ["The integration alpha does not start. The module nowhere is not installed", KEPT]),
    ],
)
def test_reload_with_an_error_keeps_the_previous_hooks(
    code: str, messages: list[str], hooks: Load, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    original = hooks("def on_exit(_): print('original')")
    reloaded = hooks(code)
    errors = [line for line in logs.error if " ERROR " in line]
    assert [text in line for text, line in zip(messages, errors, strict=True)] == [True] * len(messages)
    for loaded in (original, reloaded, hooks("def on_exit(_): print('fixed')")):
        loaded["on_exit"](None)
    assert capsys.readouterr().out == "original\noriginal\nfixed\n"


def test_reload_may_add_a_server_py_with_an_error(
    hooks: Load, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "__path__", [str(tmp_path / "nothing")])
    load_hooks()
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    hooks("import nowhere")
    assert logs.error[-1].endswith(KEPT)


# Lifespan errors

TRACEBACK = "Traceback (most recent call last):\n...\napp.common.exceptions.AlreadyLoggedError: It did not start.\n"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("uvicorn.error", (TRACEBACK,)),
        ("gunicorn.error", ("ASGI lifespan startup failed: %s", RuntimeError(f"Lifespan startup failed: {TRACEBACK}"))),
        ("gunicorn.error", ("Lifespan shutdown error: %s", TRACEBACK)),
        ("_granian", (TRACEBACK,)),
    ],
)
def test_server_does_not_repeat_a_logged_lifespan_error(name: str, arguments: tuple[object, ...], logs: Logs) -> None:
    logging.getLogger(name).error(*arguments)
    assert logs.error == []
    logging.getLogger(name).error(*[str(argument).replace("AlreadyLogged", "Another") for argument in arguments])
    assert len(logs.error) == 1


def test_logged_lifespan_error_is_dropped_only_from_loggers_of_servers(logs: Logs) -> None:
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
    """Return a function that starts a worker with an error, and returns its exit status or the error it raised."""
    monkeypatch.setattr(workers, "RETRY_DELAY", 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(RequestUvicornWorker, "initial_workers", 2)
    monkeypatch.setattr(RequestUvicornWorker, "_set_up", lambda _self: None)

    def end(age: int, error: BaseException, *, booted: bool = False) -> object:
        def fail(_self: Worker) -> None:
            raise error

        monkeypatch.setattr(Worker, "init_process", fail)
        worker = object.__new__(RequestUvicornWorker)
        worker.age, worker.booted, worker.log = age, booted, logging.getLogger("gunicorn.error")
        with pytest.raises(BaseException) as raised:  # noqa: PT011 - any error
            worker.init_process()
        return raised.value.code if isinstance(raised.value, SystemExit) else raised.value

    return end


@pytest.mark.parametrize("error", [SystemExit(3), SyntaxError("pass pass"), ImportError("no app")], ids=repr)
def test_replacement_that_cannot_start_is_retried(
    error: BaseException, start: Callable[..., object], logs: Logs
) -> None:
    assert start(3, error) == 1
    assert sum("This worker cannot start; gunicorn retries in 0 seconds." in line for line in logs.error) == 1
    assert sum("Exception in worker process" in line for line in logs.error) == (not isinstance(error, SystemExit))


@pytest.mark.parametrize("error", [SystemExit(3), SyntaxError("pass pass")], ids=repr)
def test_only_one_of_the_initial_workers_that_cannot_start_makes_gunicorn_exit(
    error: BaseException, start: Callable[..., object], logs: Logs
) -> None:
    """gunicorn itself fails if a second worker exits with a boot error."""
    ends = [start(2, SystemExit(3)), start(1, error), start(2, SyntaxError("pass pass"))]
    assert ends == [0, 3 if isinstance(error, SystemExit) else error, 0]
    assert logs.error == []


def test_error_of_a_worker_that_has_started_is_not_changed(start: Callable[..., object], logs: Logs) -> None:
    failure = OSError("disk")
    ends = [start(3, error, booted=True) for error in (SystemExit(0), SystemExit(1), failure)]
    assert ends == [0, 1, failure]
    assert logs.error == []


def test_reload_with_more_workers_keeps_the_number_of_initial_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestUvicornWorker, "initial_workers", 0)
    monkeypatch.setattr(UvicornWorker, "__init__", lambda self, **given: self.__dict__.update(given))
    for age, count in enumerate((2, 2, 5, 5, 5), start=1):
        RequestUvicornWorker(age=age, cfg=SimpleNamespace(workers=count))
    assert RequestUvicornWorker.initial_workers == 2
