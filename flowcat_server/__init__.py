"""A self-hosted voice-agent server: one YAML file, one process, phones and browsers."""

__version__ = "0.1.0"
