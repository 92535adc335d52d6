"""docs/settings.md and .env.example say what the settings are; this compares them with the code."""

import re
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from app.settings import PROJECT_ROOT, variable_of
from tests import documents

KINDS = documents.kinds()
FIELDS = [(kind, name) for kind in KINDS.values() for name in kind.model_fields]


@pytest.mark.parametrize(("path", "text"), documents.documents().items(), ids=lambda value: Path(value).name)
def test_documents_are_what_make_docs_writes(path: Path, text: str) -> None:
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_setting_is_documented(kind: type[BaseSettings], name: str) -> None:
    assert kind.model_fields[name].description
    assert documents.row(kind, name) in (PROJECT_ROOT / "docs" / "settings.md").read_text("utf-8")
    assert documents.lines(kind, name) in (PROJECT_ROOT / ".env.example").read_text("utf-8")


def test_no_document_has_a_setting_that_is_gone() -> None:
    names = {variable_of(kind, name) for kind, name in FIELDS}
    table = (PROJECT_ROOT / "docs" / "settings.md").read_text("utf-8")
    example = (PROJECT_ROOT / ".env.example").read_text("utf-8")
    assert set(re.findall(r"(?m)^\| `([A-Z0-9_]+)` \|", table)) == names
    assert set(re.findall(r"(?m)^# ([A-Z0-9_]+)=", example)) == names


def test_settings_of_integrations_begin_with_a_name_of_their_own() -> None:
    configs = [KINDS[integration].model_config for integration in KINDS.keys() - {"service"}]
    prefixes = {config["env_prefix"] for config in configs}
    assert len(prefixes) == len(configs)
    assert all(re.fullmatch(r"[A-Z]{3,}(_[A-Z]+)*_", prefix) for prefix in prefixes)
    assert all(config["frozen"] for config in configs)
