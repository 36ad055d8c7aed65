"""The parts of the `intents` provider."""
