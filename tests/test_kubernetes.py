"""The manifests of the option `kubernetes`: valid, restricted, and of one mind with each other and with the service."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, latest_version, validate  # type: ignore[import-untyped]

from tests.baking import TEMPLATE_DIR, free_port, must, run
from tests.live import baked
from tests.live.client import Answer, Connection, build_request
from tests.live.harness import LiveService
from tests.live.logs import wait_for
from tests.programs import program
from tests.terminal import running

Manifest = dict[str, Any]

FOLDER = TEMPLATE_DIR / "deploy" / "k8s"
# The oldest one that knows the action `sleep` without a feature gate, and all that the schemas know since.
OLDEST = 30
VERSIONS = [f"1.{minor}" for minor in range(OLDEST, int(latest_version().split(".")[1]) + 1)]
KINDS = [
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
]
MARGIN = 5


def documents(text: str) -> list[Manifest]:
    """Give every document of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def kustomization() -> Manifest:
    """Give what names all other files."""
    (document,) = documents((FOLDER / "kustomization.yaml").read_text("utf-8"))
    return document


def from_files() -> list[Manifest]:
    """Give the manifests as they are written."""
    return [document for name in kustomization()["resources"] for document in documents((FOLDER / name).read_text())]


def settings() -> dict[str, str]:
    """Give the variables of settings.env."""
    lines = (FOLDER / "settings.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def of_kind(kind: str, manifests: list[Manifest] | None = None) -> Manifest:
    """Give the one manifest of a kind."""
    (found,) = [document for document in manifests or from_files() if document["kind"] == kind]
    return found


def pod() -> Manifest:
    """Give what the Deployment says of each pod."""
    template: Manifest = of_kind("Deployment")["spec"]["template"]
    return template


def container() -> Manifest:
    """Give the pod's one container."""
    (only,) = pod()["spec"]["containers"]
    return dict(only)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What the command of docs/kubernetes.md makes of the files."""
    service = tmp_path_factory.mktemp("built")
    shutil.copytree(FOLDER, service / "deploy" / "k8s")
    kubectl = program("kubectl", "kubernetes-client")
    if old(kubectl):
        say_it_in_old_words(service / "deploy" / "k8s" / "kustomization.yaml")
    return documents(must(run([kubectl, "kustomize", "deploy/k8s"], service)).stdout)


def old(kubectl: Path) -> bool:
    """Whether it is older than 1.21, as that of Debian 12, which takes one file of variables and calls it `env`."""
    said = must(run([kubectl, "version", "--client", "--output=json"], FOLDER)).stdout
    return int(re.sub(r"\D", "", json.loads(said)["clientVersion"]["minor"])) < 21


def say_it_in_old_words(file: Path) -> None:
    """Change the one word that the old one does not know."""
    text = file.read_text("utf-8")
    assert text.count("envs:\n      - ") == 1
    file.write_text(text.replace("envs:\n      - ", "env: "))


@pytest.mark.parametrize("version", VERSIONS)
def test_files_are_valid(version: str) -> None:
    """Each file keeps to the API's schema, and has no field that is not there."""
    for manifest in from_files():
        validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_built_is_valid(built: list[Manifest], version: str) -> None:
    """The same of what goes to the cluster."""
    for manifest in built:
        validate(manifest, version, strict=True)


def misspelt(deployment: Manifest) -> None:
    """A field that is not there."""
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 50


def in_words(deployment: Manifest) -> None:
    """A text where a number belongs."""
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "fifty"


def unnamed(deployment: Manifest) -> None:
    """A container without its name."""
    del deployment["spec"]["template"]["spec"]["containers"][0]["name"]


def unlabelled(deployment: Manifest) -> None:
    """Pods that nothing selects."""
    del deployment["spec"]["selector"]


@pytest.mark.parametrize("spoil", [misspelt, in_words, unnamed, unlabelled])
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_a_broken_manifest_is_noticed(version: str, spoil: Callable[[Manifest], None]) -> None:
    """The checks above can fail."""
    deployment = copy.deepcopy(of_kind("Deployment"))
    validate(deployment, version, strict=True)
    spoil(deployment)
    with pytest.raises(ValidationError):
        validate(deployment, version, strict=True)


def test_every_file_is_used() -> None:
    """Nothing lies in the folder that kustomization.yaml does not name."""
    (generator,) = kustomization()["configMapGenerator"]
    named = [*kustomization()["resources"], *generator["envs"], "kustomization.yaml"]
    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir())


