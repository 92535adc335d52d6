"""Every line of every block of shell commands, in every document, is run by a test."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from subprocess import PIPE
from tempfile import mkdtemp
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from scripts.combinations import options
from scripts.snapshot import ROOT, TEMPLATE, copy_repository
from tests import test_ci, test_kubernetes, test_project, test_readme
from tests.support.baking import TEMPLATE_DIR, UV, bake, environment, must, run
from tests.support.brokers import Broker, Nats, Redis
from tests.support.client import new_id
from tests.support.engine import fetch_images
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.terminal import Running, running
from tests.support.waiting import wait_for
from tests.test_docs import blocks, documents
from tests.test_readme import answer, answers


class Command(NamedTuple):
    """A line of a block of shell commands, and whose document it stands in."""

    whose: str
    line: str


def commands() -> list[Command]:
    """Give every line of every such block in every document, without the remark behind it, once."""
    found = {
        Command(whose, re.sub(r"\s+#.*", "", line))
        for whose, folder in (("repository", ROOT), ("service", TEMPLATE_DIR))
        for document in documents(folder)
        for block in blocks(document, "sh")
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    }
    return sorted(found)


ELSEWHERE: dict[Command, Callable[..., None]] = {
    Command("repository", "make run"): test_readme.test_make_run_in_a_terminal,
    Command("repository", "make test"): test_ci.test_exit_code,
    Command("service", "kubectl kustomize deploy/k8s"): test_kubernetes.test_what_is_built,
    Command("service", "make run"): test_readme.test_project_make_run,
    Command("service", "make test"): test_project.test_make_test,
}
"""Commands that tests with more to say run already."""


class Places:
    """Where commands are run; each is made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stays = ExitStack()
        (folder / "home").mkdir()
        author = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        cache = must(run([UV, "cache", "dir"], folder)).stdout.strip()
        self.variables = environment(HOME=str(folder / "home"), UV_CACHE_DIR=cache, **author)

    def run(self, command: str, folder: Path, typed: str = "") -> str:
        """Run a line as a shell does, and give what it has said; fails unless it ends with 0."""
        return must(run(["sh", "-c", command], folder, self.variables, typed, seconds=120)).stdout

    def compose(self, line: str) -> str:
        """Run a line in the folder of the service under Compose, and give what it has said."""
        stack = self.composed
        return must(run(["sh", "-c", line], stack.project, stack.variables, seconds=300)).stdout

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
        """A service as the README has it made, with the Return key for an answer to every question."""
        (self.folder / "generated").mkdir()
        (line,) = [command.line for command in commands() if command.line.startswith("uvx cookiecutter ")]
        typed = "\n" * len(json.loads((self.template / "cookiecutter.json").read_text("utf-8")))
        self.run(line.replace("<this repository>", shlex.quote(str(self.template))), self.folder / "generated", typed)
        (project,) = (self.folder / "generated").iterdir()
        self.commit(project)
        return project

    @cached_property
    def advanced(self) -> Path:
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

    @contextmanager
    def serving(self, line: str) -> Iterator[tuple[Running, int]]:
        """Run a server in the service with every option, at a free port, for the time of a test."""
        words, port = shlex.split(line), free_port()
        settings = dict(word.split("=", 1) for word in takewhile(re.compile(r"[A-Z_]+=").match, words))
        address = [word.format(port=port) for name in set(words) for word in ADDRESSES.get(name, ())]
        variables = {"WORKERS": "1"} | self.variables | settings | {"PORT": str(port)}
        with running([*words[len(settings) :], *address], self.whole, variables) as server:
            wait_for(lambda: answers(port), f"answer to {line}", seconds=60)
            yield server, port

    @cached_property
    def port(self) -> int:
        """The port of a service with two workers that has a file with its process ID, and log files; it stays."""
        (line,) = [command.line for command in commands() if "PID_FILE=" in command.line]
        _, port = self.stays.enter_context(self.serving(f"WORKERS=2 {line}"))
        wait_for(lambda: len(children(self.master)) == 2, "two workers")
        return port

    @cached_property
    def composed(self) -> Stack:
        """A generated service under Compose; it stays."""
        project = Path(shutil.copytree(self.generated, self.folder / "composed"))
        fetch_images(project)
        return self.stays.enter_context(Stack(project, "documents"))

    @property
    def log(self) -> Path:
        """The folder of the log files of that service."""
        return self.whole / "log"

    @cached_property
    def master(self) -> int:
        """The process ID of that service, which stays; gunicorn writes its file anew at each SIGHUP."""
        return int((self.log / "service.pid").read_text("utf-8"))


