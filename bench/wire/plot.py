"""The picture of a run: one bar for each server."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from bench.wire.report import Measured

TITLE = "Calls held on one core"
HELD = "Twilio media wire, 50 frames a second each way; p99 within 20 ms, nothing lost"
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 860, 330, 80, 22, 12, 54
OURS, OTHER, FLOOR = "#2f6fde", "#9aa4b2", "#c9d1db"


def capacity(results: list[Measured]) -> str:
    """Calls held on one core, as SVG that can be read on white and on black."""
    return bars(TITLE, HELD, [(r.name, r.title, r.capacity) for r in results])


def bars(title: str, held: str, results: list[tuple[str, str, int]]) -> str:
    """One bar for each server's name, title and calls; under `title`, what `held` means."""
    most = max((calls for _, _, calls in results), default=0) or 1
    height = TOP + len(results) * (BAR + GAP) + 14
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{title}</title>",
        "<style>text{fill:#222}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
        f'<text x="12" y="22" font-size="15" font-weight="600">{title}</text>',
        f'<text x="12" y="40" font-size="12">{held}</text>',
    ]
    for number, (name, label, calls) in enumerate(results):
        y = TOP + number * (BAR + GAP)
        width = max(1, round((WIDTH - LEFT - RIGHT) * calls / most))
        colour = OURS if name.startswith("ours") else FLOOR if name == "c" else OTHER
        text = escape(re.sub(r"\*", "", label))
        middle = y + BAR / 2 + 4.5
        shapes += [
            f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end" font-size="11">{text}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" rx="3" fill="{colour}"/>',
            f'<text x="{LEFT + width + 8}" y="{middle}" font-weight="600">{calls}</text>',
        ]
    return "\n".join([*shapes, "</svg>", ""])
