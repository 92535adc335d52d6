"""Check the answers before cookiecutter writes a file, and report every invalid one in a sentence.

Cookiecutter copies a hook to a temporary file and runs it with the user's Python, so it imports the standard library
only.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping

Answers = Mapping[str, object]

# The only Jinja tag in this file. `tojson` escapes `'`, `<`, `>`, `&`, non-ASCII characters, and each `"` inside a
# value. So at most two quotation marks are adjacent, and no answer can end this string literal.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

MAX_LENGTH = 200
MAX_SLUG_LENGTH = 63
# cookiecutter.json sets project_slug to this if the answer is not a slug.
PLACEHOLDER_SLUG = "refused-project-slug"
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
EMAIL = re.compile(r"[^\s@<>\"',;]+@[^\s@<>\"',;]+")
YEAR = re.compile(r"[0-9]{4}")
LICENSES = ("MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary")
TEXTS = ("project_name", "description", "full_name", "email")
# The questions that are answered with text. Every other question is an option, answered with true or false.
TEXT_QUESTIONS = (*TEXTS, "project_slug", "license", "year")
# File names that Windows reserves.
DEVICE_NAMES = ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
# The service has modules with the first three names.
RESERVED_SLUGS = ("app", "gun", "tests", *DEVICE_NAMES)
# Unicode categories: control characters, line separators, paragraph separators, surrogates. None of them can be part of
# one line of UTF-8 text.
UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
# Bidirectional control characters: they can make a name look like another one (CVE-2021-42574).
BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def answer(answers: Answers, key: str) -> str:
    """Return the answer to `key` as text; empty if it is missing."""
    return str(answers.get(key, ""))


def quote(value: str) -> str:
    """Return `value` in quotation marks for a message: escaped to ASCII, and truncated if it is long."""
    return ascii(value if len(value) <= MAX_SLUG_LENGTH else value[:MAX_SLUG_LENGTH] + "...")


def is_unprintable(character: str) -> bool:
    """Whether a character would break a line of text or change the direction of the text after it."""
    return unicodedata.category(character) in UNPRINTABLE or unicodedata.bidirectional(character) in BIDI_CONTROLS


def check_texts(answers: Answers) -> Iterator[str]:
    """Check that each name and description is one line, not empty, and not too long."""
    for key in TEXTS:
        value = answer(answers, key)
        if not value.strip():
            yield f"The answer to {key} is empty: write at least one visible character."
        elif len(value) > MAX_LENGTH:
            yield f"The answer to {key} has {len(value)} characters: write at most {MAX_LENGTH}."
        elif any(map(is_unprintable, value)):
            yield f"The answer to {key}, {quote(value)}, contains a control character or a line break: remove it."


def check_slug(answers: Answers) -> Iterator[str]:
    """Check that the slug can name a folder, a package and a process.

    Cookiecutter creates the folder before it runs this hook. An invalid slug such as `../x` would be a path elsewhere,
    so `cookiecutter.json` replaces it with a placeholder and keeps the original answer in `__project_slug`.
    """
    slug = answer(answers, "project_slug")
    if slug == PLACEHOLDER_SLUG:
        slug = answer(answers, "__project_slug")
    if not SLUG.fullmatch(slug) or len(slug) > MAX_SLUG_LENGTH:
        yield (
            f"The project_slug {quote(slug)} is invalid: write 1 to {MAX_SLUG_LENGTH} lower-case letters and digits, "
            "with a letter first and single hyphens between words, such as trail-service."
        )
    elif slug in RESERVED_SLUGS:
        yield f"The project_slug {quote(slug)} is reserved: choose another one, such as {slug}-service."


def check_email(answers: Answers) -> Iterator[str]:
    """Check the form of the email address, not whether it exists."""
    email = answer(answers, "email")
    if email.strip() and not EMAIL.fullmatch(email):
        yield f"The email {quote(email)} is not an email address: write it as name@example.com."


def check_license(answers: Answers) -> Iterator[str]:
    """Check that the template has a text of the licence."""
    license_id = answer(answers, "license")
    if license_id not in LICENSES:
        yield f"The license {quote(license_id)} is not available: choose one of {', '.join(LICENSES)}."


def check_year(answers: Answers) -> Iterator[str]:
    """Check the year of the copyright notice."""
    year = answer(answers, "year")
    if not YEAR.fullmatch(year):
        yield f"The year {quote(year)} is invalid: write four digits, such as 2026."


def check_types(answers: Answers) -> Iterator[str]:
    """Check that options are booleans and all other answers strings: users may edit the file that `--replay` reads."""
    for key in answers:
        if key in TEXT_QUESTIONS and not isinstance(answers[key], str):
            yield f"The answer to {key} must be a string: write {quote(answer(answers, key))} in quotation marks."
        elif key not in TEXT_QUESTIONS and not key.startswith("_") and not isinstance(answers[key], bool):
            yield f"The answer to {key} is {quote(answer(answers, key))}: write true or false."


CHECKS: tuple[Callable[[Answers], Iterator[str]], ...] = (
    check_texts,
    check_slug,
    check_email,
    check_license,
    check_year,
    check_types,
)


def find_errors(answers: Answers) -> list[str]:
    """Return a sentence for each error in the answers; an empty list if all of them are valid."""
    return [sentence for check in CHECKS for sentence in check(answers)]


def main() -> int:
    """Print the errors to standard error. Return 1 if there are any: then cookiecutter removes the new folder."""
    errors = find_errors(json.loads(ANSWERS))
    for sentence in errors:
        print(sentence, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
