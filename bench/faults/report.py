"""The fault matrix as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.faults.cells import FAULTS, STAGES, Cell, Result

BEGIN, END = "<!-- generated: faults -->\n", "<!-- end of generated -->"


def table(results: Mapping[Cell, Result]) -> str:
    """One row for each stage and fault, in Markdown."""
    heads = ("Stage", "Fault", "Silence", "Alone", "Silence", "With a fallback")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for stage in STAGES:
        for fault in FAULTS:
            row = [stage, f"`{fault}`"]
            for fallback in (False, True):
                result = results.get(Cell(stage, fault, fallback))
                row += _columns(result) if result is not None else ["", ""]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _columns(result: Result) -> list[str]:
    silence = f"{result.silence_ms / 1000:.2f} s"
    if result.faults:
        return [silence, "UNTRUE: " + "; ".join(result.faults)]
    if result.ended_ms is not None:
        return [silence, f"{_turns(result)}ended after {result.ended_ms / 1000:.1f} s"]
    return [silence, "answered" if all(result.answered) else "NOT ANSWERED"]


def _turns(result: Result) -> str:
    """What came of the turns before the one in which the call ended."""
    before = result.answered[:-1]
    return "".join("answered, " if answered else "apology, " for answered in before)


def write(page: Path, text: str) -> None:
    """Put the table between the marks of a page."""
    old = page.read_text(encoding="utf-8")
    before, rest = old.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}", encoding="utf-8")
