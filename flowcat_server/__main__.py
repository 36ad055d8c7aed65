"""``python -m flowcat_server`` and the ``flowcat-server`` command."""

from __future__ import annotations

import sys

from flowcat_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
