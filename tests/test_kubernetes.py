"""The manifests of the option `kubernetes`: valid, restricted, consistent with each other and with the service."""

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
from kubernetes_validate import latest_version, validate  # type: ignore[import-untyped]
from websockets.sync.client import connect

from tests.support.baking import TEMPLATE_DIR, must, run
from tests.support.client import ID_HEADER, Connection, Response, build_request
from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.service import Service
from tests.support.terminal import running
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full
Manifest = dict[str, Any]

FOLDER = TEMPLATE_DIR / "deploy" / "k8s"
# From the oldest version whose `sleep` action needs no feature gate, to the newest one that has a schema.
OLDEST_CLUSTER = 30
VERSIONS = [f"1.{minor}" for minor in range(OLDEST_CLUSTER, int(latest_version().split(".")[1]) + 1)]
# The oldest kubectl whose Kustomize supports `envs` and `patches`; docs/kubernetes.md names it.
OLDEST_KUBECTL = 21
MARGIN = 5
PATCH = "patches: [{ path: edge-id.yaml }]"


def documents(text: str) -> list[Manifest]:
    """Return all manifests of a YAML text; the items of a List are separate manifests."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return [one for document in found for one in (document["items"] if document["kind"] == "List" else [document])]


def of_kind(kind: str, manifests: list[Manifest]) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = [document for document in manifests if document["kind"] == kind]
    return found


def value_at(manifest: Manifest, path: str) -> Any:  # noqa: ANN401
    """Return the value at a path such as `spec.ports.0.name`."""
    found: Any = manifest
    for word in path.split("."):
        found = found[int(word) if word.isdigit() else word]
    return found


(KUSTOMIZATION,), (EDGE_ID,) = (
    documents((FOLDER / f"{name}.yaml").read_text()) for name in ("kustomization", "edge-id")
)
MANIFESTS = [document for name in KUSTOMIZATION["resources"] for document in documents((FOLDER / name).read_text())]
KINDS = sorted([*(manifest["kind"] for manifest in MANIFESTS), "ConfigMap"])
SETTINGS = dict(re.findall(r"(?m)^(\w+)=(.*)$", (FOLDER / "settings.env").read_text("utf-8")))
DEPLOYMENT, SERVICE, INGRESS = (of_kind(kind, MANIFESTS) for kind in ("Deployment", "Service", "Ingress"))
SCALER, BUDGET = (of_kind(kind, MANIFESTS)["spec"] for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
STARTUP, LIVENESS, READINESS = (CONTAINER[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
PLAIN = INGRESS["metadata"]["annotations"]
WITH_ID = PLAIN | EDGE_ID["metadata"]["annotations"]


def build(kubectl: Path, folder: Path, *, with_edge_id: bool) -> list[Manifest]:
    """Return the output of the documented command; `with_edge_id` removes the `#` before `patches` first."""
    shutil.copytree(FOLDER, folder / "deploy" / "k8s")
    file = folder / "deploy" / "k8s" / "kustomization.yaml"
    if with_edge_id:
        text = file.read_text("utf-8")
        assert text.count(f"\n# {PATCH}\n") == 1
        file.write_text(text.replace(f"# {PATCH}", PATCH))
    return documents(must(run([kubectl, "kustomize", "deploy/k8s"], folder)).stdout)


@pytest.fixture(scope="module")
def built(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The manifests that kubectl builds from the unmodified files."""
    return build(kubectl, tmp_path_factory.mktemp("built"), with_edge_id=False)


@pytest.fixture(scope="module")
def built_with_edge_id(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The same with edge-id.yaml."""
    return build(kubectl, tmp_path_factory.mktemp("built"), with_edge_id=True)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl of the documented version or newer; in CI, unpacked from a Debian package if necessary."""
    found = shutil.which("kubectl")
    if found and minor_version_of(found) >= OLDEST_KUBECTL:
        return Path(found)
    if os.environ.get("CI") != "true" or shutil.which("apt-get") is None:
        pytest.skip(f"kubectl 1.{OLDEST_KUBECTL} or newer is missing.")
    return unpack_kubectl(tmp_path_factory.mktemp("kubectl"))


def minor_version_of(kubectl: str) -> int:
    """Return the minor version of a kubectl."""
    output = must(run([kubectl, "version", "--client", "--output=json"], FOLDER)).stdout
    return int(re.sub(r"\D", "", json.loads(output)["clientVersion"]["minor"]))


def unpack_kubectl(folder: Path) -> Path:
    """Download and unpack the kubectl package of Debian 13; that of Debian 12 is too old."""
    for name in ("lists", "archives"):
        (folder / name / "partial").mkdir(parents=True)
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


def test_files_and_built_manifests_match_the_schemas(built: list[Manifest], built_with_edge_id: list[Manifest]) -> None:
    """For each supported version of Kubernetes; unknown fields are errors."""
    for version in VERSIONS:
        for manifest in [*MANIFESTS, *built, *built_with_edge_id]:
            validate(manifest, version, strict=True)


def test_kustomization_names_every_file() -> None:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    named = [*KUSTOMIZATION["resources"], *generator["envs"], "edge-id.yaml", "kustomization.yaml"]
    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir())


