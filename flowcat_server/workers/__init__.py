"""Several processes on one port: who serves which call, and what they have to know together."""
