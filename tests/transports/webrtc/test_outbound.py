from __future__ import annotations

import numpy as np
import pytest

from flowcat_server.core.audio import decode
from flowcat_server.transports.webrtc import opus
from flowcat_server.transports.webrtc.outbound import LEAD_IN, PIECE, Outbound
from tests.transports.webrtc.peers import loudest, tone

needs_opus = pytest.mark.skipif(opus.library() is None, reason="no libopus on this machine")


class Speech:
    def __init__(self, pcm: bytes) -> None:
        self.pcm = pcm

    def pull(self, size: int) -> bytes:
        piece, self.pcm = self.pcm[:size], self.pcm[size:]
        return piece


@needs_opus
def test_speech_waits_for_the_lead_in_and_is_then_sent_whole() -> None:
    speech = Speech(tone(700, 24_000, 500))
    outbound = Outbound(speech.pull)
    outbound.configure("opus")
    for _ in range(LEAD_IN):
        outbound.packet()
    assert len(speech.pcm) == 500 * 48
    decoder = opus.Decoder(16_000)
    pcm = b"".join(decoder.decode(outbound.packet()) for _ in range(30))
    assert not speech.pcm
    assert abs(loudest(pcm[3_200:16_000], 16_000) - 700) <= 5


@needs_opus
def test_with_nothing_to_say_the_same_silence_is_sent() -> None:
    outbound = Outbound(Speech(b"").pull)
    outbound.configure("opus")
    assert {outbound.packet() for _ in range(50)} == {opus.silence_packet(24_000)}


@needs_opus
def test_a_short_pull_is_padded() -> None:
    speech = Speech(tone(700, 24_000, 30))
    outbound = Outbound(speech.pull)
    for _ in range(LEAD_IN):
        outbound.pcm()
    assert [len(outbound.pcm()) for _ in range(3)] == [PIECE, PIECE, 0]


@pytest.mark.parametrize("codec", ["pcmu", "pcma"])
def test_g711_peers_hear_too(codec: str) -> None:
    speech = Speech(tone(700, 24_000, 600))
    outbound = Outbound(speech.pull)
    outbound.configure("pcmu" if codec == "pcmu" else "pcma")
    packets = [outbound.packet() for _ in range(LEAD_IN + 40)]
    assert {len(packet) for packet in packets} == {160}
    pcm = decode(b"".join(packets), "mulaw" if codec == "pcmu" else "alaw")
    assert outbound.ticks == 160
    middle = pcm[(LEAD_IN + 5) * 320 : (LEAD_IN + 25) * 320]
    assert abs(loudest(middle, 8_000) - 700) <= 5
    assert np.abs(np.diff(np.frombuffer(middle, "<i2").astype(int))).max() < 8_000
    assert np.abs(np.frombuffer(pcm, "<i2")[-320:]).max() <= 8
