"""What can be asked of a benchmark that searches how many calls servers hold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def options(
    module: str, description: str | None, names: Sequence[str], seconds: int
) -> argparse.ArgumentParser:
    """The parser of `module`, whose servers have `names`; a point takes `seconds` by default."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME",
                        help=", ".join(names))  # fmt: skip
    parser.add_argument("--seconds", type=int, default=seconds, metavar="S", help="of each point")
    parser.add_argument("--calls", type=int, metavar="N", help="measure N calls, do not search")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="of servers and generator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every point")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    return parser
