"""Run every command in the `sh` blocks of every document, and check its effect."""

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
from tests.support.documents import blocks, demo_responds, documents, get_demo
from tests.support.engine import fetch_images
from tests.support.ports import free_port
from tests.support.process import children
from tests.support.servers import SERVERS
from tests.support.stack import Stack
from tests.support.terminal import Running, running
from tests.support.waiting import wait_for

FEATURES = json.loads((TEMPLATE_DIR / "features.json").read_text("utf-8"))


class Command(NamedTuple):
    """A line of a `sh` block in a document of the repository or of the service."""

    owner: str
    line: str


def commands() -> list[Command]:
    """Return every line of every `sh` block in every document, without comments and duplicates."""
    found = {
        Command(owner, re.sub(r"\s+#.*", "", line))
        for owner, folder in (("repository", ROOT), ("service", TEMPLATE_DIR))
        for document in documents(folder)
        for block in blocks(document, "sh")
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    }
    return sorted(found)


def find_line(pattern: str) -> str:
    """Return the only line that matches a pattern."""
    (found,) = {command.line for command in commands() if re.fullmatch(pattern, command.line)}
    return found


# Commands that other tests run

TESTED_ELSEWHERE = {
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
"""For each command, the file in tests/ that runs it."""


def is_run_in(file: str, line: str) -> bool:
    """Whether a file runs a command: it has the words in a call or a list, or finds the line with `startswith()`."""
    words = shlex.split(re.sub("^(docker compose|uv run) ", "", line))
    for node in ast.walk(ast.parse((ROOT / "tests" / file).read_text("utf-8"))):
        parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.List) else []
        values = [getattr(part, "id", getattr(part, "value", None)) for part in parts]
        is_search = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "startswith"
        if values[: len(words)] == words or (is_search and line.startswith(str(values[0]))):
            return True
    return False


def is_server_of_the_live_tests(line: str) -> bool:
    """Whether tests/live/test_servers.py starts the server: the same words in any order, besides its address."""
    words = set(shlex.split(re.sub(r"^uv run (--with \w+ )?", "", line))) | {"app.main:app"}
    address = {"--host", "127.0.0.1", "--port", "1", "--bind", "127.0.0.1:1"}
    return line.startswith("uv run ") and any(
        words == set(command("app.main:app", 1)) - address for command in SERVERS.values()
    )


# Environments in which the commands run


