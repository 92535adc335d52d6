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
from kubernetes_validate import latest_version, validate  # type: ignore[import-untyped]
from websockets.sync.client import connect

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
# The oldest kubectl whose Kustomize knows `envs` and `patches`; docs/kubernetes.md names it.
OLDEST_KUBECTL = 21
MARGIN = 5
PATCH = "patches: [{ path: edge-id.yaml }]"


def documents(text: str) -> list[Manifest]:
    """Return every manifest of a YAML text: each document, or what is in its list."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return [one for document in found for one in (document["items"] if document["kind"] == "List" else [document])]


def of_kind(kind: str, manifests: list[Manifest]) -> Manifest:
    """Return the one manifest of a kind."""
    (found,) = [document for document in manifests if document["kind"] == kind]
    return found


def value_at(manifest: Manifest, path: str) -> Any:  # noqa: ANN401
    """Return what is at a path of names and numbers."""
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
    """Return what the command of docs/kubernetes.md makes of the files, with or without the `#` before `patches`."""
    shutil.copytree(FOLDER, folder / "deploy" / "k8s")
    file = folder / "deploy" / "k8s" / "kustomization.yaml"
    if with_edge_id:
        text = file.read_text("utf-8")
        assert text.count(f"\n# {PATCH}\n") == 1
        file.write_text(text.replace(f"# {PATCH}", PATCH))
    return documents(must(run([kubectl, "kustomize", "deploy/k8s"], folder)).stdout)


@pytest.fixture(scope="module")
def built(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The manifests as kubectl builds them from the files as they are."""
    return build(kubectl, tmp_path_factory.mktemp("built"), with_edge_id=False)


@pytest.fixture(scope="module")
def built_with_edge_id(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The same with the ID at the edge."""
    return build(kubectl, tmp_path_factory.mktemp("built"), with_edge_id=True)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubectl as new as docs/kubernetes.md demands; in CI, Debian's is unpacked where there is none."""
    found = shutil.which("kubectl")
    if found and version_of(found) >= OLDEST_KUBECTL:
        return Path(found)
    if os.environ.get("CI") != "true" or shutil.which("apt-get") is None:
        pytest.skip(f"There is no kubectl here that is of version 1.{OLDEST_KUBECTL} or newer.")
    return unpacked(tmp_path_factory.mktemp("kubectl"))


def version_of(kubectl: str) -> int:
    """Return the second number of a kubectl's version."""
    said = must(run([kubectl, "version", "--client", "--output=json"], FOLDER)).stdout
    return int(re.sub(r"\D", "", json.loads(said)["clientVersion"]["minor"]))


def unpacked(folder: Path) -> Path:
    """Take kubectl out of a package of Debian 13, whose name has no version; that of Debian 12 is too old."""
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


def test_files_and_what_is_built_of_them_keep_to_the_schemas(
    built: list[Manifest], built_with_edge_id: list[Manifest]
) -> None:
    """Of each version of the API; there is no field that is not in them."""
    for version in VERSIONS:
        for manifest in [*MANIFESTS, *built, *built_with_edge_id]:
            validate(manifest, version, strict=True)


def test_kustomization_names_every_file() -> None:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    named = [*KUSTOMIZATION["resources"], *generator["envs"], "edge-id.yaml", "kustomization.yaml"]
    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir())