ADDRESSES = {
    "uvicorn": ["--port", "{port}"],
    "hypercorn": ["--bind", "127.0.0.1:{port}"],
    "granian": ["--port", "{port}"],
}
"""How to tell a server that does not read PORT where to listen."""


def makes_a_service(places: Places, _: str) -> None:
    """What is made is a service that knows where it comes from."""
    assert (places.generated / "gun.py").exists()
    assert json.loads((places.generated / ".cruft.json").read_text("utf-8"))["template"] == str(places.template)


def updates(places: Places, line: str) -> None:
    """What the template has learned arrives, and the option that the line names is on or off."""
    project = Path(shutil.copytree(places.advanced, Path(mkdtemp(dir=places.folder)) / places.advanced.name))
    line = line.replace("<option>", options()[0])
    places.run(line, project)
    assert "# learned since" in (project / ".editorconfig").read_text("utf-8")
    answers = json.loads((project / ".cruft.json").read_text("utf-8"))["context"]["cookiecutter"]
    features = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))
    for option, value in json.loads((re.findall(r"'(.+)'", line) or ["{}"])[0]).items():
        assert answers[option] is value
        assert {(project / path).exists() for path in features[option]["paths"]} == {value}


def serves(places: Places, line: str) -> None:
    """The server answers with the ID, and writes the line of the request."""
    with places.serving(line) as (server, port):
        answer(port, "asked-by-the-test")
        server.wait_for(" asked-by-the-test 200 ")


def serves_with_files(places: Places, _: str) -> None:
    """The lines go into files, and the process ID of the master as well."""
    answer(places.port, "logged-in-a-file")
    wait_for_line(places.log / "access.log", " logged-in-a-file 200 ")
    assert children(places.master)


def wait_for_line(file: Path, words: str) -> None:
    """Wait until a log file has a line with these words."""
    wait_for(lambda: file.exists() and words in file.read_text("utf-8"), f"{words!r} in {file.name}")


def asks(places: Places, line: str) -> None:
    """The answer has the ID in header and body, and the lines are those that the README shows."""
    with places.serving("make run") as (service, port):
        head, _, body = places.run(line.replace(":8000/", f":{port}/"), places.folder).partition("\n\n")
        assert "\nx-request-id: order-4711\n" in f"{head.lower()}\n"
        assert json.loads(body)["request_id"] == "order-4711"
        service.wait_for(" order-4711 200 ")
    (sample,) = blocks(TEMPLATE_DIR / "README.md", "text")
    assert {shape(shown) for shown in sample.splitlines()} <= {shape(said) for said in service.said.splitlines()}


VARIES = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]{12}[+-]\d{4}|(?<=pid:)\d+|\d+\.\d{3}(?=s( |$))|(?<=127\.0\.0\.1:)\d+"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
ADDED = re.compile(r" trace_id=[0-9a-f]{32} span_id=[0-9a-f]{16}")


def shape(line: str) -> str:
    """Give a line of a log without what differs each time: time, process, duration, port, IDs of tasks and traces."""
    return VARIES.sub("…", ADDED.sub("", line))


def children(pid: int) -> set[int]:
    """Give the process IDs of a process' children."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()}


EFFECTS: dict[str, Callable[[set[int], set[int]], bool]] = {
    "HUP": lambda before, after: len(before) == len(after) and not before & after,
    "TTIN": lambda before, after: len(before) + 1 == len(after),
    "TTOU": lambda before, after: len(before) - 1 == len(after),
}
"""How gunicorn's workers are, before and after a signal."""


def tells(places: Places, line: str) -> None:
    """The signal changes the workers, and the service goes on."""
    answer(places.port, "before-the-signal")
    before, (name,) = children(places.master), re.findall(r"kill -(\w+) ", line)
    places.run(line, places.whole)
    wait_for(lambda: EFFECTS[name](before, children(places.master)), f"effect of {name}")
    answer(places.port, "after-the-signal")


