"""Many callers at once, for ``flowcat-server bench``."""
