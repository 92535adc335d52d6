"""Refuses impossible answers before a file is written: every fault of every answer at once, one sentence each."""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping

Answers = Mapping[str, object]

# The only tag of this file. Answers arrive as data: the filter escapes `'`, `<`, `>`, `&`, everything beyond ASCII, and
# each `"` inside of a value, so at most two quotation marks ever meet and no answer can end the literal.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

LONGEST = 200
LONGEST_SLUG = 63
REPLACEMENT = "refused-project-slug"
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
EMAIL = re.compile(r"[^\s@<>\"',;]+@[^\s@<>\"',;]+")
YEAR = re.compile(r"[0-9]{4}")
LICENSES = ("MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary")
TEXTS = ("project_name", "description", "full_name", "email")
# Every other question is taken for one about an option: a new question for words belongs here.
QUESTIONS = (*TEXTS, "project_slug", "license", "year")
DEVICES = ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
TAKEN = ("app", "gun", "tests", *DEVICES)
# Control characters, line and paragraph separators, halves of a surrogate pair: none fits into one line of UTF-8 text.
UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
# Marks that turn the direction of what follows: a name could look like another one (CVE-2021-42574).
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def answer(answers: Answers, key: str) -> str:
    """Give the answer to `key` as text; an answer that is not there is an empty one."""
    return str(answers.get(key, ""))


def shown(value: str) -> str:
    """Quote a value for a sentence: escaped, and cut when it is long."""
    return ascii(value if len(value) <= LONGEST_SLUG else value[:LONGEST_SLUG] + "...")


def is_unprintable(character: str) -> bool:
    """Whether a character would break a line of text, or mislead its reader."""
    return unicodedata.category(character) in UNPRINTABLE or unicodedata.bidirectional(character) in TURNING


def check_texts(answers: Answers) -> Iterator[str]:
    """Check that names and sentences are one line each, not empty, not endless."""
    for key in TEXTS:
        value = answer(answers, key)
        if not value.strip():
            yield f"The answer to {key} is empty: write at least one visible character."
        elif len(value) > LONGEST:
            yield f"The answer to {key} has {len(value)} characters: write at most {LONGEST}."
        elif any(map(is_unprintable, value)):
            yield f"The answer to {key}, {shown(value)}, holds a control character or a line break: leave it out."


def check_slug(answers: Answers) -> Iterator[str]:
    """Check that the slug is good for a folder, a package and a process at once.

    cookiecutter makes the folder before it runs this hook. `cookiecutter.json` therefore puts a harmless folder in the
    place of a slug that is none, and keeps what was answered under `__project_slug`.
    """
    slug = answer(answers, "project_slug")
    if slug == REPLACEMENT:
        slug = answer(answers, "__project_slug")
    if not SLUG.fullmatch(slug) or len(slug) > LONGEST_SLUG:
        yield (
            f"The project_slug {shown(slug)} cannot name a folder and a package: write 1 to {LONGEST_SLUG} lower-case "
            "letters and digits, with a letter first and single hyphens between words, such as trail-service."
        )
    elif slug in TAKEN:
        yield f"The project_slug {shown(slug)} already means something else: choose another, such as {slug}-service."


def check_email(answers: Answers) -> Iterator[str]:
    """Check the shape of the address; whether it exists, no pattern knows."""
    email = answer(answers, "email")
    if email.strip() and not EMAIL.fullmatch(email):
        yield f"The email {shown(email)} is not an address: write it as name@example.com."


def check_license(answers: Answers) -> Iterator[str]:
    """Check that there is a text for the licence."""
    license_id = answer(answers, "license")
    if license_id not in LICENSES:
        yield f"The license {shown(license_id)} is not known here: choose one of {', '.join(LICENSES)}."


def check_year(answers: Answers) -> Iterator[str]:
    """Check the year, which stands in the licence."""
    year = answer(answers, "year")
    if not YEAR.fullmatch(year):
        yield f"The year {shown(year)} is not a year: write four digits, such as 2026."


def check_kinds(answers: Answers) -> Iterator[str]:
    """Check that options are on or off, and the rest is text: replayed answers come from files that people edit."""
    for key in answers:
        if key in QUESTIONS and not isinstance(answers[key], str):
            yield f"The answer to {key} is {shown(answer(answers, key))}, and no text: write it in quotation marks."
        elif key not in QUESTIONS and not key.startswith("_") and not isinstance(answers[key], bool):
            yield f"The answer to {key} is {shown(answer(answers, key))}: write true or false."


CHECKS: tuple[Callable[[Answers], Iterator[str]], ...] = (
    check_texts,
    check_slug,
    check_email,
    check_license,
    check_year,
    check_kinds,
)


def faults(answers: Answers) -> list[str]:
    """Give one sentence for every fault of all answers; none when they are good."""
    return [sentence for check in CHECKS for sentence in check(answers)]


def main() -> int:
    """Print the faults to standard error; 0 when there is none, else 1, and cookiecutter removes what it made."""
    found = faults(json.loads(ANSWERS))
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
