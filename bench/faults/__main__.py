"""``python -m bench.faults``: see `docs/explanation/when-a-provider-fails.md`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import structlog

from bench.faults import report
from bench.faults.cells import CELLS, run


def main() -> int:
    """Print the matrix; 1 if a cell is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="WORDS", help="cells, such as 'tts hang'")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    results = {cell: run(cell) for cell in CELLS if arguments.only in str(cell)}
    print(report.table(results))
    for cell, result in results.items():
        if arguments.only:
            print(f"\n{cell}: {result.ended or 'went on'}")
            print("\n".join(f"    {line}" for line in result.heard))
    if arguments.write:
        report.write(arguments.write, report.table(results))
    return int(any(result.faults for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
