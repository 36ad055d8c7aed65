"""Generated blocks inside hand-written pages: found by markers, replaced in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

_BLOCK = re.compile(
    r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end of generated -->)", re.DOTALL
)


def fill(page: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The page with every generated block written anew. Raises `KeyError` for an unknown one."""

    def written(match: re.Match[str]) -> str:
        return f"{match[1]}\n{blocks[match['name']]().strip()}\n\n{match[4]}"

    return _BLOCK.sub(written, page)


def block_names(page: str) -> list[str]:
    """The generated blocks that a page holds."""
    return [match["name"] for match in _BLOCK.finditer(page)]


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
