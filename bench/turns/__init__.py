"""How well the server takes turns: a labelled corpus, real calls over it, and a table.

``python -m bench.turns --help``; what is measured and how is in ``docs/benchmarks-turns.md``.
"""

from flowcat_server.providers.native import configure_libraries

# As the server does, before anything imports numpy: else the models cost up to twice the time.
configure_libraries()
