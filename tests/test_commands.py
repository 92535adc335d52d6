"""Every line of every block of shell commands, in every document, is run by a test."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from scripts.combinations import options
from scripts.snapshot import ROOT, TEMPLATE, copy_repository
from tests.support.baking import TEMPLATE_DIR, UV, bake, environment, must, run
from tests.support.brokers import Broker, Nats, Redis
from tests.support.client import new_id
from tests.support.documents import blocks, demo_answers, documents, get_demo
from tests.support.engine import fetch_images
from tests.support.ports import free_port
from tests.support.process import children
from tests.support.servers import SERVERS
from tests.support.stack import Stack
from tests.support.terminal import Running, running
from tests.support.waiting import wait_for

FEATURES = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))


class Command(NamedTuple):
    """A line of a block of shell commands, and whose document has it."""

    whose: str
    line: str


def commands() -> list[Command]:
    """Return every line of every such block in every document, without the remark behind it, once."""
    found = {
        Command(whose, re.sub(r"\s+#.*", "", line))
        for whose, folder in (("repository", ROOT), ("service", TEMPLATE_DIR))
        for document in documents(folder)
        for block in blocks(document, "sh")
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    }
    return sorted(found)


def find_line(pattern: str) -> str:
    """Return the one line that matches a pattern."""
    (found,) = {command.line for command in commands() if re.fullmatch(pattern, command.line)}
    return found


# What other tests run

ELSEWHERE = {
    Command("repository", "make run"): "test_readme.py",
    Command("repository", "make test"): "test_project.py",
    Command("service", ".venv/bin/pre-commit install"): "test_workflows.py",
    Command("service", find_line(r"all=\$\(docker compose ps .+")): "compose/test_change.py",
    Command("service", "docker compose build"): "compose/test_change.py",
    Command("service", "docker compose down"): "support/stack.py",
    Command("service", "docker compose kill --signal HUP api"): "compose/test_change.py",
    Command("service", "kubectl kustomize deploy/k8s"): "test_kubernetes.py",
    Command("service", "make run"): "test_readme.py",
    Command("service", "make test"): "test_project.py",
    Command("service", "uv run python -m app.integrations.mcp"): "live/test_mcp.py",
}
"""Commands that the tests of another file run."""


def is_run_in(file: str, line: str) -> bool:
    """Whether a file gives the words of the line to a call or as a list, or looks for the line in its document."""
    words = shlex.split(re.sub("^(docker compose|uv run) ", "", line))
    for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text("utf-8"))):
        parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.List) else []
        given = [getattr(part, "id", getattr(part, "value", None)) for part in parts]
        looks_for_it = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "startswith"
        if given[: len(words)] == words or (looks_for_it and line.startswith(str(given[0]))):
            return True
    return False


def is_server_of_the_live_tests(line: str) -> bool:
    """Whether tests/live/test_servers.py starts a server with the same words, in another order, and an address."""
    words = set(shlex.split(re.sub(r"^uv run (--with \w+ )?", "", line))) | {"app.main:app"}
    address = {"--host", "127.0.0.1", "--port", "1", "--bind", "127.0.0.1:1"}
    return line.startswith("uv run ") and any(
        words == set(command("app.main:app", 1)) - address for command in SERVERS.values()
    )


# Where the lines are run


class Places:
    """Where commands are run; each is made when it is first needed, and stays until the end of this file's tests."""

    def __init__(self, folder: Path, stays: ExitStack) -> None:
        self.folder, self.stays = folder, stays
        self.workers: dict[str, Running] = {}
        (folder / "home").mkdir()
        author = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        cache = must(run([UV, "cache", "dir"], folder)).stdout.strip()
        self.variables = environment(HOME=str(folder / "home"), UV_CACHE_DIR=cache, **author)

    def run(self, command: str, folder: Path, typed: str = "") -> str:
        """Run a line as a shell does, and return its output; fails unless it ends with 0."""
        return must(run(["sh", "-c", command], folder, self.variables, typed)).stdout

    def commit(self, folder: Path) -> None:
        """Make a commit of everything, in a new repository if there is none."""
        self.run("git init --quiet && git add --all && git commit --quiet --message=All", folder)

    @cached_property
    def template(self) -> Path:
        """A clone of the template."""
        folder = copy_repository(self.folder / "template")
        self.commit(folder)
        return folder

    @cached_property
    def generated(self) -> Path:
        """A service as the README has it generated, with the Return key for an answer to every question."""
        (self.folder / "generated").mkdir()
        typed = "\n" * len(json.loads((self.template / "cookiecutter.json").read_text("utf-8")))
        line = find_line("uvx cookiecutter .+").replace("<this repository>", shlex.quote(str(self.template)))
        self.run(line, self.folder / "generated", typed)
        (project,) = (self.folder / "generated").iterdir()
        self.commit(project)
        return project

    @cached_property
    def outdated(self) -> Path:
        """The same service, whose template has a commit that it does not know."""
        project = self.generated
        with (self.template / TEMPLATE / ".editorconfig").open("a") as file:
            file.write("\n# learned since\n")
        self.commit(self.template)
        return project

    @cached_property
    def whole(self) -> Path:
        """A service with every option, and with what its lock says."""
        project = bake(self.template, self.folder / "whole", **dict.fromkeys(options(), True))
        self.run("uv sync --quiet --locked", project)
        return project

    @cached_property
    def brokers(self) -> dict[str, Broker]:
        """The brokers that the options have by default, by the setting that names them."""
        redis, nats = self.stays.enter_context(Redis()), self.stays.enter_context(Nats())
        return {"CELERY_BROKER_URL": redis, "SAQ_URL": redis, "FASTSTREAM_URL": nats}

    @cached_property
    def urls(self) -> dict[str, str]:
        return {setting: broker.url for setting, broker in self.brokers.items()}

    def serving(self, line: str, **more: str) -> tuple[Running, int]:
        """Run a server in the service with every option, at a free port."""
        words, port = shlex.split(line), free_port()
        settings = dict(word.split("=", 1) for word in takewhile(re.compile(r"[A-Z_]+=").match, words))
        address = ["--port", str(port)] if "uvicorn" in words else []
        variables = {"WORKERS": "1"} | self.variables | more | settings | {"PORT": str(port)}
        command = [*words[len(settings) :], *address]
        server = self.stays.enter_context(running(command, self.whole, variables))
        wait_for(lambda: demo_answers(port), f"response of {line}")
        return server, port

    @cached_property
    def service(self) -> tuple[Running, int]:
        """A service with every option, its brokers and other MCP servers, and its port."""
        return self.serving(find_line("MCP_SERVERS=.+"), **self.urls)

    @cached_property
    def filed(self) -> tuple[int, int]:
        """Master process ID and port of a service with two workers that writes log files and a file with that ID."""
        _, port = self.serving(f"WORKERS=2 {find_line('LOG_PATH=log PID_FILE=.+')}")
        master = int((self.whole / "log/service.pid").read_text("utf-8"))  # written again at each SIGHUP
        wait_for(lambda: len(children(master)) == 2, "two workers")
        return master, port

    def worker(self, option: str) -> Running:
        """Return a worker of an option, started by the line of its document, which is ready."""
        if option not in self.workers:
            line = find_line(WORKERS[option])
            worker = self.stays.enter_context(
                running(["sh", "-c", f"exec {line}"], self.whole, self.variables | self.urls)
            )
            ready = re.compile(rf"(?m)^\d{{4}}-\d\d-\d\d .+ INFO \[-\] .*{READY[option]}")
            wait_for(lambda: ready.search(worker.said), f"worker of {option} that is ready")
            self.workers[option] = worker
        return self.workers[option]

    @cached_property
    def composed(self) -> Stack:
        """A generated service under Compose."""
        project = Path(shutil.copytree(self.generated, self.folder / "composed"))
        fetch_images(project)
        return self.stays.enter_context(Stack(project, "documents"))

    def compose(self, line: str) -> str:
        """Run a line in the folder of the service under Compose, and return its output."""
        stack = self.composed
        return must(run(["sh", "-c", line], stack.project, stack.variables)).stdout


