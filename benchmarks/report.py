"""What a benchmark says: a page for `benchmarks/results`, and the same on the screen."""

from collections.abc import Iterable

from benchmarks.table import table
from scripts.snapshot import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def publish(name: str, about: Iterable[str], head: str, rows: Iterable[str], remark: str) -> None:
    """Write title and words, a table, and on what it was measured."""
    text = "\n".join([*about, "", *table(head, rows), f"{remark}. `make bench` measures anew.", ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
