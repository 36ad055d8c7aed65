"""What a frame costs inside the server, and what a call costs: ``python -m bench.routing``."""
