"""``python -m flowcat_server`` and the ``flowcat-server`` command."""

from __future__ import annotations

import sys

from flowcat_server.providers.threads import limit_native_threads


def main() -> int:
    """Run the command line; returns the exit code."""
    # Before anything imports numpy: its libraries read their settings once, when they load.
    limit_native_threads()
    from flowcat_server.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
