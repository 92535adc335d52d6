"""Writes the table of options in README.md, from what features.json and cookiecutter.json say of each."""

import json
import re
from pathlib import Path

from scripts.snapshot import ROOT, TEMPLATE

OPEN, CLOSE = "<!-- options -->\n", "<!-- /options -->\n"
BETWEEN = re.compile(f"(?<={OPEN}).*?(?={CLOSE})", re.DOTALL)


def options_table(root: Path = ROOT) -> str:
    """Give the table of all options, in the order of features.json."""
    features = json.loads((root / TEMPLATE / "features.json").read_text("utf-8"))
    questions = json.loads((root / "cookiecutter.json").read_text("utf-8"))
    rows = [
        f"| `{option}` | {feature['about']} | {'on' if questions[option] else 'off'} |\n"
        for option, feature in features.items()
    ]
    return "".join(["| option | what it brings | default |\n", "|---|---|---|\n", *rows])


def with_options(page: str, table: str) -> str:
    """Give the page with the table between its marks; raises ValueError if these are not there just once."""
    page, count = BETWEEN.subn(lambda _: table, page)
    if count != 1:
        raise ValueError(f"The page has {count} places for the table: write {OPEN.strip()} and {CLOSE.strip()} once.")
    return page


def main() -> None:
    """Write README.md anew if the table has changed."""
    path = ROOT / "README.md"
    before = path.read_text("utf-8")
    if (after := with_options(before, options_table())) != before:
        path.write_bytes(after.encode())


if __name__ == "__main__":
    main()
