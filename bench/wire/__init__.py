"""Capacity of one core on a carrier's media wire, ours beside others: ``python -m bench.wire``."""
