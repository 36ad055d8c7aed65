"""The picture of a run: one bar for each server."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from bench.wire.report import Measured

TITLE = "Calls held on one core"
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 860, 330, 80, 22, 12, 54
OURS, OTHER, FLOOR = "#2f6fde", "#9aa4b2", "#c9d1db"


def capacity(results: list[Measured]) -> str:
    """Calls held on one core, as SVG that can be read on white and on black."""
    most = max((result.capacity for result in results), default=0) or 1
    height = TOP + len(results) * (BAR + GAP) + 14
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{TITLE}</title>",
        "<style>text{fill:#222}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
        f'<text x="12" y="22" font-size="15" font-weight="600">{TITLE}</text>',
        '<text x="12" y="40" font-size="12">Twilio media wire, 50 frames a second each way; '
        "p99 within 20 ms, nothing lost</text>",
    ]
    for number, result in enumerate(results):
        y = TOP + number * (BAR + GAP)
        width = max(1, round((WIDTH - LEFT - RIGHT) * result.capacity / most))
        colour = OURS if result.name.startswith("ours") else FLOOR if result.name == "c" else OTHER
        title = escape(re.sub(r"\*", "", result.title))
        middle = y + BAR / 2 + 4.5
        shapes += [
            f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end" font-size="11">{title}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" rx="3" fill="{colour}"/>',
            f'<text x="{LEFT + width + 8}" y="{middle}" font-weight="600">{result.capacity}</text>',
        ]
    return "\n".join([*shapes, "</svg>", ""])
