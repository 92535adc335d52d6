"""The hooks in server.py, and the worker that cannot start: what ends gunicorn, and what must not."""

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
from app.integrations import CannotStart
from app.integrations import server_hooks as integrated
from app.integrations.server_hooks import Hook, in_turn, load_hooks
from app.settings import get_settings
from tests.support import Logs

Hooks = Mapping[str, Hook]
Load = Callable[..., Hooks]
HOOKS = {
    **dict.fromkeys(("on_starting", "on_reload", "when_ready", "post_worker_init", "pre_exec", "on_exit"), 1),
    **dict.fromkeys(("pre_fork", "post_fork", "child_exit", "worker_exit"), 2),
    "nworkers_changed": 3,
}
"""gunicorn's server hooks that gun.py gives it, and how many arguments they get."""


@pytest.fixture(autouse=True)
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that loads the hooks: those given by name, and those of integrations with this server.py."""
    configure_logging(get_settings())
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "server_hooks_of_alpha", raising=False)
    monkeypatch.setattr(integrated, "_loaded", [])

    def load(alpha: str, beta: str = "", **own: Hook) -> Hooks:
        for name, code in {"alpha": alpha, "beta": beta, "gamma": ""}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "__init__.py").write_text("1 / 0  # gunicorn's master must not import it")
            if code:
                (tmp_path / name / "server.py").write_text(code)
        load_hooks()
        return {name: in_turn(name, *filter(None, [own.get(name)])) for name in HOOKS}

    return load


def call(hooks: Hooks, name: str) -> object:
    """Call a hook as gunicorn does and return the exit status with which it ends."""
    try:
        hooks[name](*[None] * HOOKS[name])
    except SystemExit as end:
        return end.code
    return "it returns"


# What a server.py may hold


def test_hooks_follow_those_of_gun_py_in_the_order_of_names(hooks: Load, capsys: pytest.CaptureFixture[str]) -> None:
    code = "def when_ready(server): print(__name__, server)"
    hooks(code, code, when_ready=partial(print, "gun"))["when_ready"]("master")
    assert capsys.readouterr().out == "gun master\nserver_hooks_of_alpha master\nserver_hooks_of_beta master\n"


def test_gun_py_hands_every_hook_to_gunicorn(
    hooks: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {name: ", ".join("abc"[:count]) for name, count in HOOKS.items()}
    hooks("\n".join(f"def {name}({arguments}): print('{name}', {arguments})" for name, arguments in listed.items()))
    config = runpy.run_path(str(PROJECT_ROOT / "gun.py"))
    worker = SimpleNamespace(handle_exit=print)
    monkeypatch.setenv("LISTEN_FDS", "1")  # so that the port need not be free
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
def test_hook_with_a_fitting_signature_is_called(code: str, hooks: Load, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config()
    config.set("child_exit", hooks(code)["child_exit"])
    config.child_exit(None, None)
    assert capsys.readouterr().out == "2\n"


def test_server_py_that_cannot_be_run_ends_the_start(hooks: Load, logs: Logs) -> None:
    with pytest.raises(CannotStart, match=r"^The integration alpha does not start\. It needs nowhere, which is not"):
        hooks("import nowhere")
    assert len(logs.error) == 1


# What a hook may do


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("failure", ["TypeError('in a hook')", "SystemExit('No folder.')", "SystemExit(4)"])
def test_failing_hook_is_logged_and_ends_the_start_only_where_it_must_work(
    name: str, failure: str, hooks: Load, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    must_work = name in {"on_starting", "when_ready", "post_fork", "post_worker_init"}
    made = hooks(f"def {name}(*_): raise {failure}", f"def {name}(*_): print('called')")
    assert call(made, name) == (3 if must_work else "it returns")
    assert capsys.readouterr().out == ("" if must_work else "called\n")
    assert sum(f"The integration alpha failed in {name}" in line for line in logs.error) == 1
    assert any(failure.partition("(")[0] in line for line in logs.error)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize(("code", "status"), [("", None), ("0", 0)])
def test_worker_told_to_exit_leaves_its_hook_as_well(
    name: str, code: str, status: int | None, hooks: Load, logs: Logs
) -> None:
    assert call(hooks(f"def {name}(*_): raise SystemExit({code})"), name) == status
    assert logs.error == []


@pytest.mark.parametrize("name", ["post_fork", "post_worker_init"])
def test_worker_whose_preparation_fails_may_be_tried_again(name: str, hooks: Load) -> None:
    worker = SimpleNamespace(handle_boot_failure=lambda: sys.exit(1))
    with pytest.raises(SystemExit) as stopped:
        hooks(f"def {name}(*_): raise OSError")[name](*[None, worker][-HOOKS[name] :])
    assert stopped.value.code == 1


# At SIGHUP

KEPT = "The hooks of the integrations stay as they were."


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def on_exit(server) print('bad')", ["The integration alpha does not start. This is why:", KEPT]),
        ("import nowhere", ["The integration alpha does not start. It needs nowhere, which is not installed", KEPT]),
    ],
)
def test_running_server_keeps_its_hooks(
    code: str, told: list[str], hooks: Load, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    good = hooks("def on_exit(_): print('good')")
    kept = hooks(code)
    errors = [line for line in logs.error if " ERROR " in line]
    assert [text in line for text, line in zip(told, errors, strict=True)] == [True] * len(told)
    for made in (good, kept, hooks("def on_exit(_): print('mended')")):
        made["on_exit"](None)
    assert capsys.readouterr().out == "good\ngood\nmended\n"


def test_first_server_py_of_a_running_server_may_be_faulty(
    hooks: Load, tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "__path__", [str(tmp_path / "nothing")])
    load_hooks()
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    hooks("import nowhere")
    assert logs.error[-1].endswith(KEPT)


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
        with pytest.raises(BaseException) as stopped:  # noqa: PT011 - whichever it is
            worker.init_process()
        return stopped.value.code if isinstance(stopped.value, SystemExit) else stopped.value

    return end


@pytest.mark.parametrize("error", [SystemExit(3), SyntaxError("pass pass"), ImportError("no app")], ids=repr)
def test_replacement_that_cannot_start_is_tried_again(
    error: BaseException, start: Callable[..., object], logs: Logs
) -> None:
    assert start(3, error) == 1
    assert sum("This worker cannot start; gunicorn retries in 0 seconds." in line for line in logs.error) == 1
    assert sum("Exception in worker process" in line for line in logs.error) == (not isinstance(error, SystemExit))


@pytest.mark.parametrize("fault", [SystemExit(3), SyntaxError("pass pass")], ids=repr)
def test_of_first_workers_that_cannot_start_one_ends_gunicorn(
    fault: BaseException, start: Callable[..., object], logs: Logs
) -> None:
    """gunicorn fails itself if a second one ends like this."""
    ends = [start(2, SystemExit(3)), start(1, fault), start(2, SyntaxError("pass pass"))]
    assert ends == [0, 3 if isinstance(fault, SystemExit) else fault, 0]
    assert logs.error == []


def test_worker_that_has_served_ends_as_it_did(start: Callable[..., object], logs: Logs) -> None:
    fault = OSError("disk")
    ends = [start(3, error, booted=True) for error in (SystemExit(0), SystemExit(1), fault)]
    assert ends == [0, 1, fault]
    assert logs.error == []


def test_reload_that_asks_for_more_workers_has_no_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestUvicornWorker, "initial_workers", 0)
    monkeypatch.setattr(UvicornWorker, "__init__", lambda self, **given: self.__dict__.update(given))
    for age, count in enumerate((2, 2, 5, 5, 5), start=1):
        RequestUvicornWorker(age=age, cfg=SimpleNamespace(workers=count))
    assert RequestUvicornWorker.initial_workers == 2
