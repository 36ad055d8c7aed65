"""What of the caller's audio is kept for a session that takes over."""

from __future__ import annotations

from flowcat_server.core.audio import MULAW_8K, PCM_8K
from flowcat_server.core.frames import AudioIn
from flowcat_server.processors.caller_audio import KEPT_MS, QUIET_KEPT_MS, CallerAudio
from flowcat_server.providers.vad.scripted import PROVIDER
from tests.callscript import FRAME_MS, SILENCE, VOICE
from tests.fakes.settings import settings


class Line:
    """A caller, and what the session in use was sent of them."""

    def __init__(self, *, meter: bool = True) -> None:
        vad = PROVIDER.create(settings(PROVIDER)) if meter else None
        self.caller = CallerAudio(PCM_8K, vad)
        self.sent: list[int] = []
        """End times of the frames."""
        self.now_ms = 0
        self.connect()

    def connect(self) -> None:
        self.sent = []
        self.caller.connect(PCM_8K, lambda payload, at_ms: self.sent.append(at_ms))

    def says(self, ms: int, payload: bytes = VOICE, *, hold: bool = False) -> None:
        for _ in range(ms // FRAME_MS):
            self.now_ms += FRAME_MS
            self.caller.hear(AudioIn(payload, self.now_ms), hold=hold)

    def again(self) -> list[int]:
        """What the next session is sent at once."""
        self.connect()
        self.caller.send()
        return self.sent


def test_everything_is_sent_once():
    line = Line()
    line.says(200)
    line.says(200, SILENCE)
    assert line.sent == list(range(20, 401, 20))


def test_the_next_session_is_sent_what_nobody_has_answered():
    line = Line()
    line.says(1000)
    line.caller.answered(600)
    assert line.again() == list(range(620, 1001, 20))


def test_of_a_long_turn_the_last_is_kept():
    line = Line()
    line.says(KEPT_MS + 4000)
    kept = line.again()
    assert len(kept) == KEPT_MS // FRAME_MS
    assert kept[-1] == line.now_ms


def test_of_a_silent_line_little_is_kept():
    line = Line()
    line.says(1000)
    line.says(400, SILENCE)
    line.caller.answered(line.caller.last_voice_ms)
    line.says(5000, SILENCE)
    assert len(line.again()) == QUIET_KEPT_MS // FRAME_MS


def test_where_nobody_measures_the_voice_all_of_it_may_be_speech():
    line = Line(meter=False)
    line.says(5000, SILENCE)
    assert len(line.again()) == 5000 // FRAME_MS


def test_what_is_held_back_follows_in_order_and_is_not_answered():
    line = Line()
    line.says(200)
    line.caller.answered(200)
    line.says(400, hold=True)
    assert line.caller.held
    line.says(20, SILENCE)
    assert line.sent == list(range(20, 621, 20))
    assert not line.caller.held


def test_another_format_is_another_sessions_matter():
    line = Line()
    line.says(200)
    payloads: list[bytes] = []
    line.caller.connect(MULAW_8K, lambda payload, at_ms: payloads.append(payload))
    line.caller.send()
    assert MULAW_8K.duration_ms(len(b"".join(payloads))) == 200
