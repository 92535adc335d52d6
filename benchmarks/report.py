"""Results pages: each benchmark writes one to `benchmarks/results` and prints it."""

from collections.abc import Iterable

from benchmarks.table import table
from scripts.snapshot import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def footer(remark: str, command: str = "make bench") -> str:
    """Return the last line of a page: what the figures were measured on, and the command that measures again."""
    return f"{remark}. Run `{command}` to measure again."


def publish(
    name: str, intro: Iterable[str], head: str, rows: Iterable[str], remark: str, *, command: str = "make bench"
) -> None:
    """Write the page `name`.md from its title and introduction, a table and the footer, and print it."""
    text = "\n".join([*intro, "", *table(head, rows), footer(remark, command), ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
