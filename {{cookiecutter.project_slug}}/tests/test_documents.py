"""docs/settings.md and .env.example say what the settings are; this compares them with the code."""

import re
from pathlib import Path

import pytest

from app.environment import PROJECT_ROOT, variable_of
from tests import documents

KINDS = documents.kinds()
FIELDS = [(kind, name) for kind in KINDS.values() for name in kind.model_fields]


@pytest.mark.parametrize(("path", "text"), documents.documents().items(), ids=lambda value: Path(value).name)
def test_document_is_what_make_docs_writes(path: Path, text: str) -> None:
    assert path.read_text("utf-8") == text


def test_each_setting_has_a_description() -> None:
    assert [name for kind, name in FIELDS if not kind.model_fields[name].description] == []


def test_documents_name_exactly_the_settings_there_are() -> None:
    names = {variable_of(kind, name) for kind, name in FIELDS}
    table = (PROJECT_ROOT / "docs" / "settings.md").read_text("utf-8")
    example = (PROJECT_ROOT / ".env.example").read_text("utf-8")
    assert set(re.findall(r"(?m)^\| `([A-Z0-9_]+)` \|", table)) == names
    assert set(re.findall(r"(?m)^# ([A-Z0-9_]+)=", example)) == names


def test_each_integration_has_a_prefix_of_its_own() -> None:
    configs = [KINDS[integration].model_config for integration in KINDS.keys() - {"service"}]
    prefixes = {config["env_prefix"] for config in configs}
    assert len(prefixes) == len(configs)
    assert all(re.fullmatch(r"[A-Z]{3,}(_[A-Z]+)*_", prefix) for prefix in prefixes)
    assert all(config["frozen"] for config in configs)
