"""docs/settings.md and .env.example match the settings in the code."""

import re
from pathlib import Path

import pytest

from app.environment import PROJECT_ROOT, variable_of
from tests import documents

CLASSES = documents.classes_by_heading()
FIELDS = [(model, name) for model in CLASSES.values() for name in model.model_fields]


@pytest.mark.parametrize(("path", "text"), documents.render_documents().items(), ids=lambda value: Path(value).name)
def test_document_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text("utf-8") == text


def test_each_setting_has_a_description() -> None:
    assert [name for model, name in FIELDS if not model.model_fields[name].description] == []


def test_documents_list_exactly_the_settings() -> None:
    names = {variable_of(model, name) for model, name in FIELDS}
    table = (PROJECT_ROOT / "docs" / "settings.md").read_text("utf-8")
    example = (PROJECT_ROOT / ".env.example").read_text("utf-8")
    assert set(re.findall(r"(?m)^\| `([A-Z0-9_]+)` \|", table)) == names
    assert set(re.findall(r"(?m)^# ([A-Z0-9_]+)=", example)) == names


def test_each_integration_has_its_own_prefix() -> None:
    configs = [CLASSES[integration].model_config for integration in CLASSES.keys() - {"service"}]
    prefixes = {config["env_prefix"] for config in configs}
    assert len(prefixes) == len(configs)
    assert all(re.fullmatch(r"[A-Z]{3,}(_[A-Z]+)*_", prefix) for prefix in prefixes)
    assert all(config["frozen"] for config in configs)