# What the lines do: generate and update


def generates_a_service(places: Places, _: str) -> None:
    """It is a service that knows where it comes from."""
    assert (places.generated / "gun.py").exists()
    assert json.loads((places.generated / ".cruft.json").read_text("utf-8"))["template"] == str(places.template)


def updates(places: Places, line: str) -> None:
    """The template's change arrives, and the options that the line names are switched."""
    project = places.folder / f"updated-{line.count('{')}" / places.outdated.name
    line = line.replace("<option>", "pre_commit")
    if not project.exists():  # both READMEs have the same lines
        shutil.copytree(places.outdated, project)
        places.run(line, project)
    assert "# learned since" in (project / ".editorconfig").read_text("utf-8")
    answers = json.loads((project / ".cruft.json").read_text("utf-8"))["context"]["cookiecutter"]
    for option, value in json.loads((re.findall(r"'(.+)'", line) or ["{}"])[0]).items():
        assert answers[option] is value
        assert {(project / path).exists() for path in FEATURES[option]["paths"]} == {value}


# One service


def is_served(places: Places, line: str) -> None:
    server, port = places.service if line.startswith("MCP_SERVERS=") else places.serving(line)
    get_demo(port, "asked-by-the-test")
    server.wait_for(" asked-by-the-test 200 ")


