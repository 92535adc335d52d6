"""The document and the running service agree, and the document tells of the ID."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import ID_HEADER, Json
from tests.support.service import Service

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def documented(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service as it is, without the probe's routes, with its document on."""
    work = tmp_path_factory.mktemp("documented")
    with Service(project, work, app="app.main:app", env={"DEBUG": "true"}) as service:
        yield service


@pytest.fixture(scope="module")
def document(documented: Service) -> Json:
    """Fetch the document."""
    answer = documented.request("GET", "/api/openapi.json")
    assert answer.status == 200
    return answer.json()


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    """Every operation of a document, with a name."""
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield f"{method} {path}", item[method]


def resolved(document: Json, thing: Json) -> Json:
    """Follow a reference inside of the document."""
    while "$ref" in thing:
        keys = thing["$ref"].removeprefix("#/").split("/")
        thing = document
        for key in keys:
            thing = thing[key]
    return thing


def test_header_documented(document: Json) -> None:
    """Each operation takes the ID as an unconstrained string, and each of its answers shows the header."""
    seen = 0
    for name, operation in operations(document):
        seen += 1
        parameters = [resolved(document, one) for one in operation.get("parameters", [])]
        ours = [one for one in parameters if one["in"] == "header" and one["name"].lower() == ID_HEADER.lower()]
        assert len(ours) == 1, name
        assert not ours[0].get("required", False), name
        assert not {"pattern", "maxLength", "minLength", "format"} & ours[0]["schema"].keys(), name
        assert operation["responses"], name
        for status, response in operation["responses"].items():
            headers = {key.lower() for key in resolved(document, response).get("headers", {})}
            assert ID_HEADER.lower() in headers, f"{name} {status}"
    assert seen >= 5


def test_envelope_documented(document: Json) -> None:
    """Each error of each demo operation is documented as the envelope."""
    for name, operation in operations(document):
        if " /api/" not in name:
            continue
        errors = {status: one for status, one in operation["responses"].items() if not status.startswith("2")}
        assert errors, name
        for status, response in errors.items():
            schema = resolved(document, resolved(document, response)["content"]["application/json"]["schema"])
            assert set(schema["properties"]) >= {"code", "message", "cause", "request_id", "result"}, f"{name} {status}"


def test_document_is_off_in_production(service: Service) -> None:
    """Without DEBUG there is neither a document nor a page that shows it."""
    for path in ("/api/openapi.json", "/docs", "/redoc", "/api/docs", "/api/redoc", "/openapi.json"):
        assert service.request("GET", path).status == 404


@pytest.mark.timeout(170)
def test_fuzzing_finds_nothing(documented: Service, tmp_path: Path) -> None:
    """Schemathesis at its defaults finds no failure, and did look."""
    url = f"http://127.0.0.1:{documented.port}/api/openapi.json"
    schemathesis = [sys.executable, "-m", "schemathesis.cli", "run", url, "--seed", "1"]
    done = subprocess.run(schemathesis, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=160)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    assert int(generated[1]) > 100, done.stdout
