"""Values beside a message: in JSON keys of their own, in a text line behind the message."""

from collections.abc import Mapping
from typing import Final

from app.common.context.observers import fields_suffix
from app.common.logs.formatters import NOT_FOR_READERS, STANDARD_ATTRIBUTES
from app.settings import get_settings

TAKEN: Final = (
    frozenset("timestamp level logger pid file line exception fields request current_id parent_id".split())  # noqa: SIM905
    | STANDARD_ATTRIBUTES
    | NOT_FOR_READERS
)
"""What a record or a line has anyway."""


def with_values(message: str, values: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Return the message and the `extra` of a logging call; in a text line the values stand behind the message."""
    extra = safe(values)
    if extra and get_settings().log_format == "text":
        message += fields_suffix({name: shown(value) for name, value in extra.items()})
    return message, extra


def safe(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values under names that nothing else in a line has; `name` becomes `name_`."""
    return {f"{name}_" if name in TAKEN else str(name): value for name, value in values.items()}


def shown(value: object) -> object:
    """Return a value as a text line shows it: in quotes where it could not be told from what follows."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    try:
        text = str(value)
    except Exception:  # whatever a class of the user's does
        return f"<{type(value).__name__}>"
    return text if text.isprintable() and not {" ", "=", '"'} & {*text} and text else repr(text)
