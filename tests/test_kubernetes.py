"""The manifests of the option `kubernetes`: valid, restricted, and of one mind with each other and with the service."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, latest_version, validate  # type: ignore[import-untyped]
from websockets.sync.client import connect

from tests.support import baked
from tests.support.baking import TEMPLATE_DIR, must, run
from tests.support.client import ID_HEADER, Answer, Connection, build_request
from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.service import Service
from tests.support.terminal import running
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full
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
# The oldest kubectl whose Kustomize knows `envs` and `patches`; docs/kubernetes.md names it.
OLDEST_KUBECTL = 21
MARGIN = 5


def documents(text: str) -> list[Manifest]:
    """Give every manifest of a YAML text: each document, or what is in its list."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return [one for document in found for one in (document["items"] if document["kind"] == "List" else [document])]


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


def value_at(manifest: Manifest, path: str) -> Any:  # noqa: ANN401
    """Give what is at a path of names and numbers."""
    found: Any = manifest
    for word in path.split("."):
        found = found[int(word) if word.isdigit() else word]
    return found


def pod() -> Manifest:
    """Give what the Deployment says of each pod."""
    template: Manifest = of_kind("Deployment")["spec"]["template"]
    return template


def container() -> Manifest:
    """Give the pod's one container."""
    (only,) = pod()["spec"]["containers"]
    return dict(only)


def edge_id() -> Manifest:
    """Give the patch that puts the rule for the ID into the Ingress."""
    (document,) = documents((FOLDER / "edge-id.yaml").read_text("utf-8"))
    return document


PATCH = "patches: [{ path: edge-id.yaml }]"


def build(kubectl: Path, folder: Path, *, with_edge_id: bool = False) -> list[Manifest]:
    """Give what the command of docs/kubernetes.md makes of the files, or of those with the ID at the edge."""
    shutil.copytree(FOLDER, folder / "deploy" / "k8s")
    file = folder / "deploy" / "k8s" / "kustomization.yaml"
    if with_edge_id:
        text = file.read_text("utf-8")
        assert text.count(f"\n# {PATCH}\n") == 1
        file.write_text(text.replace(f"# {PATCH}", PATCH))
    return documents(must(run([kubectl, "kustomize", "deploy/k8s"], folder)).stdout)


