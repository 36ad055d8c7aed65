"""The command line: `main` takes the arguments and returns the exit code.

Exit codes
----------
0     all went well
1     the command's answer is no: `check` found mistakes, `doctor` found a fault, nothing to show
2     wrong use: arguments or configuration; for `check --strict`, warnings only
130   ended by Ctrl-C

Results go to standard output, everything else to standard error.
"""

from flowcat_server.cli.main import main

__all__ = ["main"]
