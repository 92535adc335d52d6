"""README.md and .env.example say what the settings are; this compares them with the code."""

from pathlib import Path

import pytest

from app.settings import PROJECT_ROOT, Settings


def shown_default(name: str) -> str:
    """Return the default as it would be written in the environment; empty where there is none to write."""
    field = Settings.model_fields[name]
    default = None if field.default_factory else field.default
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def text_of(name: str) -> str:
    return (PROJECT_ROOT / Path(name)).read_text("utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_readme_has_the_setting(name: str) -> None:
    default = f"`{shown_default(name)}`" if shown_default(name) else "empty"
    if name == "workers":
        default = "the processors it may use"
    row = f"| `{name.upper()}` | {default} | {Settings.model_fields[name].description} |"
    assert row in text_of("README.md")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_example_environment_has_the_setting(name: str) -> None:
    lines = f"# {Settings.model_fields[name].description}\n# {name.upper()}={shown_default(name)}\n"
    assert lines in text_of(".env.example")


def test_no_document_has_a_setting_that_is_gone() -> None:
    names = {name.upper() for name in Settings.model_fields}
    example = {line[2:].partition("=")[0] for line in text_of(".env.example").splitlines() if "=" in line}
    table = {line.split("`")[1] for line in text_of("README.md").splitlines() if line.startswith("| `") and "_" in line}
    assert example == names
    assert {name for name in table if name.isupper()} <= names
