"""Structured values of a log call: keys of the JSON line, `name=value` after the message in the text format."""

from collections.abc import Mapping
from typing import Final

from app.common.context.observers import fields_suffix
from app.common.logs.formatters import INTERNAL_ATTRIBUTES, STANDARD_ATTRIBUTES
from app.settings import get_settings

RESERVED_NAMES: Final = (
    frozenset("timestamp level logger pid file line exception fields request current_id parent_id".split())  # noqa: SIM905
    | STANDARD_ATTRIBUTES
    | INTERNAL_ATTRIBUTES
)
"""Names that a log record or a log line already has."""


def with_values(message: str, values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Return the message and the `extra` of a logging call; in the text format, the message ends with the values."""
    extra = rename_reserved(values)
    if extra and get_settings().log_format == "text":
        message += fields_suffix({name: format_value(value) for name, value in extra.items()})
    return message, extra


def rename_reserved(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values with `_` appended to each reserved name, so that no value replaces a field of the log line."""
    return {f"{name}_" if name in RESERVED_NAMES else str(name): value for name, value in values.items()}


def format_value(value: object) -> object:
    """Return a value for a text line, quoted if it is empty or contains a space, `=`, `"` or unprintable characters."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    try:
        text = str(value)
    except Exception:  # __str__ of a user's class may raise anything
        return f"<{type(value).__name__}>"
    return text if text.isprintable() and not {" ", "=", '"'} & {*text} and text else repr(text)