class Environments:
    """Folders, services and workers for the commands; created on first use, and kept until all tests have run."""

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self.folder, self.resources = folder, resources
        self.workers: dict[str, Running] = {}
        (folder / "home").mkdir()
        author = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        cache = must(run([UV, "cache", "dir"], folder)).stdout.strip()
        self.variables = environment(HOME=str(folder / "home"), UV_CACHE_DIR=cache, **author)

    def run(self, command: str, folder: Path, typed: str = "") -> str:
        """Run a command in a shell, and return its output; AssertionError if its exit code is not 0."""
        return must(run(["sh", "-c", command], folder, self.variables, typed)).stdout

    def commit(self, folder: Path) -> None:
        """Commit all files, in a new repository if the folder has none yet."""
        self.run("git init --quiet && git add --all && git commit --quiet --message=All", folder)

    @cached_property
    def template(self) -> Path:
        """A committed copy of the template."""
        folder = copy_repository(self.folder / "template")
        self.commit(folder)
        return folder

    @cached_property
    def generated(self) -> Path:
        """A service generated with the README's command, and the default answer to every question."""
        typed = "\n" * len(json.loads((self.template / "cookiecutter.json").read_text("utf-8")))
        project = self.generate(find_line("uvx cookiecutter <this repository>"), self.folder / "generated", typed)
        self.commit(project)
        return project

    def generate(self, line: str, folder: Path, typed: str = "") -> Path:
        """Run a cookiecutter command in a new folder, and return the project's folder."""
        folder.mkdir()
        self.run(line.replace("<this repository>", shlex.quote(str(self.template))), folder, typed)
        (project,) = folder.iterdir()
        return project

    @cached_property
    def outdated(self) -> Path:
        """The same service, after another commit in its template."""
        project = self.generated
        with (self.template / TEMPLATE / ".editorconfig").open("a") as file:
            file.write("\n# added later\n")
        self.commit(self.template)
        return project

    @cached_property
    def complete(self) -> Path:
        """A service with every option and its locked packages."""
        project = bake(self.template, self.folder / "complete", **dict.fromkeys(options(), True))
        self.run("uv sync --quiet --locked", project)
        return project

    @cached_property
    def brokers(self) -> dict[str, Broker]:
        """The default broker of each option, by the name of its setting."""
        redis, nats = self.resources.enter_context(Redis()), self.resources.enter_context(Nats())
        return {"CELERY_BROKER_URL": redis, "SAQ_URL": redis, "FASTSTREAM_URL": nats}

    @cached_property
    def urls(self) -> dict[str, str]:
        return {setting: broker.url for setting, broker in self.brokers.items()}

    def start_server(self, line: str, **more: str) -> tuple[Running, int]:
        """Start a server in the service with every option, at a free port; return it and the port."""
        words, port = shlex.split(line), free_port()
        settings = dict(word.split("=", 1) for word in takewhile(re.compile(r"[A-Z_]+=").match, words))
        address = ["--port", str(port)] if "uvicorn" in words else []
        variables = {"WORKERS": "1"} | self.variables | more | settings | {"PORT": str(port)}
        command = [*words[len(settings) :], *address]
        server = self.resources.enter_context(running(command, self.complete, variables))
        wait_for(lambda: demo_responds(port), f"response of {line}")
        return server, port

    @cached_property
    def service(self) -> tuple[Running, int]:
        """A running service with every option, its brokers and other MCP servers; and its port."""
        return self.start_server(find_line("MCP_SERVERS=.+"), **self.urls)

    @cached_property
    def service_with_files(self) -> tuple[int, int]:
        """The process ID of the master, and the port, of a service with two workers, log files and a PID file."""
        _, port = self.start_server(f"WORKERS=2 {find_line('LOG_PATH=log PID_FILE=.+')}")
        master = int((self.complete / "log/service.pid").read_text("utf-8"))  # written again at each SIGHUP
        wait_for(lambda: len(children(master)) == 2, "two workers")
        return master, port

    def worker(self, option: str) -> Running:
        """Return the worker of an option, started with the command of its document, when it is ready."""
        if option not in self.workers:
            line = find_line(WORKERS[option])
            worker = self.resources.enter_context(
                running(["sh", "-c", f"exec {line}"], self.complete, self.variables | self.urls)
            )
            ready = re.compile(rf"(?m)^\d{{4}}-\d\d-\d\d .+ INFO \[-\] .*{READY[option]}")
            wait_for(lambda: ready.search(worker.output), f"readiness of the worker of {option}")
            self.workers[option] = worker
        return self.workers[option]

    @cached_property
    def stack(self) -> Stack:
        """The generated service under Compose."""
        project = Path(shutil.copytree(self.generated, self.folder / "stack"))
        fetch_images(project)
        return self.resources.enter_context(Stack(project, "documents"))

    def compose(self, line: str) -> str:
        """Run a command in the folder of the service under Compose, and return its output."""
        return must(run(["sh", "-c", line], self.stack.project, self.stack.variables)).stdout


# Generation and updates


def check_generation(environments: Environments, _: str) -> None:
    """The new service has a record of its template."""
    assert (environments.generated / "gun.py").exists()
    template = json.loads((environments.generated / ".cruft.json").read_text("utf-8"))["template"]
    assert template == str(environments.template)


def check_generation_with_answers(environments: Environments, line: str) -> None:
    """The answers in the command override the defaults."""
    project = environments.generate(line, environments.folder / "answers")
    (name,) = re.findall(r'project_name="(.+?)"', line)
    assert project.name == name.lower().replace(" ", "-")
    for option, value in re.findall(r"(\w+)=(true|false)", line):
        assert {(project / path).exists() for path in FEATURES[option]["paths"]} == {value == "true"}


def check_update(environments: Environments, line: str) -> None:
    """The change of the template is applied, and the options in the command are switched."""
    project = environments.folder / f"updated-{line.count('{')}" / environments.outdated.name
    line = line.replace("<option>", "pre_commit")
    if not project.exists():  # both READMEs have the same commands
        shutil.copytree(environments.outdated, project)
        environments.run(line, project)
    assert "# added later" in (project / ".editorconfig").read_text("utf-8")
    answers = json.loads((project / ".cruft.json").read_text("utf-8"))["context"]["cookiecutter"]
    for option, value in json.loads((re.findall(r"'(.+)'", line) or ["{}"])[0]).items():
        assert answers[option] is value
        assert {(project / path).exists() for path in FEATURES[option]["paths"]} == {value}