def ends(places: Places, line: str) -> None:
    """The service ends with 0, as its document says."""
    line = line.replace("log/", "other/")
    with places.serving("LOG_PATH=other PID_FILE=other/service.pid make run") as (service, port):
        answer(port, "before-the-end")
        places.run(line, places.whole)
        assert service.end() == 0


def rotates(places: Places, line: str) -> None:
    """What came before is in the renamed file, what comes afterwards in the new one."""
    answer(places.port, "in-the-old-file")
    wait_for_line(places.log / "access.log", "in-the-old-file")
    places.run(line, places.whole)
    answer(places.port, "in-the-new-file")
    wait_for_line(places.log / "access.log", "in-the-new-file")
    assert "in-the-old-file" not in (places.log / "access.log").read_text("utf-8")
    assert "in-the-new-file" not in (places.log / "access.log.1").read_text("utf-8")


def installs_the_checks(places: Places, line: str) -> None:
    """git runs the checks from now on."""
    places.run("git init --quiet", places.whole)
    places.run(line, places.whole)
    assert "pre-commit" in (places.whole / ".git" / "hooks" / "pre-commit").read_text("utf-8")


def composes(places: Places, line: str) -> None:
    """Whatever the line does, nginx and the service answer with the ID before and afterwards."""
    asks_through_nginx(places.composed)
    places.compose(line)
    asks_through_nginx(places.composed)


def replaces(places: Places, line: str) -> None:
    """Each container gives way to another one, and there are as many as before."""
    must(places.composed.up("--scale", "api=2"))
    before = set(places.composed.containers("api"))
    composes(places, line)
    after = set(places.composed.containers("api"))
    assert (len(after), before & after) == (2, set())


def asks_composed(places: Places, line: str) -> None:
    """The answer has the ID in header and body."""
    head, _, body = places.compose(line.replace(":8080/", f":{places.composed.port}/")).partition("\n\n")
    assert "\nx-request-id: order-4711\n" in f"{head.lower()}\n"
    assert json.loads(body)["request_id"] == "order-4711"


def asks_through_nginx(stack: Stack) -> None:
    """The answer has the ID, in the header and in the body."""
    request_id = new_id("document")
    answered = stack.request("GET", "/api/demo", request_id=request_id, timeout=30)
    assert (answered.status, answered.one(), answered.json()["request_id"]) == (200, request_id, request_id)


def finds_lines(places: Places, line: str) -> None:
    """The lines of nginx, of the access log and of the application are found by the ID."""
    places.composed.request("GET", "/api/demo", request_id="order-4711")
    places.composed.wait_for_lines("order-4711", 3)
    found = [json.loads(line[line.index("{") :]) for line in places.compose(line).splitlines()]
    assert {line.get("logger", "access") for line in found} == {"nginx", "access", "demo"}


def develops(places: Places, line: str) -> None:
    """A change of the code is there a moment later; then everything is as before."""
    places.compose(line)
    code = places.composed.project / "app/api/demo.py"
    code.write_text(code.read_text("utf-8").replace('result="demo"', 'result="changed"'), "utf-8")
    wait_for(lambda: places.composed.request("GET", "/api/demo").json()["result"] == "changed", "new code")
    assert places.composed.request("GET", "/api/docs").status == 200
    must(places.composed.up())
    assert places.composed.request("GET", "/api/docs").status == 404


BROKERS: dict[str, tuple[str, type[Broker]]] = {
    "celery": ("CELERY_BROKER_URL", Redis),
    "saq": ("SAQ_URL", Redis),
    "faststream": ("FASTSTREAM_URL", Nats),
}
"""The setting that names the broker of an option, and one that does by default."""

READY = {"celery": " ready", "saq": "Worker starting", "faststream": "The broker at .+ answers"}
"""What the workers say when they are."""


def worker_of(option: str) -> str:
    """Give the line of the option's document that starts its worker."""
    lines = (command.line for command in commands() if command not in ELSEWHERE and runner_of(command) is works)
    (found,) = (line for line in lines if f"app.integrations.{option}" in line)
    return found


