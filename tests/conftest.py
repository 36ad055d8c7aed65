"""Settings of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is not a failure; pytest-timeout ends what really hangs.
settings.register_profile("flowcat", deadline=None)
settings.load_profile("flowcat")


@pytest.fixture(autouse=True)
def _environment_is_put_back() -> Iterator[None]:
    """What a test sets in the environment (``--env-file`` does) is not there for the next one."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
