"""The documentation as text: its pages, code blocks, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PART = 'title="part of agent.yaml"'
"""Marks a YAML block that is a piece of an agent file."""

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_INLINE_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Every page that people read."""
    top = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
    return (*(ROOT / name for name in top), *sorted((ROOT / "docs").rglob("*.md")))


@cache
def read(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks(*languages: str) -> Iterator[Block]:
    """The fenced blocks in these languages, of all pages."""
    for page in pages():
        text = read(page)
        for match in _FENCE.finditer(text):
            language, _, info = match[2].strip().partition(" ")
            if language in languages:
                line = text.count("\n", 0, match.start()) + 1
                yield Block(page, line, language, info, match[3])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", read(page))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link into a page may point at."""
    found: dict[str, int] = {}
    for match in _HEADING.finditer(prose(page)):
        name = anchor(match[1])
        found[name] = found.get(name, 0) + 1
    return frozenset(found)


def links(page: Path) -> Iterator[str]:
    """Where a page's links lead."""
    for match in _LINK.finditer(_INLINE_CODE.sub("", prose(page))):
        yield match[1] or match[2]


def anchor(heading: str) -> str:
    """The anchor that Markdown renderers give a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    kept = "".join(c for c in plain.lower() if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")