def works(places: Places, line: str) -> None:
    """The worker comes up with a broker, says so in the service's form, and ends with 0 when it is told to."""
    (option,) = (name for name in BROKERS if f"app.integrations.{name}" in line)
    setting, kind = BROKERS[option]
    with kind() as broker:
        variables = places.variables | {setting: broker.url}
        with running(["sh", "-c", f"exec {line}"], places.whole, variables) as worker:
            mine = re.compile(rf"(?m)^\d{{4}}-\d\d-\d\d .+ INFO \[-\] .*{READY[option]}")
            wait_for(lambda: bool(mine.search(worker.said)), "line that says that it is ready", seconds=60)
            time.sleep(1)  # it says so before it has set up its signals
            worker.tell_group(signal.SIGTERM)
            assert worker.end() == 0


def finds_a_worker(places: Places, line: str) -> None:
    """It ends with 1 without a worker, and with 0 as soon as there is one."""
    setting, kind = BROKERS["saq"]
    with kind() as broker:
        variables = places.variables | {setting: broker.url}

        def found() -> bool:
            return run(["sh", "-c", line], places.whole, variables, seconds=60).returncode == 0

        assert not found()
        with running(["sh", "-c", f"exec {worker_of('saq')}"], places.whole, variables):
            wait_for(found, "worker", seconds=60)


def finds_its_broker(port: int, option: str) -> bool:
    """Whether the service with every option misses whatever it may, but not what this one needs."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return True
    except HTTPError as error:
        return f"{option}: " not in json.load(error)["cause"]


def asks_for_work(places: Places, line: str) -> None:
    """The answer has the ID; service and worker write the lines that the document shows, and others with the ID."""
    (option,) = re.findall(r"/api/(\w+)/demo", line)
    setting, kind = BROKERS[option]
    with kind() as broker:
        words = f"{setting}={broker.url}"
        variables = places.variables | {setting: broker.url}
        document = TEMPLATE_DIR / f"docs/{option}.md"
        with (
            running(["sh", "-c", f"exec {worker_of(option)}"], places.whole, variables) as worker,
            places.serving(f"{words} make run") as (service, port),
        ):
            wait_for(lambda: re.search(READY[option], worker.said) is not None, "worker that is ready", seconds=60)
            wait_for(lambda: finds_its_broker(port, option), "broker of the service", seconds=60)
            head, _, body = places.run(line.replace(":8000/", f":{port}/"), places.folder).partition("\n\n")
            assert "\nx-request-id: order-4711\n" in f"{head.lower()}\n"
            assert json.loads(body)["request_id"] == "order-4711"
            for sample in [shape(shown) for text in blocks(document, "text") for shown in text.splitlines()]:
                wait_for(lambda: sample in map(shape, f"{service.said}{worker.said}".splitlines()), sample)  # noqa: B023


def lines_are_shown(document: Path, number: int, said: Callable[[], str]) -> None:
    """Wait until the lines of a document's block have been written."""
    for sample in blocks(document, "text")[number].splitlines():
        looked_for = shape(sample)
        wait_for(lambda: looked_for in map(shape, said().splitlines()), looked_for)  # noqa: B023


def calls_a_tool(places: Places, line: str) -> None:
    """The answer has the ID in header, message and result, and the document's lines are written."""
    with places.serving("make run") as (service, port):
        head, _, body = places.run(line.replace(":8000/", f":{port}/"), places.folder).partition("\n\n")
        assert "\nx-request-id: order-4711\n" in f"{head.lower()}\n"
        message, result = (json.loads(one) for one in re.findall(r"data: (.+)", body))
        (shown,) = blocks(TEMPLATE_DIR / "docs/mcp.md", "json")
        assert message["params"] == json.loads(shown)
        assert result["result"]["_meta"]["x-request-id"] == "order-4711"
        lines_are_shown(TEMPLATE_DIR / "docs/mcp.md", 0, lambda: service.said)


