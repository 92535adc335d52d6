"""Horizontal bar charts in SVG, for light and dark pages."""

from collections.abc import Sequence
from html import escape
from typing import Literal, NamedTuple

ROW, BAR, TOP, LEFT, WIDTH = 26, 16, 92, 400, 440
COST, RATIO, RIGHT = LEFT + WIDTH + 70, LEFT + WIDTH + 124, LEFT + WIDTH + 140
STYLE = """
  .back { fill: #ffffff } .text { fill: #1f2328 } .soft { fill: #59636e }
  .peer { fill: #9aa7b4 } .ours { fill: #0a7d4f } .option { fill: #6fb598 }
  .base { stroke: #bf3989 } .named { fill: #bf3989 } .spread { stroke: #1f2328 }
  text { font-family: system-ui, sans-serif; font-size: 13px }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } .text { fill: #f0f6fc } .soft { fill: #9198a1 }
    .peer { fill: #59636e } .ours { fill: #2ea871 } .option { fill: #1d6b49 }
    .base { stroke: #f778ba } .named { fill: #f778ba } .spread { stroke: #f0f6fc }
  }
"""


class Bar(NamedTuple):
    """A value with its quartiles, its ratio to the base value, and the style of the bar."""

    name: str
    value: float
    low: float
    high: float
    ratio: float
    kind: Literal["ours", "option", "peer"]


def bar_chart(title: str, remark: str, bars: Sequence[Bar], *, base: float, base_name: str, unit: str) -> str:
    """Return the chart as SVG; a dashed line marks the `base` value and has the label `base_name`."""
    scale = WIDTH / max(bar.high for bar in bars)
    height = TOP + ROW * len(bars) + 20
    bottom, at = height - 12, LEFT + base * scale
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        '<rect class="back" width="100%" height="100%" rx="6"/>',
        f'<text class="text" x="16" y="26" style="font-size:16px;font-weight:600">{escape(title)}</text>',
        f'<text class="soft" x="16" y="48">{escape(remark)}</text>',
        f'<text class="named" x="{at:.1f}" y="{TOP - 12}" text-anchor="middle">{escape(base_name)}</text>',
        f'<text class="soft" x="{COST}" y="{TOP - 12}" text-anchor="end">CPU</text>',
        f'<text class="soft" x="{RATIO}" y="{TOP - 12}" text-anchor="end">ratio</text>',
    ]
    for number, bar in enumerate(bars):
        lines += _row(bar, TOP + ROW * number, scale, unit)
    lines.append(f'<path class="base" d="M{at:.1f} {TOP - 6}V{bottom}" stroke-width="1.5" stroke-dasharray="4 3"/>')
    return "\n".join([*lines, "</svg>", ""])


def _row(bar: Bar, top: int, scale: float, unit: str) -> list[str]:
    middle, text = top + ROW / 2, top + ROW / 2 + 4.5
    weight = ' style="font-weight:600"' if bar.kind == "ours" else ""
    width = f"{bar.value * scale:.1f}"
    low, high = LEFT + bar.low * scale, LEFT + bar.high * scale
    end = f'y="{text}" text-anchor="end"{weight}'
    return [
        f'<text class="text" x="{LEFT - 10}" {end}>{escape(bar.name)}</text>',
        f'<rect class="{bar.kind}" x="{LEFT}" y="{middle - BAR / 2}" width="{width}" height="{BAR}" rx="2"/>',
        f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"/>',
        f'<text class="text" x="{COST}" {end}>{bar.value:.0f} {unit}</text>',
        f'<text class="text" x="{RATIO}" {end}>{bar.ratio:.2f}</text>',
    ]
