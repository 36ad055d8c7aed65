"""Settings of all tests."""

from hypothesis import settings

# A busy machine is not a failure; pytest-timeout ends what really hangs.
settings.register_profile("flowcat", deadline=None)
settings.load_profile("flowcat")
