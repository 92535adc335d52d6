"""What docs/settings.md and .env.example say of each setting; `make docs` writes it anew.

Each class of settings has a heading there: `service`, or the integration's name. What is written by hand stays.
"""

import re
from pathlib import Path

from pydantic_settings import BaseSettings

from app.environment import PROJECT_ROOT, variable_of
from app.integrations import settings_classes
from app.settings import Settings

TABLE = "| name | default | what |\n|---|---|---|\n"
ROWS = r"(?m)(^## {heading}\n(?:(?![#|]).*\n)*)(?:\|.*\n)+"
LINES = r"(?m)(^# === {heading} ===\n)(?:\n?# .+\n# [A-Z0-9_]+=.*\n)+"


def kinds() -> dict[str, type[BaseSettings]]:
    """Return the classes of settings by their headings."""
    return {"service": Settings, **settings_classes()}


def shown_default(kind: type[BaseSettings], name: str) -> str:
    """Return the default as it would be written in the environment; empty where there is none to write."""
    field = kind.model_fields[name]
    default = None if field.default_factory or field.is_required() else field.default
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def row(kind: type[BaseSettings], name: str) -> str:
    """Return the setting's row of the table."""
    default = f"`{shown_default(kind, name)}`" if shown_default(kind, name) else "empty"
    if (kind, name) == (Settings, "workers"):
        default = "the processors it may use"
    return f"| `{variable_of(kind, name)}` | {default} | {kind.model_fields[name].description} |\n"


def lines(kind: type[BaseSettings], name: str) -> str:
    """Return the setting's lines of the example."""
    return f"\n# {kind.model_fields[name].description}\n# {variable_of(kind, name)}={shown_default(kind, name)}\n"


def renew(text: str, heading: str, pattern: str, body: str) -> str:
    """Put `body` in the place of what stands under a heading; raise ValueError where there is no such heading."""
    text, count = re.subn(pattern.format(heading=re.escape(heading)), lambda match: match[1] + body, text)
    if count != 1:
        raise ValueError(f"{count} parts of the text are headed {heading!r}: write one, with one line of what follows.")
    return text


def documents() -> dict[Path, str]:
    """Return both documents as they should be, by their paths."""
    table, example = PROJECT_ROOT / "docs" / "settings.md", PROJECT_ROOT / ".env.example"
    texts = {path: path.read_text("utf-8") for path in (table, example)}
    for heading, kind in kinds().items():
        rows = TABLE + "".join(row(kind, name) for name in kind.model_fields)
        texts[table] = renew(texts[table], heading, ROWS, rows)
        settings = "".join(lines(kind, name) for name in kind.model_fields)
        texts[example] = renew(texts[example], heading, LINES, settings)
    return texts


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_bytes(text.encode())