def test_each_kind_is_built_once_with_image_settings_and_an_optional_secret(built: list[Manifest]) -> None:
    assert sorted(manifest["kind"] for manifest in built) == KINDS
    assert "Secret" not in KINDS
    ((chosen,), config) = (KUSTOMIZATION["images"], of_kind("ConfigMap", built))
    (only,) = of_kind("Deployment", built)["spec"]["template"]["spec"]["containers"]
    assert CONTAINER["image"] == chosen["name"]
    assert only["image"] == f"{chosen['newName']}:{chosen['newTag']}"
    assert config["data"] == SETTINGS
    assert re.fullmatch(r"api-settings-\w+", config["metadata"]["name"])
    secret = {"secretRef": {"name": "api-secrets", "optional": True}}
    assert only["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}, secret]


def test_snippets_are_there_only_on_demand(built: list[Manifest], built_with_edge_id: list[Manifest]) -> None:
    """F5's controller refuses an Ingress with snippets unless they are switched on."""
    assert [name for name in of_kind("Ingress", built)["metadata"]["annotations"] if "snippets" in name] == []
    assert sorted(EDGE_ID["metadata"]["annotations"]) == ["nginx.org/location-snippets", "nginx.org/server-snippets"]
    expected = copy.deepcopy(built)
    of_kind("Ingress", expected)["metadata"]["annotations"] = WITH_ID
    assert built_with_edge_id == expected


def test_namespace_is_that_of_the_context(built: list[Manifest]) -> None:
    assert [manifest["kind"] for manifest in built if "namespace" in manifest["metadata"]] == []
    assert "namespace" not in KUSTOMIZATION
    commands = re.findall(r"(?m)^kubectl .+$", (TEMPLATE_DIR / "docs" / "kubernetes.md").read_text("utf-8"))
    assert commands[:2] == ["kubectl create namespace NAME", "kubectl config set-context --current --namespace=NAME"]
    assert [line for line in commands[2:] if re.search(r" (-n|--namespace|-A)\b", line)] == []


def test_labels_are_recommended_ones_and_selectors_find_the_pods(built: list[Manifest]) -> None:
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


def test_references_lead_to_what_is_there() -> None:
    target = {key: DEPLOYMENT[key] for key in ("apiVersion", "kind")} | {"name": DEPLOYMENT["metadata"]["name"]}
    assert SCALER["scaleTargetRef"] == target
    (rule,) = INGRESS["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    (served,) = SERVICE["spec"]["ports"]
    assert path["backend"] == {"service": {"name": SERVICE["metadata"]["name"], "port": {"name": served["name"]}}}
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


def test_only_readiness_asks_for_what_the_service_needs() -> None:
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
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > longest + 60, "an image has to be pulled as well"


def test_pod_is_left_out_before_it_ends_and_not_killed_before() -> None:
    wait, grace = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"], int(SETTINGS["GRACEFUL_TIMEOUT"])
    assert wait >= MARGIN
    assert POD["terminationGracePeriodSeconds"] >= wait + grace + MARGIN


def test_roll_outs_and_drained_nodes_leave_a_pod() -> None:
    assert "replicas" not in DEPLOYMENT["spec"]
    assert SCALER["maxReplicas"] > SCALER["minReplicas"] > BUDGET["maxUnavailable"] == 1


IN_POD, IN_CONTAINER = "spec.template.spec", "spec.template.spec.containers.0"
CONTROLLER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "nginx-ingress"}}}
# What docs/kubernetes.md or a remark in the files promises, or the level "restricted" of the Pod Security Standards
# demands, and nothing else notices.
PROMISED: list[tuple[str, str, object]] = [
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


def test_each_value_is_the_promised_one(built: list[Manifest]) -> None:
    found = [(kind, path, value_at(of_kind(kind, built), path)) for kind, path, _ in PROMISED]
    assert found == PROMISED


def test_pod_has_no_more_rights_than_the_level_restricted(built: list[Manifest]) -> None:
    """Beside what is promised above there is nothing of the host, no other container and no other right."""
    spec = of_kind("Deployment", built)["spec"]["template"]["spec"]
    assert [name for name in spec if name.startswith("host") or name in {"initContainers", "ephemeralContainers"}] == []
    assert [volume["name"] for volume in spec["volumes"] if set(volume) != {"name", "emptyDir"}] == []
    (only,) = spec["containers"]
    rights = {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
    assert set(only["securityContext"]) == rights, "the pod's own context counts for all else"
    assert spec["securityContext"]["runAsUser"] > 0


def test_lines_are_json_and_only_private_networks_are_trusted() -> None:
    assert (SETTINGS["LOG_FORMAT"], SETTINGS["REQUEST_ID_TRUST"]) == ("json", "always")
    networks = [ip_network(word) for word in SETTINGS["FORWARDED_ALLOW_IPS"].split(",")]
    shared = ip_network("100.64.0.0/10")
    assert [str(one) for one in networks if not one.is_private and one != shared] == []


def test_workers_can_use_more_than_the_scaler_aims_at() -> None:
    (metric,) = SCALER["metrics"]
    requests, limits = CONTAINER["resources"]["requests"], CONTAINER["resources"]["limits"]
    aim = int(requests["cpu"].removesuffix("m")) / 1000 * metric["resource"]["target"]["averageUtilization"] / 100
    assert aim < int(SETTINGS["WORKERS"])
    assert limits == {"memory": requests["memory"]}
    assert int(limits["memory"].removesuffix("Mi")) >= 128 * int(SETTINGS["WORKERS"])


# The service with these settings, and nginx with these snippets in front of it


def test_service_reads_each_setting_and_takes_its_value(installed: Path) -> None:
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


def test_edge_and_service_agree_on_ids_and_limits() -> None:
    """The edge takes bodies as large as the service does, and lets connections go before the service does."""
    code = (TEMPLATE_DIR / "app" / "common" / "request_id.py").read_text("utf-8")
    snippets = WITH_ID["nginx.org/server-snippets"]
    (of_service,) = re.findall(r'_ACCEPTED = re\.compile\(rb"(.+)"\)\.fullmatch', code)
    (of_edge,) = re.findall(r'if \(\$http_x_request_id ~ "\^(.+)\$"\)', snippets)
    assert of_edge == of_service
    assert "error_page 413 502 503 504 @api_unanswered;" in snippets
    assert PLAIN["nginx.org/client-max-body-size"] == f"{int(SETTINGS['MAX_BODY_BYTES']) // 2**20}m"
    assert int(SETTINGS["KEEPALIVE"]) > 60
    assert "nginx.org/keepalive" not in WITH_ID, "it would have no effect beside `websocket-services`"


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


@contextmanager
def edge(folder: Path, pod: int, annotations: dict[str, str]) -> Iterator[int]:
    """Run nginx with these annotations in front of a port of this machine, and return its own."""
    port = free_port()
    words = {
        "USER": "user root;" if os.geteuid() == 0 else "",
        "POD": str(pod),
        "EDGE": str(port),
        "BODY": annotations["nginx.org/client-max-body-size"],
        "SERVER_SNIPPETS": annotations.get("nginx.org/server-snippets", ""),
        "LOCATION_SNIPPETS": annotations.get("nginx.org/location-snippets", ""),
    }
    configuration = re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], CONFIGURATION)
    (folder / "nginx.conf").write_text(configuration)
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
def fronts(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of nginx with the snippets and without, before the service with the settings of the cluster."""
    program("nginx", "nginx-light")
    new = tmp_path_factory.mktemp
    with (
        Service(installed, new("pod"), env=SETTINGS) as service,
        edge(new("snippets"), service.port, WITH_ID) as with_id,
        edge(new("plain"), service.port, PLAIN) as plain,
    ):
        yield {"snippets": with_id, "plain": plain}


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


@pytest.mark.parametrize("name", ["snippets", "plain"])
def test_good_id_of_the_client_is_that_of_edge_and_service(fronts: dict[str, int], name: str) -> None:
    for good in GOOD:
        answer = ask(fronts[name], good)
        assert (answer.status, answer.one(), answer.json()["request_id"]) == (200, good, good)
    address = f"ws://127.0.0.1:{fronts[name]}/probe/ws/echo"
    with connect(address, additional_headers={ID_HEADER: "order-4711"}) as websocket:
        assert websocket.response
        assert websocket.response.headers.get_all(ID_HEADER) == ["order-4711"]
        websocket.send("hello")
        assert websocket.recv() == "order-4711 hello"


@pytest.mark.parametrize(
    ("name", "ids", "made"),
    [
        ("snippets", [(), *((bad,) for bad in BAD)], MADE_BY_NGINX),
        ("plain", [(), ("order-4711", "order-4712"), *((bad,) for bad in BAD)], MADE_BY_THE_SERVICE),
    ],
)
def test_any_other_id_is_replaced_by_a_new_one(
    fronts: dict[str, int], name: str, ids: list[tuple[str, ...]], made: Callable[[str], object]
) -> None:
    answers = [ask(fronts[name], *some) for some in [*ids, *ids]]
    assert {answer.status for answer in answers} == {200}
    assert [answer.one() for answer in answers if not made(answer.one())] == []
    assert [answer for answer in answers if answer.json()["request_id"] != answer.one()] == []
    assert len({answer.one() for answer in answers}) == len(answers)


def test_of_two_ids_none_reaches_the_service(fronts: dict[str, int]) -> None:
    """A new one does; nginx before 1.23 shows its configuration nothing but the first."""
    answer = ask(fronts["snippets"], "order-4711", "order-4712")
    said = must(run([program("nginx", "nginx-light"), "-v"], FOLDER)).stderr
    version = tuple(int(number) for number in re.findall(r"nginx/(\d+)\.(\d+)", said)[0])
    assert answer.one() == "order-4711" if version < (1, 23) else MADE_BY_NGINX(answer.one())
    assert answer.json()["request_id"] == answer.one()


@pytest.mark.parametrize("given", ["order-4711", "bad one"])
def test_edge_answers_in_the_shape_of_the_service(fronts: dict[str, int], tmp_path: Path, given: str) -> None:
    """Also with the ID, when a body is too large, and when there is no pod that answers."""
    with edge(tmp_path, free_port(), WITH_ID) as alone:
        too_large = ask(fronts["snippets"], given, size=int(SETTINGS["MAX_BODY_BYTES"]) + 1)
        for answer, status in ((too_large, 413), (ask(alone, given), 502)):
            assert answer.status == status
            assert answer.one() == given if given in GOOD else MADE_BY_NGINX(answer.one())
            assert answer.one("Content-Type") == "application/json"
            body = answer.json()
            assert (body["code"], body["message"], body["request_id"]) == (status, "failed", answer.one())
            assert list(body) == ["code", "message", "cause", "request_id", "result"]