# One service


def check_server(environments: Environments, line: str) -> None:
    """The server responds, and writes an access log line."""
    server, port = environments.service if line.startswith("MCP_SERVERS=") else environments.start_server(line)
    get_demo(port, "sent-by-the-test")
    server.wait_for(" sent-by-the-test 200 ")


def run_curl(environments: Environments, line: str, port: int) -> str:
    """Run a `curl` command with another port, check the ID in the response header, and return the response body."""
    head, _, body = environments.run(re.sub(r":80[08]0/", f":{port}/", line), environments.folder).partition("\n\n")
    (request_id,) = re.findall(r"X-Request-ID: ([\w-]+)", line)
    assert f"\nx-request-id: {request_id}\n" in f"{head.lower()}\n"
    return body


def check_demo_request(environments: Environments, line: str) -> None:
    """The response has the ID, and the log has the lines of the README."""
    service, port = environments.service
    assert json.loads(run_curl(environments, line, port))["request_id"] == "order-4711"
    wait_for_samples(TEMPLATE_DIR / "README.md", 0, lambda: service.output)


VARIABLE_PARTS = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]{12}[+-]\d{4}|(?<=pid:)\d+|\d+\.\d{3}(?=s( |$))|(?<=127\.0\.0\.1:)\d+"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
TRACE_FIELDS = re.compile(r" trace_id=[0-9a-f]{32} span_id=[0-9a-f]{16}")


def normalize(line: str) -> str:
    """Replace the variable parts of a log line (time, process ID, duration, port, task ID), and remove trace fields."""
    return VARIABLE_PARTS.sub("…", TRACE_FIELDS.sub("", line))


def wait_for_samples(document: Path, number: int, output: Callable[[], str]) -> None:
    """Wait until the output has each line of a document's `text` block; blocks are counted from 0."""
    for sample in {normalize(line) for line in blocks(document, "text")[number].splitlines()}:
        wait_for(lambda: sample in map(normalize, output().splitlines()), sample)  # noqa: B023


def check_tool_call(environments: Environments, line: str) -> None:
    """The ID is in the response header, the message and the result, and the log has the lines of the document."""
    service, port = environments.service
    message, result = (json.loads(one) for one in re.findall(r"data: (.+)", run_curl(environments, line, port)))
    (sample,) = blocks(TEMPLATE_DIR / "docs/mcp.md", "json")
    assert message["params"] == json.loads(sample)
    assert result["result"]["_meta"]["x-request-id"] == "order-4711"
    wait_for_samples(TEMPLATE_DIR / "docs/mcp.md", 0, lambda: service.output)


def check_calls_of_other_servers(environments: Environments, line: str) -> None:
    """Four processes write lines with the ID; the messages of another MCP server are in the log of the service."""
    service, port = environments.service
    body = run_curl(environments, line.replace("order-4711", "order-4712"), port)
    assert json.loads(body)["message"] == "success"
    wait_for_samples(TEMPLATE_DIR / "docs/mcp.md", 1, lambda: service.output.replace("order-4712", "order-4711"))
    lines = [found for found in service.output.splitlines() if " [order-4712] " in found]
    assert len({re.findall(r"pid:(\d+)", found)[0] for found in lines}) == 4


# Signals and files


def check_log_files(environments: Environments, _: str) -> None:
    """The service writes log files, and the process ID of the master to a file."""
    master, port = environments.service_with_files
    get_demo(port, "logged-in-a-file")
    wait_for_line(environments.complete / "log/access.log", " logged-in-a-file 200 ")
    assert children(master)


def wait_for_line(file: Path, text: str) -> None:
    """Wait until a log file contains a text."""
    wait_for(lambda: file.exists() and text in file.read_text("utf-8"), f"{text!r} in {file.name}")


WORKERS_ADDED = {"HUP": 0, "TTIN": 1, "TTOU": -1}
"""By how much a signal changes the number of gunicorn's workers; SIGHUP replaces all of them."""