def test_built_manifests_have_image_settings_and_an_optional_secret(built: list[Manifest]) -> None:
    assert sorted(manifest["kind"] for manifest in built) == KINDS
    assert "Secret" not in KINDS
    ((chosen,), config) = (KUSTOMIZATION["images"], of_kind("ConfigMap", built))
    (built_container,) = of_kind("Deployment", built)["spec"]["template"]["spec"]["containers"]
    assert CONTAINER["image"] == chosen["name"]
    assert built_container["image"] == f"{chosen['newName']}:{chosen['newTag']}"
    assert config["data"] == SETTINGS
    assert re.fullmatch(r"api-settings-\w+", config["metadata"]["name"])
    secret = {"secretRef": {"name": "api-secrets", "optional": True}}
    assert built_container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}, secret]


def test_snippets_are_disabled_by_default(built: list[Manifest], built_with_edge_id: list[Manifest]) -> None:
    """F5's controller rejects an Ingress with snippets unless they are enabled."""
    assert [name for name in of_kind("Ingress", built)["metadata"]["annotations"] if "snippets" in name] == []
    assert sorted(EDGE_ID["metadata"]["annotations"]) == ["nginx.org/location-snippets", "nginx.org/server-snippets"]
    expected = copy.deepcopy(built)
    of_kind("Ingress", expected)["metadata"]["annotations"] = WITH_ID
    assert built_with_edge_id == expected


def test_manifests_and_commands_use_the_namespace_of_the_context(built: list[Manifest]) -> None:
    assert [manifest["kind"] for manifest in built if "namespace" in manifest["metadata"]] == []
    assert "namespace" not in KUSTOMIZATION
    commands = re.findall(r"(?m)^kubectl .+$", (TEMPLATE_DIR / "docs" / "kubernetes.md").read_text("utf-8"))
    assert commands[:2] == ["kubectl create namespace NAME", "kubectl config set-context --current --namespace=NAME"]
    assert [line for line in commands[2:] if re.search(r" (-n|--namespace|-A)\b", line)] == []


def test_labels_are_the_recommended_ones_and_selectors_match_the_pods(built: list[Manifest]) -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert [manifest["metadata"]["labels"] for manifest in built] == [labels] * len(KINDS)
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        SERVICE["spec"]["selector"],
        BUDGET["selector"]["matchLabels"],
        of_kind("NetworkPolicy", MANIFESTS)["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in POD["topologySpreadConstraints"]),
    ]
    assert len(selectors) == 6
    assert [selector for selector in selectors if not selector or not selector.items() <= labels.items()] == []


