"""A log record is one line: its values cannot end the line, forge another or colour it."""

import json
import logging
import re
import sys
from typing import Any

import pytest

from app.common.constants import LOG_FORMAT
from app.common.logs.formatters import JsonFormatter, TextFormatter, dump_json, escape, iso_clock, text_clock

HOSTILE = [
    ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\0", "\\u0000"), ("\b", "\\u0008"), ("\x1b", "\\u001b"),
    ("\x7f", "\\u007f"), ("\x85", "\\u0085"), ("\x9b", "\\u009b"), ("\u200b", "\\u200b"), ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"), ("\u202e", "\\u202e"), ("\u2067", "\\u2067"), ("\ufeff", "\\ufeff"), ("\ud800", "\\ud800"),
    ("\udcff", "\\udcff"),
]  # fmt: skip
each_hostile = pytest.mark.parametrize(("character", "escaped"), HOSTILE)


def record_of(message: object, *args: object, **attributes: object) -> logging.LogRecord:
    record = logging.LogRecord("some.logger", logging.WARNING, "/srv/module.py", 7, message, args, None)
    vars(record).update(request_id="the-request", **attributes)
    return record


def failure() -> Any:  # noqa: ANN401
    try:
        raise ValueError("first\n2026-10-01 forged\x1b[2J")  # noqa: TRY301
    except ValueError:
        return sys.exc_info()


def parse(line: str) -> dict[str, Any]:
    """Parse strict JSON (RFC 8259), without Python's NaN and Infinity."""

    def refuse(word: str) -> object:
        raise ValueError(f"{word} is not valid JSON")

    assert line.splitlines() == [line]
    content: dict[str, Any] = json.loads(line.encode("utf-8"), parse_constant=refuse)
    return content


@each_hostile
def test_hostile_character_is_escaped(character: str, escaped: str) -> None:
    assert escape(f"a{character}b") == f"a{escaped}b"
    line = TextFormatter("%(message)s").format(record_of("%s", f"a{character}b"))
    assert line == f"a{escaped}b"


def test_exactly_the_unprintable_characters_of_latin_1_are_escaped() -> None:
    for character in map(chr, range(256)):
        text = f"a{character}b"
        assert (escape(text) == text) == (character.isprintable() or character in "\u00a0\u00ad"), repr(character)


@each_hostile
def test_hostile_character_is_escaped_in_json(character: str, escaped: str) -> None:
    line = JsonFormatter().format(record_of("%s", f"a{character}b", extra_key=[f"c{character}"]))
    assert character not in line
    # JSON cannot contain a lone surrogate, so it is escaped in the value. All other characters survive parsing.
    parsed = escaped if "\ud800" <= character <= "\udfff" else character
    content = parse(line)
    assert content["message"] == f"a{parsed}b"
    assert parsed in str(content["extra_key"]) or repr(character)[1:-1] in str(content["extra_key"])


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界", "emoji 🙂", 'quotes " and \\', "no-break\u00a0space"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert escape(text) == text


def test_text_line_has_the_default_format() -> None:
    line = TextFormatter().format(record_of("hello %s", "you"))
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4} \[pid:\d+\] module\.py\(line:7\) WARNING "
    assert re.fullmatch(pattern + r"\[the-request\] hello you", line)
    assert re.fullmatch(pattern + "hello you", TextFormatter(LOG_FORMAT).format(record_of("hello you")))


def test_record_without_an_id_has_a_hyphen_and_date_format_is_respected() -> None:
    record = logging.makeLogRecord({"msg": "text"})
    assert re.fullmatch(r"\d\d:\d\d \[-\]", TextFormatter("%(asctime)s [%(request_id)s]", "%H:%M").format(record))
    assert parse(JsonFormatter().format(logging.makeLogRecord({"msg": "text"})))["request_id"] == "-"


def test_every_line_of_a_traceback_is_indented() -> None:
    record = record_of("it failed", exc_info=failure(), stack_info="Stack (most recent call last):\n  File")
    first, *rest = TextFormatter("%(message)s").format(record).splitlines()
    assert first == "it failed"
    assert "    Traceback (most recent call last):" in rest
    assert "    2026-10-01 forged\\u001b[2J" in rest
    assert "    Stack (most recent call last):" in rest
    assert all(line.startswith("    ") for line in rest)


def test_preformatted_traceback_is_logged() -> None:
    record = record_of("it failed", exc_text="Traceback\n  formatted elsewhere")
    assert TextFormatter("%(message)s").format(record).endswith("\n    Traceback\n      formatted elsewhere")
    assert parse(JsonFormatter().format(record))["exception"] == "Traceback\n  formatted elsewhere"


# Attributes that uvicorn and our own filter set on a record for internal use.
INTERNAL = {"color_message": "\033[1mhello\033[0m", "has_own_file": True}


def test_json_line_has_the_documented_fields() -> None:
    content = parse(JsonFormatter().format(record_of("hello %s", "you", exc_info=failure(), user="u-1", **INTERNAL)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", content.pop("timestamp"))
    assert content.pop("exception").startswith("Traceback (most recent call last):\n")
    assert content.pop("pid") > 0
    assert content == {
        "level": "WARNING",
        "logger": "some.logger",
        "message": "hello you",
        "request_id": "the-request",
        "file": "module.py",
        "line": 7,
        "user": "u-1",
    }


def test_extra_key_never_replaces_a_standard_key() -> None:
    record = record_of("text", timestamp="forged", level="forged", logger="forged", pid=0, file="forged", line=0)
    assert "forged" not in JsonFormatter().format(record)


class Unprintable:
    def __repr__(self) -> str:
        return "<unprintable\n\x1b>"


LOOP: dict[str, object] = {}
LOOP["itself"] = LOOP
DEEP: list[object] = []
for _ in range(5000):
    DEEP = [DEEP]


class Broken:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [Unprintable(), {1, 2}, b"bytes\xff", {"a": Unprintable()}, {(1, 2): 3}, LOOP, 10**400, 1.5, None, True, ["\ud800"],
     DEEP, Broken(), float("nan"), {"a": [float("-inf")]}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_line_is_json_for_any_extra_value(value: object) -> None:
    content = parse(JsonFormatter().format(record_of("text", anything=value)))
    assert content["message"] == "text"
    assert "anything" in content


def test_json_types_are_preserved() -> None:
    content = {"number": 1.5, "text": "ü", "none": None, "list": [1, True], "object": {"a": "b"}}
    assert parse(dump_json(content)) == content


def test_clock_formats_milliseconds_and_zone_of_every_second() -> None:
    times = [text_clock.format(1_700_000_000 + number / 2) for number in range(4)]
    assert len(set(times)) == 4
    assert [text[-8:-5] for text in times] == ["000", "500"] * 2
    assert re.fullmatch(r".+\.123[+-]\d{4}", iso_clock.format(1_700_000_000.1239))


def test_id_from_extra_cannot_forge_a_line() -> None:
    record = record_of("text")
    record.request_id = "x\n2026-10-01 forged"
    assert len(TextFormatter().format(record).splitlines()) == 1
