"""How `make docs` writes docs/settings.md and .env.example."""

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from app.environment import EnvironmentSettings
from tests import documents


class Parcel(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="PARCEL_")

    url: str = Field("tcp://localhost", description="where it is")
    retries: int = Field(3, description="how often")


def test_settings_table_is_regenerated() -> None:
    """Text before and after the table is kept."""
    page = "# Settings\n\n## parcel\n\nBy hand.\n\n| old |\n| rows |\n\n## other\n\n| stays |\n"
    body = documents.TABLE + "".join(documents.table_row(Parcel, name) for name in Parcel.model_fields)
    assert documents.replace_section(page, "parcel", documents.ROWS, body) == (
        "# Settings\n\n## parcel\n\nBy hand.\n\n| name | default | description |\n|---|---|---|\n"
        "| `PARCEL_URL` | `tcp://localhost` | where it is |\n| `PARCEL_RETRIES` | `3` | how often |\n"
        "\n## other\n\n| stays |\n"
    )


def test_env_example_is_regenerated() -> None:
    page = (
        "# === parcel ===\n\n# old\n# PARCEL_OLD=1\n\n# older\n# PARCEL_A=\n\n# === other ===\n\n# stays\n# OTHER=1\n"
    )
    body = "".join(documents.example_lines(Parcel, name) for name in Parcel.model_fields)
    assert documents.replace_section(page, "parcel", documents.LINES, body) == (
        "# === parcel ===\n\n# where it is\n# PARCEL_URL=tcp://localhost\n\n# how often\n# PARCEL_RETRIES=3\n"
        "\n# === other ===\n\n# stays\n# OTHER=1\n"
    )


def test_missing_heading_is_reported() -> None:
    with pytest.raises(ValueError, match="0 sections have the heading 'parcel'"):
        documents.replace_section("# Settings\n", "parcel", documents.ROWS, "")
