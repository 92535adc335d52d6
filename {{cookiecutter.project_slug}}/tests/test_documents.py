"""docs/settings.md and .env.example say what the settings are; this compares them with the code."""

import re
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings import PROJECT_ROOT, EnvironmentSettings, variable_of
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


class Parcel(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="PARCEL_")

    url: str = Field("tcp://localhost", description="where it is")
    retries: int = Field(3, description="how often")


def test_a_table_is_written_anew() -> None:
    """What is written by hand, before and after, stays."""
    page = "# Settings\n\n## parcel\n\nBy hand.\n\n| old |\n| rows |\n\n## other\n\n| stays |\n"
    body = documents.TABLE + "".join(documents.row(Parcel, name) for name in Parcel.model_fields)
    assert documents.renew(page, "parcel", documents.ROWS, body) == (
        "# Settings\n\n## parcel\n\nBy hand.\n\n| name | default | what |\n|---|---|---|\n"
        "| `PARCEL_URL` | `tcp://localhost` | where it is |\n| `PARCEL_RETRIES` | `3` | how often |\n"
        "\n## other\n\n| stays |\n"
    )


def test_an_example_is_written_anew() -> None:
    page = (
        "# === parcel ===\n\n# old\n# PARCEL_OLD=1\n\n# older\n# PARCEL_A=\n\n# === other ===\n\n# stays\n# OTHER=1\n"
    )
    body = "".join(documents.lines(Parcel, name) for name in Parcel.model_fields)
    assert documents.renew(page, "parcel", documents.LINES, body) == (
        "# === parcel ===\n\n# where it is\n# PARCEL_URL=tcp://localhost\n\n# how often\n# PARCEL_RETRIES=3\n"
        "\n# === other ===\n\n# stays\n# OTHER=1\n"
    )


def test_a_heading_that_is_missing_is_told() -> None:
    with pytest.raises(ValueError, match="0 parts of the text are headed 'parcel'"):
        documents.renew("# Settings\n", "parcel", documents.ROWS, "")


def test_settings_of_integrations_begin_with_their_names() -> None:
    for integration in KINDS.keys() - {"service"}:
        assert KINDS[integration].model_config["env_prefix"] == f"{integration.upper()}_"
        assert KINDS[integration].model_config["frozen"]
