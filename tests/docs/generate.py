"""Writes the generated blocks of ``docs/reference``: ``python -m tests.docs.generate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs import configuration, facts
from tests.docs.markers import fill

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"

BLOCKS: Mapping[str, Callable[[], str]] = {
    "configuration": configuration.configuration,
    "variables": configuration.variables,
    "providers": facts.providers,
    "provider-options": facts.options,
    "carriers": facts.carrier_table,
    "carriers-can": facts.carrier_abilities,
    "carriers-control": facts.carrier_control,
    "metrics": facts.metric_table,
    "worker-metrics": facts.worker_metrics,
    "events": facts.event_table,
    "reasons": facts.reasons,
    "command-line": facts.command_line,
}


def pages() -> list[Path]:
    """The reference pages."""
    return sorted(REFERENCE.glob("*.md"))


def main() -> None:
    """Write every page whose generated blocks are stale."""
    for path in pages():
        page = path.read_text(encoding="utf-8")
        new = fill(page, BLOCKS)
        if new != page:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