def check_signal(environments: Environments, line: str) -> None:
    """The signal changes the workers, and the service responds afterwards."""
    master, port = environments.service_with_files
    before, (name,) = set(children(master)), re.findall(r"kill -(\w+) ", line)
    environments.run(line, environments.complete)

    def is_changed() -> bool:
        after = set(children(master))
        return len(after) - len(before) == WORKERS_ADDED[name] and (name != "HUP" or not before & after)

    wait_for(is_changed, f"effect of {name}")
    get_demo(port, "after-the-signal")


def check_shutdown(environments: Environments, line: str) -> None:
    """The service exits with 0."""
    service, port = environments.start_server("LOG_PATH=other PID_FILE=other/service.pid make run")
    get_demo(port, "before-the-shutdown")
    environments.run(line.replace("log/", "other/"), environments.complete)
    assert service.wait_for_exit() == 0


def check_rotation(environments: Environments, line: str) -> None:
    """Earlier lines are in the renamed file, later ones in the new one."""
    log, port = environments.complete / "log", environments.service_with_files[1]
    get_demo(port, "in-the-old-file")
    wait_for_line(log / "access.log", "in-the-old-file")
    environments.run(line, environments.complete)
    wait_for((log / "access.log").exists, "new file")
    get_demo(port, "in-the-new-file")
    wait_for_line(log / "access.log", "in-the-new-file")
    assert "in-the-old-file" not in (log / "access.log").read_text("utf-8")
    assert "in-the-new-file" not in (log / "access.log.1").read_text("utf-8")


# Queues

WORKERS = {"celery": r"uv run celery .+ worker", "saq": r"uv run saq \S+", "faststream": r"uv run faststream run \S+"}
"""Patterns of the commands that start the workers."""

READY = {"celery": " ready", "saq": "Worker starting", "faststream": "Connected to the broker at "}
"""What the workers log when they are ready."""


def check_worker(environments: Environments, line: str) -> None:
    """The worker is running."""
    (option,) = (name for name, pattern in WORKERS.items() if re.fullmatch(pattern, line))
    assert environments.worker(option).process.poll() is None


def check_health_check(environments: Environments, line: str) -> None:
    """The health check fails without a worker, and passes as soon as a worker is running."""
    variables = environments.variables | {"SAQ_URL": environments.brokers["SAQ_URL"].url.replace("/0", "/1")}

    def is_healthy() -> bool:
        return run(["sh", "-c", line], environments.complete, variables, seconds=60).returncode == 0

    assert not is_healthy()
    with running(["sh", "-c", f"exec {find_line(WORKERS['saq'])}"], environments.complete, variables):
        wait_for(is_healthy, "worker")


