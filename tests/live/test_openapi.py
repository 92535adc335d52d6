"""The OpenAPI document matches the running service, and it describes the ID header."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import ID_HEADER, Json
from tests.support.service import Service

pytestmark = pytest.mark.full

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


@pytest.fixture(scope="module")
def documented(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service without the routes of the probe, with the OpenAPI document enabled."""
    work = tmp_path_factory.mktemp("documented")
    with Service(project, work, app="app.main:app", env={"DEBUG": "true"}) as service:
        yield service


def parameters(document: Json) -> Iterator[tuple[str, list[Json]]]:
    """Yield the name and the parameters of every operation of the document."""
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            names = (one["$ref"].rpartition("/")[2] for one in item[method].get("parameters", []) if "$ref" in one)
            yield f"{method} {path}", [document["components"]["parameters"][name] for name in names]


def test_each_operation_accepts_any_string_as_id(documented: Service) -> None:
    """A generated client could not send an ID that the document excludes."""
    found = dict(parameters(documented.request("GET", "/api/openapi.json").json()))
    assert len(found) >= 5
    for name, of_operation in found.items():
        (ours,) = [one for one in of_operation if one["in"] == "header" and one["name"] == ID_HEADER]
        assert not ours.get("required", False), name
        assert not {"pattern", "maxLength", "minLength", "format"} & ours["schema"].keys(), name


@pytest.mark.timeout(170)
def test_schemathesis_finds_no_failure(documented: Service, tmp_path: Path) -> None:
    """The requests are the same in each run, and there are enough of them."""
    url = f"http://127.0.0.1:{documented.port}/api/openapi.json"
    options = ["--seed", "1", "--generation-deterministic", "--max-examples", "10"]
    schemathesis = [sys.executable, "-m", "schemathesis.cli", "run", url, *options]
    done = subprocess.run(schemathesis, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=160)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout
    assert int(generated[1]) > 150, done.stdout
