"""Calls a running server as a carrier would, and says in a sentence what is wrong."""
