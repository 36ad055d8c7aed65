"""How well the server takes turns: a labelled corpus, real calls over it, and a table.

``python -m bench.turns --help``; what is measured and how is in ``docs/benchmarks-turns.md``.
"""
