"""Settings of all tests."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from flowcat_server.core.events import CallEvent, TurnCompleted
from flowcat_server.session import Session

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


@pytest.fixture(autouse=True)
def _latencies_add_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In every call of every test, a turn's parts add up to the wait that they are parts of."""
    wrong: list[CallEvent] = []
    publish = Session.publish

    def checked(session: Session, event: CallEvent) -> None:
        if isinstance(event, TurnCompleted) and event.latency is not None:
            assert session._line is not None
            reply = session._line.playout.reply(event.turn)
            sent_ms = reply.first_sent_ms if reply is not None else None
            parts = event.latency.parts().values()
            if sent_ms is None or min(parts) < 0 or sum(parts) != sent_ms - event.started_ms:
                wrong.append(event)
        publish(session, event)

    monkeypatch.setattr(Session, "publish", checked)
    yield
    assert not wrong