def curl(places: Places, line: str, port: int) -> str:
    """Run a line that sends a request to a local port, at another port, and return the body of the response."""
    head, _, body = places.run(re.sub(r":80[08]0/", f":{port}/", line), places.folder).partition("\n\n")
    (request_id,) = re.findall(r"X-Request-ID: ([\w-]+)", line)
    assert f"\nx-request-id: {request_id}\n" in f"{head.lower()}\n"
    return body


def gets_the_demo(places: Places, line: str) -> None:
    """The response has the ID, and the lines are those that the README shows."""
    service, port = places.service
    assert json.loads(curl(places, line, port))["request_id"] == "order-4711"
    wait_for_samples(TEMPLATE_DIR / "README.md", 0, lambda: service.said)


VARIES = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]{12}[+-]\d{4}|(?<=pid:)\d+|\d+\.\d{3}(?=s( |$))|(?<=127\.0\.0\.1:)\d+"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
ADDED = re.compile(r" trace_id=[0-9a-f]{32} span_id=[0-9a-f]{16}")


def shape(line: str) -> str:
    """Return a log line without what differs each time: time, process, duration, port, IDs of tasks and traces."""
    return VARIES.sub("…", ADDED.sub("", line))


def wait_for_samples(document: Path, number: int, said: Callable[[], str]) -> None:
    """Wait until each line of a document's block, counted from 0, has been written."""
    for sample in {shape(line) for line in blocks(document, "text")[number].splitlines()}:
        wait_for(lambda: sample in map(shape, said().splitlines()), sample)  # noqa: B023


def calls_a_tool(places: Places, line: str) -> None:
    """The response has the ID in header, message and result, and the document's lines are written."""
    service, port = places.service
    message, result = (json.loads(one) for one in re.findall(r"data: (.+)", curl(places, line, port)))
    (shown,) = blocks(TEMPLATE_DIR / "docs/mcp.md", "json")
    assert message["params"] == json.loads(shown)
    assert result["result"]["_meta"]["x-request-id"] == "order-4711"
    wait_for_samples(TEMPLATE_DIR / "docs/mcp.md", 0, lambda: service.said)


def calls_other_servers(places: Places, line: str) -> None:
    """Four processes write lines with the ID; what another server says is among those of the service."""
    service, port = places.service
    body = curl(places, line.replace("order-4711", "order-4712"), port)
    assert json.loads(body)["message"] == "success"
    wait_for_samples(TEMPLATE_DIR / "docs/mcp.md", 1, lambda: service.said.replace("order-4712", "order-4711"))
    own = [found for found in service.said.splitlines() if " [order-4712] " in found]
    assert len({re.findall(r"pid:(\d+)", found)[0] for found in own}) == 4


# Signals and files


def writes_files(places: Places, _: str) -> None:
    """Lines are in files, and so is the process ID of the master."""
    master, port = places.filed
    get_demo(port, "logged-in-a-file")
    wait_for_line(places.whole / "log/access.log", " logged-in-a-file 200 ")
    assert children(master)


