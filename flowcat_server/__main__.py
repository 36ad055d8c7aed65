"""``python -m flowcat_server`` and the ``flowcat-server`` command."""

from __future__ import annotations

import sys

from flowcat_server.providers.native import configure_libraries


def main() -> int:
    """Run the command line; returns the exit code."""
    # Before anything imports numpy: its libraries read their settings once, when they load.
    configure_libraries()
    from flowcat_server.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
