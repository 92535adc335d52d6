"""`make docs`: write the tables of docs/settings.md and the lines of .env.example from the settings in the code.

Each settings class has its heading there: `service`, or the name of the integration. Other text is kept.
"""

import re
from pathlib import Path

from pydantic_settings import BaseSettings

from app.environment import PROJECT_ROOT, variable_of
from app.integrations import settings_classes
from app.settings import Settings

TABLE = "| name | default | description |\n|---|---|---|\n"
ROWS = r"(?m)(^## {heading}\n(?:(?![#|]).*\n)*)(?:\|.*\n)+"
LINES = r"(?m)(^# === {heading} ===\n)(?:\n?# .+\n# [A-Z0-9_]+=.*\n)+"


def classes_by_heading() -> dict[str, type[BaseSettings]]:
    """Return the settings classes by their headings."""
    return {"service": Settings, **settings_classes()}


def format_default(model: type[BaseSettings], name: str) -> str:
    """Return the default as it is written in the environment; empty without a default, or with a computed one."""
    field = model.model_fields[name]
    default = None if field.default_factory or field.is_required() else field.default
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def table_row(model: type[BaseSettings], name: str) -> str:
    """Return the row of a setting in docs/settings.md."""
    field, default = model.model_fields[name], format_default(model, name)
    shown = f"`{default}`" if default else "empty"
    if (model, name) == (Settings, "workers"):
        shown = "number of available CPUs"
    return f"| `{variable_of(model, name)}` | {shown} | {field.description} |\n"


def example_lines(model: type[BaseSettings], name: str) -> str:
    """Return the lines of a setting in .env.example."""
    return f"\n# {model.model_fields[name].description}\n# {variable_of(model, name)}={format_default(model, name)}\n"


def replace_section(text: str, heading: str, pattern: str, body: str) -> str:
    """Replace the table or the lines below a heading by `body`; raise ValueError unless there is exactly one."""
    text, count = re.subn(pattern.format(heading=re.escape(heading)), lambda match: match[1] + body, text)
    if count != 1:
        raise ValueError(f"{count} sections have the heading {heading!r}: write one, with one row or setting below it.")
    return text


def render_documents() -> dict[Path, str]:
    """Return the text that both documents should have, by path."""
    table, example = PROJECT_ROOT / "docs" / "settings.md", PROJECT_ROOT / ".env.example"
    texts = {path: path.read_text("utf-8") for path in (table, example)}
    for heading, model in classes_by_heading().items():
        rows = TABLE + "".join(table_row(model, name) for name in model.model_fields)
        texts[table] = replace_section(texts[table], heading, ROWS, rows)
        lines = "".join(example_lines(model, name) for name in model.model_fields)
        texts[example] = replace_section(texts[example], heading, LINES, lines)
    return texts


if __name__ == "__main__":
    for path, text in render_documents().items():
        path.write_bytes(text.encode())