def is_connected(port: int, option: str) -> bool:
    """Whether the readiness check of an option passes; those of other options may fail."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return True
    except HTTPError as error:
        return f"{option}: " not in json.load(error)["cause"]


def check_task(environments: Environments, line: str) -> None:
    """The response has the ID; service and worker write the lines of the document, for Celery also of the README."""
    (option,) = re.findall(r"/api/(\w+)/demo", line)
    worker, (service, port) = environments.worker(option), environments.service
    wait_for(lambda: is_connected(port, option), "connection of the service to its broker")
    assert json.loads(run_curl(environments, line, port))["request_id"] == "order-4711"
    readme = [ROOT / "README.md"] if option == "celery" else []
    for document in [TEMPLATE_DIR / f"docs/{option}.md", *readme]:
        for number in range(len(blocks(document, "text"))):
            wait_for_samples(document, number, lambda: f"{service.output}{worker.output}")


# Compose


def check_compose(environments: Environments, line: str) -> None:
    """After the command, nginx and the service respond with the ID."""
    environments.compose(line)
    request_id = new_id("document")
    response = environments.stack.request("GET", "/api/demo", request_id=request_id, timeout=30)
    assert (response.status, response.header(), response.json()["request_id"]) == (200, request_id, request_id)


def check_demo_request_through_nginx(environments: Environments, line: str) -> None:
    """The response has the ID."""
    assert json.loads(run_curl(environments, line, environments.stack.port))["request_id"] == "order-4711"


def check_search_in_logs(environments: Environments, line: str) -> None:
    """The command finds the lines of nginx, of the access log and of the application with the ID."""
    environments.stack.request("GET", "/api/demo", request_id="order-4711")
    environments.stack.wait_for_lines("order-4711", 3)
    found = [json.loads(line[line.index("{") :]) for line in environments.compose(line).splitlines()]
    assert {line.get("logger", "access") for line in found} == {"nginx", "access", "demo"}


def check_reload(environments: Environments, line: str) -> None:
    """The service reloads changed code, and has API documentation; `up` then brings back the production settings."""
    environments.compose(line)
    code = environments.stack.project / "app/api/demo.py"
    code.write_text(code.read_text("utf-8").replace('result="demo"', 'result="changed"'), "utf-8")
    wait_for(lambda: environments.stack.request("GET", "/api/demo").json()["result"] == "changed", "new code")
    assert environments.stack.request("GET", "/api/docs").status == 200
    must(environments.stack.up())
    assert environments.stack.request("GET", "/api/docs").status == 404


def check_down(environments: Environments, line: str) -> None:
    """No container is left."""
    environments.stack.request("GET", "/livez")
    environments.compose(line)
    assert environments.stack.containers("nginx") == environments.stack.containers("api") == []
    must(environments.stack.up())


CHECKS: dict[str, Callable[[Environments, str], None]] = {
    r"repository: uvx cookiecutter <this repository>": check_generation,
    r"repository: uvx cookiecutter <this repository> --no-input .+": check_generation_with_answers,
    r"\w+: uvx cruft update --skip-apply-ask( --variables-to-update '.+')?": check_update,
    r"service: LOG_PATH=log PID_FILE=log/service.pid make run": check_log_files,
    r"service: (uv run uvicorn .+|MCP_SERVERS='.+' make run)": check_server,
    r"service: curl .+:8000/api/demo .+": check_demo_request,
    r'service: kill -(HUP|TTIN|TTOU) "\$\(cat log/service\.pid\)"': check_signal,
    r'service: kill -TERM "\$\(cat log/service\.pid\)"': check_shutdown,
    r'service: mv log/access\.log log/access\.log\.1 && kill -USR1 "\$\(cat log/service\.pid\)"': check_rotation,
    r"service: docker compose up .+": check_compose,
    r"service: docker compose logs .+ \| grep order-4711": check_search_in_logs,
    r"service: docker compose --file .+ up --wait": check_reload,
    r"service: docker compose stop nginx && docker compose down": check_down,
    r"service: curl .+:8080/api/demo .+": check_demo_request_through_nginx,
    r"service: uv run saq .+ --check": check_health_check,
    rf"service: ({'|'.join(WORKERS.values())})": check_worker,
    r"service: curl .*-X POST .+:8000/api/(celery|saq|faststream)/demo .+": check_task,
    r"service: curl .+:8000/mcp .+": check_tool_call,
    r"service: curl .+:8000/api/mcp/demo .+": check_calls_of_other_servers,
}
"""The function that runs a command and checks its effect, by a pattern of the command."""

TESTED_HERE = [
    command
    for command in commands()
    if command not in TESTED_ELSEWHERE and not is_server_of_the_live_tests(command.line)
]


def check_of(command: Command) -> Callable[[Environments, str], None]:
    """Return the function that checks a command; AssertionError unless there is exactly one."""
    found = [check for pattern, check in CHECKS.items() if re.fullmatch(pattern, f"{command.owner}: {command.line}")]
    assert len(found) == 1, f"{len(found)} patterns of CHECKS match {command}"
    return found[0]


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environments]:
    with ExitStack() as resources:
        yield Environments(tmp_path_factory.mktemp("environments"), resources)


@pytest.mark.full
@pytest.mark.parametrize("command", TESTED_HERE, ids=": ".join)
def test_documented_command_works(environments: Environments, command: Command) -> None:
    check_of(command)(environments, command.line)


@pytest.mark.parametrize("command", TESTED_ELSEWHERE, ids=": ".join)
def test_command_is_documented_and_run_by_another_file(command: Command) -> None:
    assert command in commands()
    assert is_run_in(TESTED_ELSEWHERE[command], command.line)


def test_every_command_has_a_check_and_every_check_a_command() -> None:
    assert {check_of(command) for command in TESTED_HERE} == set(CHECKS.values())
