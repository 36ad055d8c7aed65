"""Sockets and tracks: how audio reaches the far end."""