def speaks_by_pipes(places: Places, line: str) -> None:
    """It answers on standard output, where nothing else stands, and ends with its input."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    started = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    typed = [asked | {"id": 0, "method": "initialize", "params": started}, asked]
    with subprocess.Popen(
        ["sh", "-c", f"exec {line}"], cwd=places.whole, env=places.variables, stdin=PIPE, stdout=PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        for request in typed:
            server.stdin.write(f"{json.dumps(request)}\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
        server.stdin.close()
        assert {tool["name"] for tool in answer["result"]["tools"]} >= {"analyze_data", "store_result"}
        assert (server.stdout.read(), server.wait(30)) == ("", 0)


def asks_other_servers(places: Places, line: str) -> None:
    """Four processes write lines with the ID; what another server says is among those of the service."""
    (with_servers,) = [command.line for command in commands() if command.line.startswith("MCP_SERVERS=")]
    with places.serving(with_servers) as (service, port):
        head, _, body = places.run(line.replace(":8000/", f":{port}/"), places.folder).partition("\n\n")
        assert "\nx-request-id: order-4711\n" in f"{head.lower()}\n"
        assert json.loads(body)["message"] == "success"
        lines_are_shown(TEMPLATE_DIR / "docs/mcp.md", 1, lambda: service.said)
        own = [found for found in service.said.splitlines() if " [order-4711] " in found]
        assert len({re.findall(r"pid:(\d+)", found)[0] for found in own}) == 4


def leaves(places: Places, line: str) -> None:
    """Nothing runs any more."""
    places.composed.request("GET", "/livez")
    places.compose(line)
    assert places.composed.containers("nginx") == places.composed.containers("api") == []
    must(places.composed.up())


RUNNERS: dict[str, Callable[[Places, str], None]] = {
    r"repository: uvx cookiecutter <this repository>": makes_a_service,
    r"\w+: uvx cruft update --skip-apply-ask( --variables-to-update '.+')?": updates,
    r"service: LOG_PATH=log PID_FILE=log/service.pid make run": serves_with_files,
    r"service: uv run (--with \w+ )?(uvicorn|gunicorn|hypercorn|granian) .+": serves,
    r"service: curl .+:8000/api/demo .+": asks,
    r'service: kill -(HUP|TTIN|TTOU) "\$\(cat log/service\.pid\)"': tells,
    r'service: kill -TERM "\$\(cat log/service\.pid\)"': ends,
    r'service: mv log/access\.log log/access\.log\.1 && kill -USR1 "\$\(cat log/service\.pid\)"': rotates,
    r"service: \.venv/bin/pre-commit install": installs_the_checks,
    r"service: docker compose (build|kill .+|up .+)": composes,
    r"service: all=\$\(docker compose ps .+": replaces,
    r"service: docker compose logs .+ \| grep order-4711": finds_lines,
    r"service: docker compose --file .+ up --wait": develops,
    r"service: uv run saq .+ --check": finds_a_worker,
    r"service: uv run (celery|saq|faststream) .+(worker|settings)": works,
    r"service: curl .*-X POST .+:8000/api/(celery|saq|faststream)/demo .+": asks_for_work,
    r"service: curl .+:8000/mcp .+": calls_a_tool,
    r"service: uv run python -m app.integrations.mcp": speaks_by_pipes,
    r"service: MCP_SERVERS='.+' make run": serves,
    r"service: curl .+:8000/api/mcp/demo .+": asks_other_servers,
    r"service: docker compose (stop nginx && docker compose )?down": leaves,
    r"service: curl .+:8080/api/demo .+": asks_composed,
}
"""Who runs a line, by what it looks like."""


def runner_of(command: Command) -> Callable[[Places, str], None]:
    """Give who can run a command; fails when nobody can, or several."""
    found = [runner for look, runner in RUNNERS.items() if re.fullmatch(look, f"{command.whose}: {command.line}")]
    assert len(found) == 1, f"no test runs this line: {command}"
    return found[0]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Where commands are run; what stays until the end of these tests ends here."""
    made = Places(tmp_path_factory.mktemp("places"))
    with made.stays:
        yield made


@pytest.mark.parametrize("command", commands(), ids=": ".join)
def test_command(places: Places, command: Command) -> None:
    """Every line of every document does what it is there for; nobody may add one that is not run."""
    if command not in ELSEWHERE:
        runner_of(command)(places, command.line)


def test_every_command_is_there() -> None:
    """What runs elsewhere, and everyone who runs something here, has a line."""
    assert set(ELSEWHERE) <= set(commands())
    assert {runner_of(command) for command in commands() if command not in ELSEWHERE} == set(RUNNERS.values())


@pytest.mark.parametrize("line", ["rm -r log", "make run && make run", "uv run python", "uvx cruft update"])
def test_an_unknown_command_is_noticed(line: str) -> None:
    """A line that nobody here knows how to run fails."""
    with pytest.raises(AssertionError, match="no test runs"):
        runner_of(Command("service", line))
