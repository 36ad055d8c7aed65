"""FreeSWITCH: the rate and the call's id come from the address or the agent file."""

from __future__ import annotations

import pytest

from flowcat_server.carriers import freeswitch
from flowcat_server.config.carriers import FreeSwitch
from flowcat_server.core.audio import PCM_8K, PCM_16K, AudioFormat
from flowcat_server.core.carrier import Request, Started

CARRIER = freeswitch.CARRIER


@pytest.mark.parametrize(
    ("query", "configured", "audio"),
    [
        ([], 8000, PCM_8K),
        ([], 16000, PCM_16K),
        ([("rate", "16000")], 8000, PCM_16K),
        ([("rate", "x")], 8000, None),
        ([("rate", "1")], 8000, None),
    ],
)
def test_the_rate(query: list[tuple[str, str]], configured: int, audio: AudioFormat | None):
    account = FreeSwitch(sample_rate=configured).account()  # type: ignore[arg-type]
    stream = CARRIER.open(account, Request("GET", "", query=query))
    fed = stream.feed('{"uuid":"f-1"}')
    assert isinstance(fed, Started)
    assert (fed.input_format, fed.output_format) == (audio, audio)


def test_speech_is_sent_little_ahead_since_nobody_says_what_is_buffered():
    stream = CARRIER.open(FreeSwitch().account(), Request("GET", "", query=[("call_id", "f-1")]))
    fed = stream.feed(b"\x01\x02" * 160, binary=True)
    assert isinstance(fed, Started)
    assert fed.sending.ahead_ms <= 60
    assert not fed.sending.marks
