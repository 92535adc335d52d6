"""Read environment variables into settings classes, and explain invalid values."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@cache
def project_metadata() -> dict[str, Any]:
    """Return the `[project]` table of pyproject.toml (name, version, description), or {} if the file is missing."""
    path = PROJECT_ROOT / "pyproject.toml"
    project: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))["project"] if path.is_file() else {}
    return project


def _split(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A tuple of strings, written as a comma-separated list in the environment."""


def each_matches(pattern: str, meaning: str) -> AfterValidator:
    """Return a validator of `Words`: each word must match the whole pattern; the error says it "is not `meaning`"."""

    def check(words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not re.fullmatch(pattern, word):
                raise ValueError(f"{word!r} is not {meaning}")
        return words

    return AfterValidator(check)


def server_url(*schemes: str) -> str:
    """Return a regular expression for server URLs. No part of a password can match as the port: ports are logged."""
    return rf"^({'|'.join(schemes)})://(([^\s/?#@%]|%[\dA-Fa-f]{{2}})*@)?[\w.,:\[\]-]*([/?][^\s@#]*)?$"


class EnvironmentSettings(BaseSettings):
    """Base class of all settings: reads the environment and `.env`; integrations set `env_prefix`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def variable_of(model: type[BaseSettings], name: str) -> str:
    """Return the name of the environment variable of a field."""
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


def explain(error: ValidationError, model: type[BaseSettings]) -> str:
    """Return one line for each error: the variable, its value, the reason, and the description of the setting.

    The value of a field with `repr=False` is a secret and is not shown.
    """
    sentences = []
    for fault in error.errors():
        reason = _reason(fault, model)
        if not fault["loc"]:
            sentences.append(f"{reason}.")
            continue
        field = model.model_fields.get(str(fault["loc"][0]))
        name = variable_of(model, ".".join(str(part) for part in fault["loc"]))
        value = f"{fault['input']!r:.80}" if field is None or field.repr else "invalid"
        about = f" {name}: {field.description}." if field and field.description else ""
        sentences.append(
            f"The environment variable {name} is missing.{about}"
            if fault["type"] == "missing"
            else f"The environment variable {name} is {value}: {reason}.{about}"
        )
    return "\n".join(sentences)


def _reason(fault: "ErrorDetails", model: type[BaseSettings]) -> str:
    """Return the reason without secrets; only the messages of our own validators can contain one."""
    reason = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    secrets = {name for name, field in model.model_fields.items() if not field.repr}
    if fault["type"] not in ("value_error", "assertion_error") or not secrets:
        return reason
    if fault["loc"]:
        return "validation failed" if fault["loc"][0] in secrets else reason
    values = [str(value) for name, value in dict(fault["input"]).items() if name in secrets and value]
    return "The settings are inconsistent" if any(value in reason for value in values) else reason


def _explain_invalid_json(error: SettingsError, model: type[BaseSettings]) -> str:
    """Return a sentence for a value that pydantic-settings cannot decode."""
    found = re.search(r'field "(\w+)"', str(error))
    if found is None:
        return f"The environment variables of {model.__name__} cannot be read: {error}."
    field, name = model.model_fields.get(found[1]), variable_of(model, found[1])
    about = f" {name}: {field.description}." if field and field.description else ""
    return f"The environment variable {name} is not valid JSON, such as [1, 2].{about}"


def read_settings(model: type[AnySettings]) -> AnySettings:
    """Return the settings, read from the environment and `.env`.

    Raise SystemExit with one line for each invalid value; the process then exits with status 1.
    """
    try:
        return model()
    except ValidationError as error:
        raise SystemExit(explain(error, model)) from None
    except SettingsError as error:
        raise SystemExit(_explain_invalid_json(error, model)) from None