def test_references_point_to_existing_objects() -> None:
    target = {key: DEPLOYMENT[key] for key in ("apiVersion", "kind")} | {"name": DEPLOYMENT["metadata"]["name"]}
    assert SCALER["scaleTargetRef"] == target
    (rule,) = INGRESS["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    (service_port,) = SERVICE["spec"]["ports"]
    assert path["backend"] == {"service": {"name": SERVICE["metadata"]["name"], "port": {"name": service_port["name"]}}}
    assert INGRESS["spec"]["tls"][0]["hosts"] == [rule["host"]]
    assert PLAIN["nginx.org/websocket-services"] == SERVICE["metadata"]["name"]
    assert POD["serviceAccountName"] == of_kind("ServiceAccount", MANIFESTS)["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert sorted(mounts) == sorted(volume["name"] for volume in POD["volumes"])
    assert mounts == {"tmp": "/tmp", "heartbeat": "/dev/shm"}


def test_ports_and_user_are_those_of_the_image() -> None:
    image = (TEMPLATE_DIR / "Dockerfile").read_text("utf-8")
    (port,) = CONTAINER["ports"]
    policy = value_at(of_kind("NetworkPolicy", MANIFESTS), "spec.ingress.0.ports.0.port")
    probes = [probe["httpGet"]["port"] for probe in (STARTUP, LIVENESS, READINESS)]
    assert [SERVICE["spec"]["ports"][0]["targetPort"], policy, *probes] == [port["name"]] * 5
    assert f" PORT={port['containerPort']} " in image
    user = f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    assert re.findall(r"(?m)^USER (.+)$", image)[-1] == user


def test_only_the_readiness_probe_checks_dependencies() -> None:
    paths = [probe["httpGet"]["path"] for probe in (STARTUP, LIVENESS, READINESS)]
    assert paths == ["/livez", "/livez", "/readyz"]
    routes = (TEMPLATE_DIR / "app" / "api" / "health.py").read_text("utf-8")
    assert [path for path in paths if f'"{path}"' not in routes] == []
    start, live, ready = (
        probe["periodSeconds"] * probe["failureThreshold"] for probe in (STARTUP, LIVENESS, READINESS)
    )
    assert live > int(SETTINGS["TIMEOUT"])
    assert ready <= 15
    assert start >= 30
    longest = start + DEPLOYMENT["spec"]["minReadySeconds"]
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > longest + 60, "there must be time to pull the image"


def test_pod_is_removed_from_endpoints_before_shutdown_and_has_time_for_it() -> None:
    wait, grace = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"], int(SETTINGS["GRACEFUL_TIMEOUT"])
    assert wait >= MARGIN
    assert POD["terminationGracePeriodSeconds"] >= wait + grace + MARGIN


def test_rollouts_and_node_drains_keep_a_pod_running() -> None:
    assert "replicas" not in DEPLOYMENT["spec"]
    assert SCALER["maxReplicas"] > SCALER["minReplicas"] > BUDGET["maxUnavailable"] == 1


IN_POD, IN_CONTAINER = "spec.template.spec", "spec.template.spec.containers.0"
CONTROLLER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "nginx-ingress"}}}
# Values that docs/kubernetes.md or a comment in the files describes, or that the level "restricted" of the Pod Security
# Standards requires, and that no other test checks.
REQUIRED: list[tuple[str, str, object]] = [
    ("Deployment", "spec.strategy.type", "RollingUpdate"),
    ("Deployment", "spec.strategy.rollingUpdate.maxUnavailable", 0),
    ("Deployment", f"{IN_POD}.automountServiceAccountToken", False),
    ("Deployment", f"{IN_POD}.enableServiceLinks", False),
    ("Deployment", f"{IN_POD}.securityContext.runAsNonRoot", True),
    ("Deployment", f"{IN_POD}.securityContext.seccompProfile", {"type": "RuntimeDefault"}),
    ("Deployment", f"{IN_POD}.topologySpreadConstraints.0.topologyKey", "topology.kubernetes.io/zone"),
    ("Deployment", f"{IN_POD}.topologySpreadConstraints.0.whenUnsatisfiable", "ScheduleAnyway"),
    ("Deployment", f"{IN_POD}.topologySpreadConstraints.1.topologyKey", "kubernetes.io/hostname"),
    ("Deployment", f"{IN_POD}.topologySpreadConstraints.1.whenUnsatisfiable", "ScheduleAnyway"),
    ("Deployment", f"{IN_POD}.volumes.1", {"name": "heartbeat", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
    ("Deployment", f"{IN_CONTAINER}.ports", [{"name": "http", "containerPort": 8000}]),
    ("Deployment", f"{IN_CONTAINER}.resources.requests.cpu", "500m"),
    ("Deployment", f"{IN_CONTAINER}.securityContext.allowPrivilegeEscalation", False),
    ("Deployment", f"{IN_CONTAINER}.securityContext.readOnlyRootFilesystem", True),
    ("Deployment", f"{IN_CONTAINER}.securityContext.capabilities", {"drop": ["ALL"]}),
    ("HorizontalPodAutoscaler", "spec.metrics.0.resource.target.type", "Utilization"),
    ("PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy", "AlwaysAllow"),
    ("Service", "spec.type", "ClusterIP"),
    ("Service", "spec.ports", [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}]),
    ("ServiceAccount", "automountServiceAccountToken", False),
    ("Ingress", "spec.ingressClassName", "nginx"),
    ("Ingress", "spec.tls.0.secretName", "api-tls"),
    ("Ingress", "spec.rules.0.http.paths.0.path", "/"),
    ("Ingress", "spec.rules.0.http.paths.0.pathType", "Prefix"),
    ("NetworkPolicy", "spec.policyTypes", ["Ingress"]),
    ("NetworkPolicy", "spec.ingress", [{"from": [CONTROLLER], "ports": [{"protocol": "TCP", "port": "http"}]}]),
]


def test_built_manifests_have_the_required_values(built: list[Manifest]) -> None:
    found = [(kind, path, value_at(of_kind(kind, built), path)) for kind, path, _ in REQUIRED]
    assert found == REQUIRED


def test_pod_has_no_more_rights_than_the_level_restricted(built: list[Manifest]) -> None:
    """Beyond the required values, the pod has no access to the host, no other container and no other permission."""
    spec = of_kind("Deployment", built)["spec"]["template"]["spec"]
    assert [name for name in spec if name.startswith("host") or name in {"initContainers", "ephemeralContainers"}] == []
    assert [volume["name"] for volume in spec["volumes"] if set(volume) != {"name", "emptyDir"}] == []
    (built_container,) = spec["containers"]
    rights = {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
    assert set(built_container["securityContext"]) == rights, "the security context of the pod sets the others"
    assert spec["securityContext"]["runAsUser"] > 0


def test_logs_are_json_and_only_private_networks_are_trusted() -> None:
    assert (SETTINGS["LOG_FORMAT"], SETTINGS["REQUEST_ID_TRUST"]) == ("json", "always")
    networks = [ip_network(word) for word in SETTINGS["FORWARDED_ALLOW_IPS"].split(",")]
    shared = ip_network("100.64.0.0/10")
    assert [str(one) for one in networks if not one.is_private and one != shared] == []


def test_workers_can_exceed_the_target_utilization() -> None:
    (metric,) = SCALER["metrics"]
    requests, limits = CONTAINER["resources"]["requests"], CONTAINER["resources"]["limits"]
    target = int(requests["cpu"].removesuffix("m")) / 1000 * metric["resource"]["target"]["averageUtilization"] / 100
    assert target < int(SETTINGS["WORKERS"])
    assert limits == {"memory": requests["memory"]}
    assert int(limits["memory"].removesuffix("Mi")) >= 128 * int(SETTINGS["WORKERS"])


# The service with these settings, behind nginx with these snippets


def test_service_reads_each_setting(installed: Path) -> None:
    code = (
        "from app.environment import variable_of as v; from app.settings import Settings as S; import json; s = S()\n"
    )
    code += "print(json.dumps({v(S, n): str(getattr(s, n)) for n in S.model_fields}))"
    python = installed / ".venv" / "bin" / "python"
    read = json.loads(must(run([python, "-c", code], installed, {"PATH": os.defpath} | SETTINGS)).stdout)
    assert [name for name in SETTINGS if name not in read] == []
    numbers = {name: value for name, value in SETTINGS.items() if value.isdigit()}
    assert {name: read[name] for name in numbers} == numbers
    assert run([python, "-c", code], installed, SETTINGS | {"WORKERS": "many"}).returncode != 0


def test_ingress_and_service_agree_on_ids_and_limits() -> None:
    """They have the same limit for bodies, and nginx closes idle connections before the service does."""
    code = (TEMPLATE_DIR / "app" / "common" / "request_id.py").read_text("utf-8")
    snippets = WITH_ID["nginx.org/server-snippets"]
    (of_service,) = re.findall(r'_ACCEPTED = re\.compile\(rb"(.+)"\)\.fullmatch', code)
    (of_nginx,) = re.findall(r'if \(\$http_x_request_id ~ "\^(.+)\$"\)', snippets)
    assert of_nginx == of_service
    assert "error_page 413 502 503 504 @api_unanswered;" in snippets
    assert PLAIN["nginx.org/client-max-body-size"] == f"{int(SETTINGS['MAX_BODY_BYTES']) // 2**20}m"
    assert int(SETTINGS["KEEPALIVE"]) > 60
    assert "nginx.org/keepalive" not in WITH_ID, "it would have no effect beside `websocket-services`"


# The configuration that the controller generates around the snippets, from the templates nginx.tmpl and
# nginx.ingress.tmpl (with `websocket-services`) in its internal/configs/version1.
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
    listen 127.0.0.1:PORT;
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


@contextmanager
def run_nginx(folder: Path, pod: int, annotations: dict[str, str]) -> Iterator[int]:
    """Run nginx with the annotations in front of the port `pod` of this machine, and yield its own port."""
    port = free_port()
    words = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "POD": str(pod),
        "PORT": str(port),
        "BODY": annotations["nginx.org/client-max-body-size"],
        "SERVER_SNIPPETS": annotations.get("nginx.org/server-snippets", ""),
        "LOCATION_SNIPPETS": annotations.get("nginx.org/location-snippets", ""),
    }
    configuration = re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], CONFIGURATION)
    (folder / "nginx.conf").write_text(configuration)
    command = [str(program("nginx", "nginx-light")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running([*command, "-e", "error.log"], folder, {"PATH": os.defpath}) as nginx:

        def responds() -> bool:
            assert nginx.process.poll() is None, nginx.output + (folder / "error.log").read_text()
            try:
                return send_request(port).status > 0
            except OSError:
                return False

        wait_for(responds, "nginx")
        yield port


def send_request(port: int, *ids: str, size: int = 0) -> Response:
    """Send a request with an ID header line for each ID, and the Content-Length `size` of a body that is not sent."""
    headers = [("Host", "api.example.com"), *(("X-Request-ID", one) for one in ids)]
    if size:
        headers.append(("Content-Length", str(size)))
    with Connection(port) as connection:
        connection.send(build_request("GET", "/api/demo", headers))
        return connection.read_response()


@pytest.fixture(scope="module")
def ports(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of nginx with and without snippets, in front of the service with the settings of the cluster."""
    program("nginx", "nginx-light")
    new = tmp_path_factory.mktemp
    with (
        Service(installed, new("pod"), env=SETTINGS) as service,
        run_nginx(new("snippets"), service.port, WITH_ID) as with_id,
        run_nginx(new("plain"), service.port, PLAIN) as plain,
    ):
        yield {"snippets": with_id, "plain": plain}


GENERATED_BY_SERVICE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
GENERATED_BY_NGINX = re.compile(r"[0-9a-f]{32}").fullmatch
VALID_IDS = ["order-4711", "079fa7bd-e737-40c5-9edf-6aac536595ad", "a" * 8, "Z" * 128, "a_.+/=@-b"]
INVALID_IDS = [
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


@pytest.mark.parametrize("name", ["snippets", "plain"])
def test_valid_id_of_the_client_is_accepted(ports: dict[str, int], name: str) -> None:
    for valid in VALID_IDS:
        response = send_request(ports[name], valid)
        assert (response.status, response.header(), response.json()["request_id"]) == (200, valid, valid)
    address = f"ws://127.0.0.1:{ports[name]}/probe/ws/echo"
    with connect(address, additional_headers={ID_HEADER: "order-4711"}) as websocket:
        assert websocket.response
        assert websocket.response.headers.get_all(ID_HEADER) == ["order-4711"]
        websocket.send("hello")
        assert websocket.recv() == "order-4711 hello"


@pytest.mark.parametrize(
    ("name", "ids", "is_generated"),
    [
        ("snippets", [(), *((invalid,) for invalid in INVALID_IDS)], GENERATED_BY_NGINX),
        ("plain", [(), ("order-4711", "order-4712"), *((invalid,) for invalid in INVALID_IDS)], GENERATED_BY_SERVICE),
    ],
)
def test_invalid_id_is_replaced(
    ports: dict[str, int], name: str, ids: list[tuple[str, ...]], is_generated: Callable[[str], object]
) -> None:
    responses = [send_request(ports[name], *values) for values in [*ids, *ids]]
    assert {response.status for response in responses} == {200}
    assert [response.header() for response in responses if not is_generated(response.header())] == []
    assert [response for response in responses if response.json()["request_id"] != response.header()] == []
    assert len({response.header() for response in responses}) == len(responses)


def test_duplicate_ids_are_replaced(ports: dict[str, int]) -> None:
    """nginx before 1.23 accepts the first one: its variables have no other."""
    response = send_request(ports["snippets"], "order-4711", "order-4712")
    output = must(run([program("nginx", "nginx-light"), "-v"], FOLDER)).stderr
    version = tuple(int(number) for number in re.findall(r"nginx/(\d+)\.(\d+)", output)[0])
    assert response.header() == "order-4711" if version < (1, 23) else GENERATED_BY_NGINX(response.header())
    assert response.json()["request_id"] == response.header()


@pytest.mark.parametrize("sent", ["order-4711", "invalid one"])
def test_error_responses_of_nginx_have_the_envelope_and_the_id(
    ports: dict[str, int], tmp_path: Path, sent: str
) -> None:
    """Both if a body is too large, and if no pod is available."""
    with run_nginx(tmp_path, free_port(), WITH_ID) as alone:
        too_large = send_request(ports["snippets"], sent, size=int(SETTINGS["MAX_BODY_BYTES"]) + 1)
        for response, status in ((too_large, 413), (send_request(alone, sent), 502)):
            assert response.status == status
            assert response.header() == sent if sent in VALID_IDS else GENERATED_BY_NGINX(response.header())
            assert response.header("Content-Type") == "application/json"
            body = response.json()
            assert (body["code"], body["message"], body["request_id"]) == (status, "failed", response.header())
            assert list(body) == ["code", "message", "cause", "request_id", "result"]
