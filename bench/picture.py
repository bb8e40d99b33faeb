"""The figures as a picture: a bar for each row, from its goal to what was measured, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from bench.report import Row

_WIDTH, _ROW, _TOP = 900, 30, 56
_LEFT, _RIGHT = 420, 870
_TICKS = (1 / 16, 1 / 4, 1, 4, 16, 64)
# Colours that read on white and on black.
_STYLE = """
  text { font: 12px sans-serif; fill: #57606a } .title { font-weight: bold } .end { text-anchor: end }
  .middle { text-anchor: middle } .grid { stroke: #8c959f; stroke-opacity: .3 }
  .goal { stroke: #8c959f; stroke-width: 2 }
  .reached { fill: #2da44e } .missed { fill: #d1582c } .peer { fill: #8c959f; fill-opacity: .6 }
  @media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
"""


def picture(rows: Sequence[Row]) -> str:
    """Return the SVG text; rows that were not measured are left out."""
    shown = [row for row in rows if row.share is not None]
    height = _TOP + _ROW * len(shown) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        ' aria-label="Each figure beside its goal; the table below has the same in numbers">',
        f"<style>{_STYLE}</style>",
        *_legend(),
        *_axis(height),
        *(line for place, row in enumerate(shown) for line in _bars(row, _TOP + _ROW * place)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _legend() -> Iterator[str]:
    for x, kind, words in (
        (10, "reached", "goal reached"),
        (120, "missed", "goal missed"),
        (225, "peer", "ansible-runner"),
    ):
        yield f'<rect class="{kind}" x="{x}" y="10" width="12" height="12"/><text x="{x + 18}" y="20">{words}</text>'


def _axis(height: int) -> Iterator[str]:
    for tick in _TICKS:
        x = _at(tick)
        kind, words = ("goal", "goal") if tick == 1 else ("grid", f"{tick:g} times" if tick > 1 else f"1/{1 / tick:g}")
        yield f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP - 8}" y2="{height - 10}"/>'
        yield f'<text class="middle" x="{x}" y="{_TOP - 14}">{words}</text>'
    yield f'<text class="end" x="{_RIGHT}" y="20">the left is better</text>'


def _bars(row: Row, top: int) -> Iterator[str]:
    kind = "reached" if row.passed else "missed"
    words = escape(f"{row.workload}: {row.what}".replace("`", ""))
    yield f'<text class="end" x="{_LEFT - 20}" y="{top + 15}">{words}</text>'
    yield _bar(kind, row.share or 1, top + 3, 10)
    if row.peer_share is not None:
        yield _bar("peer", row.peer_share, top + 14, 6)


def _bar(kind: str, share: float, y: int, height: int) -> str:
    x, goal = _at(share), _at(1)
    return f'<rect class="{kind}" x="{min(x, goal)}" y="{y}" width="{max(abs(x - goal), 1):.1f}" height="{height}"/>'


def _at(share: float) -> float:
    """Return where a share of the goal lies; what is beyond the scale is at its end."""
    low, high = math.log(_TICKS[0]), math.log(_TICKS[-1])
    part = (math.log(max(share, 1e-9)) - low) / (high - low)
    return round(_LEFT + min(max(part, 0), 1) * (_RIGHT - _LEFT), 1)