def wait_for_line(file: Path, words: str) -> None:
    """Wait until a log file has a line with these words."""
    wait_for(lambda: file.exists() and words in file.read_text("utf-8"), f"{words!r} in {file.name}")


MORE = {"HUP": 0, "TTIN": 1, "TTOU": -1}
"""How many workers more gunicorn has after a signal; after SIGHUP they are others."""


def changes_the_workers(places: Places, line: str) -> None:
    """The signal changes the workers, and the service goes on."""
    master, port = places.filed
    before, (name,) = set(children(master)), re.findall(r"kill -(\w+) ", line)
    places.run(line, places.whole)

    def is_changed() -> bool:
        after = set(children(master))
        return len(after) - len(before) == MORE[name] and (name != "HUP" or not before & after)

    wait_for(is_changed, f"effect of {name}")
    get_demo(port, "after-the-signal")


def ends(places: Places, line: str) -> None:
    service, port = places.serving("LOG_PATH=other PID_FILE=other/service.pid make run")
    get_demo(port, "before-the-end")
    places.run(line.replace("log/", "other/"), places.whole)
    assert service.end() == 0


def rotates(places: Places, line: str) -> None:
    """Earlier lines are in the renamed file, later ones in the new one."""
    log, port = places.whole / "log", places.filed[1]
    get_demo(port, "in-the-old-file")
    wait_for_line(log / "access.log", "in-the-old-file")
    places.run(line, places.whole)
    wait_for((log / "access.log").exists, "new file")
    get_demo(port, "in-the-new-file")
    wait_for_line(log / "access.log", "in-the-new-file")
    assert "in-the-old-file" not in (log / "access.log").read_text("utf-8")
    assert "in-the-new-file" not in (log / "access.log.1").read_text("utf-8")


# Queues

WORKERS = {"celery": r"uv run celery .+ worker", "saq": r"uv run saq \S+", "faststream": r"uv run faststream run \S+"}
"""Patterns of the lines that start the workers."""

READY = {"celery": " ready", "saq": "Worker starting", "faststream": "The broker at .+ answers"}
"""What the workers log when they are ready."""


def starts_a_worker(places: Places, line: str) -> None:
    (option,) = (name for name, pattern in WORKERS.items() if re.fullmatch(pattern, line))
    assert places.worker(option).process.poll() is None


def finds_a_worker(places: Places, line: str) -> None:
    """It ends with 1 without a worker, and with 0 as soon as there is one."""
    variables = places.variables | {"SAQ_URL": places.brokers["SAQ_URL"].url.replace("/0", "/1")}

    def found() -> bool:
        return run(["sh", "-c", line], places.whole, variables, seconds=60).returncode == 0

    assert not found()
    with running(["sh", "-c", f"exec {find_line(WORKERS['saq'])}"], places.whole, variables):
        wait_for(found, "worker")