def test_what_is_built(built: list[Manifest]) -> None:
    """Each kind once, with the image of kustomization.yaml and the settings of settings.env."""
    assert sorted(manifest["kind"] for manifest in built) == KINDS
    ((chosen,), config) = (kustomization()["images"], of_kind("ConfigMap", built))
    (only,) = of_kind("Deployment", built)["spec"]["template"]["spec"]["containers"]
    assert container()["image"] == chosen["name"]
    assert only["image"] == f"{chosen['newName']}:{chosen['newTag']}"
    assert config["data"] == settings()
    assert re.fullmatch(r"api-settings-\w+", config["metadata"]["name"])
    assert only["envFrom"][0] == {"configMapRef": {"name": config["metadata"]["name"]}}


def test_labels(built: list[Manifest]) -> None:
    """All have the recommended labels, and selectors find the pods."""
    labels = pod()["metadata"]["labels"]
    assert [manifest["metadata"]["labels"] for manifest in built] == [labels] * len(KINDS)
    selectors = [
        of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        of_kind("Service")["spec"]["selector"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["spec"]["topologySpreadConstraints"]),
    ]
    assert len(selectors) == 6
    assert [selector for selector in selectors if not selector or not selector.items() <= labels.items()] == []


def test_targets() -> None:
    """What points to something points to what is there."""
    deployment, service, ingress = of_kind("Deployment"), of_kind("Service"), of_kind("Ingress")
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    (served,) = service["spec"]["ports"]
    assert path["backend"] == {"service": {"name": service["metadata"]["name"], "port": {"name": served["name"]}}}
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    assert pod()["spec"]["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert sorted(mounts) == sorted(volume["name"] for volume in pod()["spec"]["volumes"])
    assert set(mounts.values()) == {"/tmp", "/dev/shm"}


def test_ports() -> None:
    """Service, network policy and probes mean the container's port, which is that of the image."""
    (port,) = container()["ports"]
    (policy,) = of_kind("NetworkPolicy")["spec"]["ingress"]
    probes = [container()[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")]
    named = [of_kind("Service")["spec"]["ports"][0]["targetPort"], policy["ports"][0]["port"], *probes]
    assert named == [port["name"]] * 5
    assert f" PORT={port['containerPort']} " in (TEMPLATE_DIR / "Dockerfile").read_text("utf-8")


def test_probes() -> None:
    """Only readiness asks for what the service needs; only one that answers nothing is started anew."""
    paths = {kind: container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    routes = (TEMPLATE_DIR / "app" / "api" / "health.py").read_text("utf-8")
    assert [path for path in paths.values() if f'"{path}"' not in routes] == []
    live = container()["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] > int(settings()["TIMEOUT"])


def test_end() -> None:
    """A pod that ends is first left out, then lets its requests end, and is not killed before."""
    wait, grace = container()["lifecycle"]["preStop"]["sleep"]["seconds"], int(settings()["GRACEFUL_TIMEOUT"])
    assert wait >= MARGIN
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= wait + grace + MARGIN


def test_nobody_is_missing() -> None:
    """Neither a roll-out nor a drained node takes the last one away, and the scaler alone counts."""
    deployment, scaler = of_kind("Deployment")["spec"], of_kind("HorizontalPodAutoscaler")["spec"]
    budget = of_kind("PodDisruptionBudget")["spec"]
    assert "replicas" not in deployment
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert scaler["minReplicas"] > budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert {spread["topologyKey"] for spread in pod()["spec"]["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


def test_scaling_begins() -> None:
    """The workers can use more than what the scaler aims at, or it would never add a pod."""
    (metric,) = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    resources = container()["resources"]
    aim = float(resources["requests"]["cpu"]) * metric["resource"]["target"]["averageUtilization"] / 100
    assert aim < int(settings()["WORKERS"])
    assert "cpu" not in resources["limits"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"]


def test_who_may_come_in() -> None:
    """Only pods of the ingress controller's namespace, and only to one port."""
    policy = of_kind("NetworkPolicy")["spec"]
    ((rule,), kinds) = (policy["ingress"], policy["policyTypes"])
    assert kinds == ["Ingress"]
    (peer,) = rule["from"]
    assert list(peer) == ["namespaceSelector"]
    assert list(peer["namespaceSelector"]["matchLabels"]) == ["kubernetes.io/metadata.name"]
    assert len(rule["ports"]) == 1


UNWANTED: list[str] = ["hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"]


def unrestricted(spec: Manifest) -> list[str]:
    """Give what of a pod the level "restricted" of the Pod Security Standards refuses, and what could be written."""
    faults = [name for name in UNWANTED if name in spec]
    faults += [volume["name"] for volume in spec["volumes"] if set(volume) != {"name", "emptyDir"}]
    faults += [port["name"] for one in spec["containers"] for port in one["ports"] if "hostPort" in port]
    for one in spec["containers"]:
        context = {**spec.get("securityContext", {}), **one.get("securityContext", {})}
        faults += [name for name, holds in promises(context).items() if not holds]
    return faults


def promises(context: Manifest) -> dict[str, bool]:
    """Tell of each field whether it is as it must be."""
    return {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "runAsUser": context.get("runAsUser", 0) > 0,
        "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
        "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        "privileged": not context.get("privileged"),
        "procMount": "procMount" not in context,
    }


def test_restricted(built: list[Manifest]) -> None:
    """A namespace that enforces "restricted" takes the pods; they cannot write, nor talk to the cluster."""
    spec = of_kind("Deployment", built)["spec"]["template"]["spec"]
    assert unrestricted(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert of_kind("ServiceAccount", built)["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("whose", "name", "value"),
    [
        ("pod", "runAsNonRoot", None),
        ("pod", "runAsUser", 0),
        ("pod", "seccompProfile", {"type": "Unconfined"}),
        ("container", "allowPrivilegeEscalation", None),
        ("container", "readOnlyRootFilesystem", False),
        ("container", "capabilities", {"drop": ["ALL"], "add": ["NET_RAW"]}),
        ("container", "privileged", True),
    ],
)
def test_what_is_not_restricted_is_noticed(whose: str, name: str, value: object) -> None:
    """The check above can fail."""
    spec = copy.deepcopy(pod()["spec"])
    context = (spec if whose == "pod" else spec["containers"][0])["securityContext"]
    context[name] = value
    assert unrestricted(spec) == [name]


def test_user_of_the_image() -> None:
    """The pod's user and group are those to whom the image belongs."""
    context = pod()["spec"]["securityContext"]
    users = re.findall(r"(?m)^USER (.+)$", (TEMPLATE_DIR / "Dockerfile").read_text("utf-8"))
    assert users[-1] == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_secrets_are_optional() -> None:
    """Without the Secret the service starts; with it, its values win, and none is in the files."""
    settings_of, secrets_of = container()["envFrom"]
    assert list(settings_of) == ["configMapRef"]
    assert secrets_of == {"secretRef": {"name": "api-secrets", "optional": True}}
    assert "Secret" not in KINDS


# The service with these settings, and nginx with these snippets in front of it


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service, with what its lock names."""
    return baked.install(baked.bake(tmp_path_factory.mktemp("installed")))


def test_settings_are_the_service_s(installed: Path) -> None:
    """Each variable is one that the service reads, and has a value that it takes."""
    code = "from app.settings import Settings, variable_of as v; import json; s = Settings()\n"
    code += "print(json.dumps({v(Settings, n): str(getattr(s, n)) for n in Settings.model_fields}))"
    python = installed / ".venv" / "bin" / "python"
    read = json.loads(must(run([python, "-c", code], installed, {"PATH": os.defpath} | settings())).stdout)
    assert [name for name in settings() if name not in read] == []
    numbers = {name: value for name, value in settings().items() if value.isdigit()}
    assert {name: read[name] for name in numbers} == numbers
    assert run([python, "-c", code], installed, settings() | {"WORKERS": "many"}).returncode != 0


def annotation(name: str) -> str:
    """Give what the Ingress says to the controller."""
    return str(of_kind("Ingress")["metadata"]["annotations"][f"nginx.org/{name}"])


def test_one_pattern() -> None:
    """The edge takes over what the service takes over."""
    code = (TEMPLATE_DIR / "app" / "common" / "request_id.py").read_text("utf-8")
    (of_service,) = re.findall(r'_ACCEPTED = re\.compile\(rb"(.+)"\)\.fullmatch', code)
    (of_edge,) = re.findall(r'if \(\$http_x_request_id ~ "\^(.+)\$"\)', annotation("server-snippets"))
    assert of_edge == of_service


def test_limits_of_the_edge() -> None:
    """The edge takes bodies as large as the service does, and lets connections go before the service does."""
    assert annotation("client-max-body-size") == f"{int(settings()['MAX_BODY_BYTES']) // 2**20}m"
    assert int(settings()["KEEPALIVE"]) > 60
    assert settings()["REQUEST_ID_TRUST"] == "always"


# What the controller writes around the snippets, as its template internal/configs/version1/nginx.ingress.tmpl has it.
CONFIGURATION = """
USER
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream pods {
    server 127.0.0.1:POD;
    keepalive KEEP;
  }
  server {
    listen 127.0.0.1:EDGE;
    server_name api.example.com;
    SERVER_SNIPPETS
    location / {
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      LOCATION_SNIPPETS
      client_max_body_size BODY;
      proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_pass http://pods;
    }
  }
}
"""


def configuration(edge: int, pod: int) -> str:
    """Give nginx's configuration with the annotations of the Ingress in their places."""
    words = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "POD": str(pod),
        "EDGE": str(edge),
        "KEEP": annotation("keepalive"),
        "BODY": annotation("client-max-body-size"),
        "SERVER_SNIPPETS": annotation("server-snippets"),
        "LOCATION_SNIPPETS": annotation("location-snippets"),
    }
    return re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], CONFIGURATION)


@contextmanager
def edge(folder: Path, pod: int) -> Iterator[int]:
    """Run nginx in front of a port of this machine, and give its own."""
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(configuration(port, pod))
    command = [str(program("nginx", "nginx-light")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running([*command, "-e", "error.log"], folder, {"PATH": os.defpath}) as nginx:

        def answers() -> bool:
            assert nginx.process.poll() is None, nginx.said + (folder / "error.log").read_text()
            try:
                return ask(port).status > 0
            except OSError:
                return False

        wait_for(answers, 20, "nginx")
        yield port


def ask(port: int, *ids: str, size: int = 0) -> Answer:
    """Send a request with these IDs, each in a header line of its own, and the length of a body that never comes."""
    headers = [("Host", "api.example.com"), *(("X-Request-ID", one) for one in ids)]
    if size:
        headers.append(("Content-Length", str(size)))
    with Connection(port) as connection:
        connection.send(build_request("GET", "/api/demo", headers))
        return connection.answer()


@pytest.fixture(scope="module")
def front(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx with the service behind it, which has the settings of the cluster."""
    program("nginx", "nginx-light")
    folder = tmp_path_factory.mktemp("front")
    with (
        LiveService(installed, folder / "service", app="app.main:app", env=settings()) as service,
        edge(folder / "edge", service.port) as port,
    ):
        yield port


MADE_BY_NGINX = re.compile(r"[0-9a-f]{32}").fullmatch
GOOD = ["order-4711", "079fa7bd-e737-40c5-9edf-6aac536595ad", "a" * 8, "Z" * 128, "a_.+/=@-b"]
BAD = [
    "",
    "short-1",
    "x" * 129,
    "-hyphen-first",
    "two words",
    "semi;colon",
    'quote"inside',
    "umlaut-äöü",
    "one,two,three",
]


@pytest.mark.parametrize("good", GOOD)
def test_a_good_id_passes_the_edge(front: int, good: str) -> None:
    """The client's ID is that of the edge and of the service."""
    answer = ask(front, good)
    assert (answer.status, answer.one(), answer.json()["request_id"]) == (200, good, good)


@pytest.mark.parametrize("ids", [(), *((bad,) for bad in BAD)], ids=repr)
def test_no_other_passes_the_edge(front: int, ids: tuple[str, ...]) -> None:
    """The edge makes a new ID, which the service takes over; its own ones would have hyphens."""
    answer = ask(front, *ids)
    assert answer.status == 200
    assert MADE_BY_NGINX(answer.one())
    assert answer.json()["request_id"] == answer.one()
    assert ask(front, *ids).one() != answer.one()


def test_two_ids_at_the_edge(front: int) -> None:
    """Only one reaches the service: a new one; nginx before 1.23 shows its configuration nothing but the first."""
    answer = ask(front, "order-4711", "order-4712")
    said = must(run([program("nginx", "nginx-light"), "-v"], FOLDER)).stderr
    version = tuple(int(number) for number in re.findall(r"nginx/(\d+)\.(\d+)", said)[0])
    assert answer.one() == "order-4711" if version < (1, 23) else MADE_BY_NGINX(answer.one())
    assert answer.json()["request_id"] == answer.one()


@pytest.mark.parametrize("given", ["order-4711", "bad one"])
def test_too_large_for_the_edge(front: int, given: str) -> None:
    """The edge's own answer has the ID, and the shape of all answers."""
    check_own_answer(ask(front, given, size=int(settings()["MAX_BODY_BYTES"]) + 1), 413, given)


@pytest.mark.parametrize("given", ["order-4711", "bad one"])
def test_nobody_behind_the_edge(tmp_path: Path, given: str) -> None:
    """The same when there is no pod that answers."""
    with edge(tmp_path / "edge", free_port()) as port:
        check_own_answer(ask(port, given), 502, given)


def check_own_answer(answer: Answer, status: int, given: str) -> None:
    """Look at an answer that the edge gives by itself."""
    assert answer.status == status
    assert answer.one() == given if given in GOOD else MADE_BY_NGINX(answer.one())
    assert answer.one("Content-Type") == "application/json"
    body = answer.json()
    assert (body["code"], body["message"], body["request_id"]) == (status, "failed", answer.one())
    assert list(body) == ["code", "message", "cause", "request_id", "result"]
