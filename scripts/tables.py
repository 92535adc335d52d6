"""Write the table of options in README.md from features.json and cookiecutter.json."""

import json
import re
from pathlib import Path

from scripts.snapshot import ROOT, TEMPLATE

OPEN, CLOSE = "<!-- options -->\n", "<!-- /options -->\n"
BETWEEN = re.compile(f"(?<={OPEN}).*?(?={CLOSE})", re.DOTALL)


def options_table(root: Path = ROOT) -> str:
    """Return the table of all options, in the order of features.json."""
    features = json.loads((root / TEMPLATE / "features.json").read_text("utf-8"))
    questions = json.loads((root / "cookiecutter.json").read_text("utf-8"))
    rows = [
        f"| `{option}` | {feature['about']} | {'on' if questions[option] else 'off'} |\n"
        for option, feature in features.items()
    ]
    return "".join(["| option | description | default |\n", "|---|---|---|\n", *rows])


def replace_table(page: str, table: str) -> str:
    """Return the page with the table between the two comments; raises ValueError unless the page has them once."""
    page, count = BETWEEN.subn(lambda _: table, page)
    if count != 1:
        raise ValueError(f"The page has {count} tables of options: write {OPEN.strip()} and {CLOSE.strip()} once.")
    return page


def main() -> None:
    """Update README.md if the table has changed."""
    path = ROOT / "README.md"
    before = path.read_text("utf-8")
    if (after := replace_table(before, options_table())) != before:
        path.write_bytes(after.encode())


if __name__ == "__main__":
    main()