@pytest.fixture(scope="module")
def built(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What the command of docs/kubernetes.md makes of the files as they are."""
    return build(kubectl, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def built_with_edge_id(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The same after the `#` before `patches` was taken away."""
    return build(kubectl, tmp_path_factory.mktemp("built"), with_edge_id=True)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl as new as docs/kubernetes.md demands; in CI, Debian's is unpacked where there is none."""
    found = shutil.which("kubectl")
    if found and version_of(Path(found)) >= OLDEST_KUBECTL:
        return Path(found)
    if os.environ.get("CI") != "true" or shutil.which("apt-get") is None:
        pytest.skip(f"There is no kubectl here that is of version 1.{OLDEST_KUBECTL} or newer.")
    return unpacked(tmp_path_factory.mktemp("kubectl"))


def version_of(program: Path) -> int:
    """Give the second number of a kubectl's version."""
    said = must(run([program, "version", "--client", "--output=json"], FOLDER)).stdout
    return int(re.sub(r"\D", "", json.loads(said)["clientVersion"]["minor"]))


def unpacked(folder: Path) -> Path:
    """Take kubectl out of a package of Debian 13, whose name has no version; that of Debian 12 is too old."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources").write_text(f"deb [signed-by={keys}] http://deb.debian.org/debian trixie main\n")
    places = {"Etc::SourceList": "sources", "State::Lists": "lists", "State::status": "status", "Cache": "."}
    options = [f"-oDir::{name}={folder / place}" for name, place in places.items()]
    options += ["-oDir::Etc::SourceParts=/dev/null", "-oAPT::Sandbox::User=root"]
    for words in (["update"], ["download", "kubectl"]):
        must(run(["apt-get", "-qq", *options, *words], folder, seconds=300))
    (package,) = folder.glob("kubectl_*.deb")
    must(run(["dpkg-deb", "--extract", package, folder / "system"], folder))
    return folder / "system" / "usr" / "bin" / "kubectl"


def test_files_and_what_is_built_of_them_keep_to_the_schemas(
    built: list[Manifest], built_with_edge_id: list[Manifest]
) -> None:
    """Of each version of the API; there is no field that is not in them."""
    for version in VERSIONS:
        for manifest in [*from_files(), *built, *built_with_edge_id]:
            validate(manifest, version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.template.spec.terminationGracePeriod", 50),
        ("spec.template.spec.terminationGracePeriodSeconds", "fifty"),
        ("spec.template.spec.containers.0.name", None),
        ("spec.selector", None),
    ],
    ids=["misspelt", "a text for a number", "a container without a name", "pods that nothing selects"],
)
def test_broken_manifest_is_noticed(path: str, value: object) -> None:
    """The check above can fail."""
    deployment = of_kind("Deployment")
    *words, last = path.split(".")
    place = value_at(deployment, ".".join(words))
    if value is None:
        del place[last]
    else:
        place[last] = value
    for version in (VERSIONS[0], VERSIONS[-1]):
        with pytest.raises(ValidationError):
            validate(deployment, version, strict=True)


def test_kustomization_names_every_file() -> None:
    (generator,) = kustomization()["configMapGenerator"]
    (patch,) = yaml.safe_load(PATCH)["patches"]
    named = [*kustomization()["resources"], *generator["envs"], patch["path"], "kustomization.yaml"]
    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir())


def test_each_kind_is_built_once_with_image_and_settings(built: list[Manifest]) -> None:
    """The image of kustomization.yaml and the settings of settings.env."""
    assert sorted(manifest["kind"] for manifest in built) == KINDS
    ((chosen,), config) = (kustomization()["images"], of_kind("ConfigMap", built))
    (only,) = of_kind("Deployment", built)["spec"]["template"]["spec"]["containers"]
    assert container()["image"] == chosen["name"]
    assert only["image"] == f"{chosen['newName']}:{chosen['newTag']}"
    assert config["data"] == settings()
    assert re.fullmatch(r"api-settings-\w+", config["metadata"]["name"])
    assert only["envFrom"][0] == {"configMapRef": {"name": config["metadata"]["name"]}}


def test_snippets_are_there_only_on_demand(built: list[Manifest], built_with_edge_id: list[Manifest]) -> None:
    """F5's controller refuses an Ingress with snippets unless they are switched on: so none is there at first."""
    plain = of_kind("Ingress", built)["metadata"]["annotations"]
    assert [name for name in plain if "snippets" in name] == []
    assert sorted(edge_id()["metadata"]["annotations"]) == ["nginx.org/location-snippets", "nginx.org/server-snippets"]
    ingress = of_kind("Ingress", built_with_edge_id)
    assert ingress["metadata"].pop("annotations") == annotations(with_edge_id=True)
    expected = copy.deepcopy(built)
    del of_kind("Ingress", expected)["metadata"]["annotations"]
    assert built_with_edge_id == expected


def test_namespace_is_that_of_the_context(built: list[Manifest]) -> None:
    """In files and commands; the document has it made first."""
    assert [manifest["kind"] for manifest in built if "namespace" in manifest["metadata"]] == []
    assert "namespace" not in kustomization()
    commands = re.findall(r"(?m)^kubectl .+$", (TEMPLATE_DIR / "docs" / "kubernetes.md").read_text("utf-8"))
    assert commands[:2] == [
        "kubectl create namespace NAME",
        "kubectl config set-context --current --namespace=NAME",
    ]
    assert [line for line in commands[2:] if re.search(r" (-n|--namespace|-A)\b", line)] == []


def test_labels_are_recommended_ones_and_selectors_find_the_pods(built: list[Manifest]) -> None:
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


def test_references_lead_to_what_is_there() -> None:
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


def test_ports_are_that_of_the_image() -> None:
    """Those of Service, network policy, probes and container."""
    (port,) = container()["ports"]
    (policy,) = of_kind("NetworkPolicy")["spec"]["ingress"]
    probes = [container()[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")]
    named = [of_kind("Service")["spec"]["ports"][0]["targetPort"], policy["ports"][0]["port"], *probes]
    assert named == [port["name"]] * 5
    assert f" PORT={port['containerPort']} " in (TEMPLATE_DIR / "Dockerfile").read_text("utf-8")


def test_only_readiness_asks_for_what_the_service_needs() -> None:
    """Only a pod that answers nothing is started again."""
    paths = {kind: container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    routes = (TEMPLATE_DIR / "app" / "api" / "health.py").read_text("utf-8")
    assert [path for path in paths.values() if f'"{path}"' not in routes] == []
    live = container()["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] > int(settings()["TIMEOUT"])
    ready, start = container()["readinessProbe"], container()["startupProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= 15
    assert start["periodSeconds"] * start["failureThreshold"] >= 30
    deployment = of_kind("Deployment")["spec"]
    longest = start["periodSeconds"] * start["failureThreshold"] + deployment["minReadySeconds"]
    assert deployment["progressDeadlineSeconds"] > longest + 60, "an image has to be pulled as well"


def test_pod_is_left_out_before_it_ends_and_not_killed_before() -> None:
    """Meanwhile it lets its requests end."""
    wait, grace = container()["lifecycle"]["preStop"]["sleep"]["seconds"], int(settings()["GRACEFUL_TIMEOUT"])
    assert wait >= MARGIN
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= wait + grace + MARGIN


def test_the_last_pod_is_never_taken_away() -> None:
    """Neither by a roll-out nor by a drained node; the scaler alone counts."""
    deployment, scaler = of_kind("Deployment")["spec"], of_kind("HorizontalPodAutoscaler")["spec"]
    budget = of_kind("PodDisruptionBudget")["spec"]
    assert "replicas" not in deployment
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert scaler["maxReplicas"] > scaler["minReplicas"] > budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert {spread["topologyKey"] for spread in pod()["spec"]["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }


# What docs/kubernetes.md or a remark in the files promises, and nothing else notices.
PROMISED: list[tuple[str, str, object]] = [
    ("Deployment", "spec.strategy.type", "RollingUpdate"),
    ("Deployment", "spec.template.spec.topologySpreadConstraints.0.whenUnsatisfiable", "ScheduleAnyway"),
    ("Deployment", "spec.template.spec.topologySpreadConstraints.1.whenUnsatisfiable", "ScheduleAnyway"),
    ("Deployment", "spec.template.spec.containers.0.resources.requests.cpu", "500m"),
    ("Deployment", "spec.template.spec.volumes.1.name", "heartbeat"),
    ("Deployment", "spec.template.spec.volumes.1.emptyDir.medium", "Memory"),
    ("Deployment", "spec.template.spec.containers.0.volumeMounts.1", {"name": "heartbeat", "mountPath": "/dev/shm"}),
    ("Service", "spec.type", "ClusterIP"),
    ("Service", "spec.ports", [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}]),
    ("Ingress", "spec.ingressClassName", "nginx"),
    ("Ingress", "spec.tls.0.secretName", "api-tls"),
    ("Ingress", "spec.rules.0.http.paths.0.path", "/"),
    ("Ingress", "spec.rules.0.http.paths.0.pathType", "Prefix"),
    ("NetworkPolicy", "spec.ingress.0.ports", [{"protocol": "TCP", "port": "http"}]),
    (
        "NetworkPolicy",
        "spec.ingress.0.from",
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "nginx-ingress"}}}],
    ),
]


def test_each_value_is_the_promised_one() -> None:
    found = [(kind, path, value_at(of_kind(kind), path)) for kind, path, _ in PROMISED]
    assert found == PROMISED


def test_lines_are_json_and_only_private_networks_are_trusted() -> None:
    assert settings()["LOG_FORMAT"] == "json"
    assert settings()["REQUEST_ID_TRUST"] == "always"
    networks = [ip_network(word) for word in settings()["FORWARDED_ALLOW_IPS"].split(",")]
    shared = ip_network("100.64.0.0/10")
    assert [str(one) for one in networks if not one.is_private and one != shared] == []


def test_workers_can_use_more_than_the_scaler_aims_at() -> None:
    """Or it would never add a pod."""
    (metric,) = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    resources = container()["resources"]
    assert metric["resource"]["target"]["type"] == "Utilization"
    (thousandths,) = re.findall(r"^(\d+)m$", resources["requests"]["cpu"])
    aim = int(thousandths) / 1000 * metric["resource"]["target"]["averageUtilization"] / 100
    assert aim < int(settings()["WORKERS"])
    assert "cpu" not in resources["limits"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"]
    (memory,) = re.findall(r"^(\d+)Mi$", resources["limits"]["memory"])
    assert int(memory) >= 128 * int(settings()["WORKERS"])


def test_network_policy_admits_one_source_and_nothing_else() -> None:
    """Only what comes in is looked at."""
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert len(policy["ingress"]) == 1


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


def test_pods_pass_the_level_restricted(built: list[Manifest]) -> None:
    """They cannot write, nor talk to the cluster."""
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
def test_unrestricted_pod_is_noticed(whose: str, name: str, value: object) -> None:
    """The check above can fail."""
    spec = pod()["spec"]
    context = (spec if whose == "pod" else spec["containers"][0])["securityContext"]
    context[name] = value
    assert unrestricted(spec) == [name]


def test_pod_runs_as_the_user_of_the_image() -> None:
    """And its group."""
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


def test_service_reads_each_setting_and_takes_its_value(installed: Path) -> None:
    code = "from app.settings import Settings, variable_of as v; import json; s = Settings()\n"
    code += "print(json.dumps({v(Settings, n): str(getattr(s, n)) for n in Settings.model_fields}))"
    python = installed / ".venv" / "bin" / "python"
    read = json.loads(must(run([python, "-c", code], installed, {"PATH": os.defpath} | settings())).stdout)
    assert [name for name in settings() if name not in read] == []
    numbers = {name: value for name, value in settings().items() if value.isdigit()}
    assert {name: read[name] for name in numbers} == numbers
    assert run([python, "-c", code], installed, settings() | {"WORKERS": "many"}).returncode != 0


def annotations(*, with_edge_id: bool) -> dict[str, str]:
    """Give what the Ingress says to the controller."""
    found = dict(of_kind("Ingress")["metadata"]["annotations"])
    return found | edge_id()["metadata"]["annotations"] if with_edge_id else found


def annotation(name: str) -> str:
    """Give one of them, with the ID at the edge."""
    return annotations(with_edge_id=True)[f"nginx.org/{name}"]


def test_edge_accepts_the_ids_that_the_service_accepts() -> None:
    code = (TEMPLATE_DIR / "app" / "common" / "request_id.py").read_text("utf-8")
    (of_service,) = re.findall(r'_ACCEPTED = re\.compile\(rb"(.+)"\)\.fullmatch', code)
    (of_edge,) = re.findall(r'if \(\$http_x_request_id ~ "\^(.+)\$"\)', annotation("server-snippets"))
    assert of_edge == of_service
    assert "error_page 413 502 503 504 @api_unanswered;" in annotation("server-snippets")


def test_limits_of_the_edge_fit_those_of_the_service() -> None:
    """The edge takes bodies as large as the service does, and lets connections go before the service does."""
    assert annotation("client-max-body-size") == f"{int(settings()['MAX_BODY_BYTES']) // 2**20}m"
    assert int(settings()["KEEPALIVE"]) > 60


def test_controller_passes_websockets_to_the_service() -> None:
    """The controller lets them through for the names of Services; `keepalive` would have no effect beside that."""
    assert annotation("websocket-services") == of_kind("Service")["metadata"]["name"]
    assert "nginx.org/keepalive" not in annotations(with_edge_id=True)


# What the controller writes around the snippets, as its templates in internal/configs/version1 have it: nginx.tmpl, and
# nginx.ingress.tmpl with `websocket-services`.
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
  map $http_upgrade $connection_upgrade {
    default upgrade;
    '' close;
  }
  upstream pods {
    server 127.0.0.1:POD;
  }
  server {
    listen 127.0.0.1:EDGE;
    server_name api.example.com;
    SERVER_SNIPPETS
    location / {
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
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


def configuration(edge: int, pod: int, *, with_edge_id: bool) -> str:
    """Give nginx's configuration with the annotations of the Ingress in their places."""
    said = annotations(with_edge_id=with_edge_id)
    words = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "POD": str(pod),
        "EDGE": str(edge),
        "BODY": said["nginx.org/client-max-body-size"],
        "SERVER_SNIPPETS": said.get("nginx.org/server-snippets", ""),
        "LOCATION_SNIPPETS": said.get("nginx.org/location-snippets", ""),
    }
    return re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], CONFIGURATION)


@contextmanager
def edge(folder: Path, pod: int, *, with_edge_id: bool = True) -> Iterator[int]:
    """Run nginx in front of a port of this machine, and give its own."""
    port = free_port()
    (folder / "nginx.conf").write_text(configuration(port, pod, with_edge_id=with_edge_id))
    command = [str(program("nginx", "nginx-light")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running([*command, "-e", "error.log"], folder, {"PATH": os.defpath}) as nginx:

        def answers() -> bool:
            assert nginx.process.poll() is None, nginx.said + (folder / "error.log").read_text()
            try:
                return ask(port).status > 0
            except OSError:
                return False

        wait_for(answers, "nginx")
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
def port_of_pod(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the service with the settings of the cluster, and with endpoints that tests ask."""
    program("nginx", "nginx-light")
    with Service(installed, tmp_path_factory.mktemp("pod"), env=settings()) as service:
        yield service.port


@pytest.fixture(scope="module")
def front(port_of_pod: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx in front of it that decides the ID."""
    with edge(tmp_path_factory.mktemp("front"), port_of_pod) as port:
        yield port


@pytest.fixture(scope="module")
def plain_front(port_of_pod: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of nginx in front of it that knows nothing of IDs."""
    with edge(tmp_path_factory.mktemp("plain"), port_of_pod, with_edge_id=False) as port:
        yield port


MADE_BY_THE_SERVICE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
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


@pytest.mark.parametrize("name", ["front", "plain_front"])
def test_good_id_of_the_client_is_that_of_edge_and_service(request: pytest.FixtureRequest, name: str) -> None:
    """With the snippets and without."""
    port = request.getfixturevalue(name)
    for good in GOOD:
        answer = ask(port, good)
        assert (answer.status, answer.one(), answer.json()["request_id"]) == (200, good, good)


@pytest.mark.parametrize(
    ("name", "ids", "made"),
    [
        ("front", [(), *((bad,) for bad in BAD)], MADE_BY_NGINX),
        ("plain_front", [(), ("order-4711", "order-4712"), *((bad,) for bad in BAD)], MADE_BY_THE_SERVICE),
    ],
)
def test_any_other_id_is_replaced(
    request: pytest.FixtureRequest, name: str, ids: list[tuple[str, ...]], made: Callable[[str], object]
) -> None:
    """By the edge with the snippets, by the service without; each time by a new one."""
    port = request.getfixturevalue(name)
    answers = [ask(port, *some) for some in [*ids, *ids]]
    assert {answer.status for answer in answers} == {200}
    assert [answer.one() for answer in answers if not made(answer.one())] == []
    assert [answer for answer in answers if answer.json()["request_id"] != answer.one()] == []
    assert len({answer.one() for answer in answers}) == len(answers)


def test_of_two_ids_none_reaches_the_service(front: int) -> None:
    """Only one reaches the service: a new one; nginx before 1.23 shows its configuration nothing but the first."""
    answer = ask(front, "order-4711", "order-4712")
    said = must(run([program("nginx", "nginx-light"), "-v"], FOLDER)).stderr
    version = tuple(int(number) for number in re.findall(r"nginx/(\d+)\.(\d+)", said)[0])
    assert answer.one() == "order-4711" if version < (1, 23) else MADE_BY_NGINX(answer.one())
    assert answer.json()["request_id"] == answer.one()


def test_edge_answers_in_the_shape_of_the_service(front: int, tmp_path: Path) -> None:
    """Also with the ID, when a body is too large, and when there is no pod that answers."""
    with edge(tmp_path, free_port()) as alone:
        for given in ("order-4711", "bad one"):
            check_own_answer(ask(front, given, size=int(settings()["MAX_BODY_BYTES"]) + 1), 413, given)
            check_own_answer(ask(alone, given), 502, given)


def check_own_answer(answer: Answer, status: int, given: str) -> None:
    """Look at an answer that the edge gives by itself."""
    assert answer.status == status
    assert answer.one() == given if given in GOOD else MADE_BY_NGINX(answer.one())
    assert answer.one("Content-Type") == "application/json"
    body = answer.json()
    assert (body["code"], body["message"], body["request_id"]) == (status, "failed", answer.one())
    assert list(body) == ["code", "message", "cause", "request_id", "result"]


@pytest.mark.parametrize("name", ["front", "plain_front"])
def test_websocket_through_the_edge_has_the_id_of_the_client(request: pytest.FixtureRequest, name: str) -> None:
    address = f"ws://127.0.0.1:{request.getfixturevalue(name)}/probe/ws/echo"
    with connect(address, additional_headers={ID_HEADER: "order-4711"}) as websocket:
        assert websocket.response
        assert websocket.response.headers.get_all(ID_HEADER) == ["order-4711"]
        websocket.send("hello")
        assert websocket.recv() == "order-4711 hello"