def finds_its_broker(port: int, option: str) -> bool:
    """Whether the service with every option lacks whatever it may, but not what this one needs."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return True
    except HTTPError as error:
        return f"{option}: " not in json.load(error)["cause"]


def is_worked_at(places: Places, line: str) -> None:
    """The response has the ID; service and worker write the lines that the document shows."""
    (option,) = re.findall(r"/api/(\w+)/demo", line)
    worker, (service, port) = places.worker(option), places.service
    wait_for(lambda: finds_its_broker(port, option), "broker of the service")
    assert json.loads(curl(places, line, port))["request_id"] == "order-4711"
    for number in range(len(blocks(TEMPLATE_DIR / f"docs/{option}.md", "text"))):
        wait_for_samples(TEMPLATE_DIR / f"docs/{option}.md", number, lambda: f"{service.said}{worker.said}")


# Compose


def composes(places: Places, line: str) -> None:
    """Whatever the line does, nginx and the service respond with the ID afterwards."""
    places.compose(line)
    request_id = new_id("document")
    answered = places.composed.request("GET", "/api/demo", request_id=request_id, timeout=30)
    assert (answered.status, answered.one(), answered.json()["request_id"]) == (200, request_id, request_id)


def gets_the_demo_through_nginx(places: Places, line: str) -> None:
    assert json.loads(curl(places, line, places.composed.port))["request_id"] == "order-4711"


def finds_lines(places: Places, line: str) -> None:
    """The lines of nginx, of the access log and of the application are found by the ID."""
    places.composed.request("GET", "/api/demo", request_id="order-4711")
    places.composed.wait_for_lines("order-4711", 3)
    found = [json.loads(line[line.index("{") :]) for line in places.compose(line).splitlines()]
    assert {line.get("logger", "access") for line in found} == {"nginx", "access", "demo"}


def reloads_changed_code(places: Places, line: str) -> None:
    """A change of the code is served a moment later; then everything is as before."""
    places.compose(line)
    code = places.composed.project / "app/api/demo.py"
    code.write_text(code.read_text("utf-8").replace('result="demo"', 'result="changed"'), "utf-8")
    wait_for(lambda: places.composed.request("GET", "/api/demo").json()["result"] == "changed", "new code")
    assert places.composed.request("GET", "/api/docs").status == 200
    must(places.composed.up())
    assert places.composed.request("GET", "/api/docs").status == 404


def stops_everything(places: Places, line: str) -> None:
    places.composed.request("GET", "/livez")
    places.compose(line)
    assert places.composed.containers("nginx") == places.composed.containers("api") == []
    must(places.composed.up())


RUNNERS: dict[str, Callable[[Places, str], None]] = {
    r"repository: uvx cookiecutter <this repository>": generates_a_service,
    r"\w+: uvx cruft update --skip-apply-ask( --variables-to-update '.+')?": updates,
    r"service: LOG_PATH=log PID_FILE=log/service.pid make run": writes_files,
    r"service: (uv run uvicorn .+|MCP_SERVERS='.+' make run)": is_served,
    r"service: curl .+:8000/api/demo .+": gets_the_demo,
    r'service: kill -(HUP|TTIN|TTOU) "\$\(cat log/service\.pid\)"': changes_the_workers,
    r'service: kill -TERM "\$\(cat log/service\.pid\)"': ends,
    r'service: mv log/access\.log log/access\.log\.1 && kill -USR1 "\$\(cat log/service\.pid\)"': rotates,
    r"service: docker compose up .+": composes,
    r"service: docker compose logs .+ \| grep order-4711": finds_lines,
    r"service: docker compose --file .+ up --wait": reloads_changed_code,
    r"service: docker compose stop nginx && docker compose down": stops_everything,
    r"service: curl .+:8080/api/demo .+": gets_the_demo_through_nginx,
    r"service: uv run saq .+ --check": finds_a_worker,
    rf"service: ({'|'.join(WORKERS.values())})": starts_a_worker,
    r"service: curl .*-X POST .+:8000/api/(celery|saq|faststream)/demo .+": is_worked_at,
    r"service: curl .+:8000/mcp .+": calls_a_tool,
    r"service: curl .+:8000/api/mcp/demo .+": calls_other_servers,
}
"""What runs a line and checks its effect, by what the line looks like."""

HERE = [command for command in commands() if command not in ELSEWHERE and not is_server_of_the_live_tests(command.line)]


def runner_of(command: Command) -> Callable[[Places, str], None]:
    """Return what can run a command; fails when nothing can, or several can."""
    found = [runner for look, runner in RUNNERS.items() if re.fullmatch(look, f"{command.whose}: {command.line}")]
    assert len(found) == 1, f"no test runs this line: {command}"
    return found[0]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with ExitStack() as stays:
        yield Places(tmp_path_factory.mktemp("places"), stays)


@pytest.mark.full
@pytest.mark.parametrize("command", HERE, ids=": ".join)
def test_documented_command_works(places: Places, command: Command) -> None:
    runner_of(command)(places, command.line)


@pytest.mark.parametrize("command", ELSEWHERE, ids=": ".join)
def test_command_is_documented_and_run_by_another_file(command: Command) -> None:
    assert command in commands()
    assert is_run_in(ELSEWHERE[command], command.line)


def test_every_runner_has_a_command_and_every_command_a_runner() -> None:
    assert {runner_of(command) for command in HERE} == set(RUNNERS.values())
