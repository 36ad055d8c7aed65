"""Asterisk over WebSocket: commands within their limits, formats by name."""

from __future__ import annotations

import pytest

from flowcat_server.carriers import asterisk
from flowcat_server.carriers.asterisk import Stream
from flowcat_server.core.carrier import Started

START = (
    "MEDIA_START connection_id:c channel:n channel_id:i format:{} optimal_frame_size:{} ptime:20"
)


def started(name: str, size: object) -> Started:
    fed = Stream().feed(START.format(name, size))
    assert isinstance(fed, Started)
    return fed


@pytest.mark.parametrize(
    ("name", "rate", "frame"),
    [("ulaw", 8000, 160), ("alaw", 8000, 160), ("slin", 8000, 320), ("slin12", 12000, 480),
     ("slin16", 16000, 640), ("slin24", 24000, 960), ("slin44", 44100, 1764),
     ("slin48", 48000, 1920), ("slin192", 192000, 7680)],
)  # fmt: skip
def test_every_format_that_a_channel_may_have(name: str, rate: int, frame: int):
    found = started(name, frame)
    assert found.input_format is not None
    assert found.input_format.sample_rate == rate
    sending = found.sending
    assert (sending.unit, sending.least) == (frame, frame)
    assert sending.most <= 65_500


@pytest.mark.parametrize("size", [0, -1, "x", 10**9, ""])
def test_a_frame_size_that_is_none_is_twenty_milliseconds(size: object):
    assert started("ulaw", size).sending.unit == 160


def test_commands_fit_into_what_asterisk_reads():
    stream = Stream()
    for start in (START.format("ulaw", 160), '{"event":"MEDIA_START","channel_id":"i"}'):
        stream = Stream()
        stream.feed(start)
        for message in (stream.mark("p123456"), stream.clear(), *stream.end("agent.ended")):
            assert isinstance(message, str)
            assert len(message.encode()) <= 128


def test_the_subprotocol_is_accepted():
    assert asterisk.CARRIER.subprotocols == ("media",)
