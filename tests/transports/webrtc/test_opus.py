from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.transports.webrtc import opus
from tests.transports.webrtc.peers import loudest, tone, windows

pytestmark = pytest.mark.skipif(opus.library() is None, reason="no libopus on this machine")


def packets(pcm: bytes, encoder: opus.Encoder, rate: int = 24_000) -> list[bytes]:
    return [encoder.encode(frame) for frame in windows(pcm, rate // 50 * 2)]


def level(pcm: bytes) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2").astype(float) ** 2)))


def test_a_tone_survives_at_another_rate() -> None:
    decoder = opus.Decoder(16_000)
    pcm = b"".join(decoder.decode(p) for p in packets(tone(700, 24_000, 400), opus.Encoder(24_000)))
    assert len(pcm) == 400 * 32
    assert abs(loudest(pcm[6_400:], 16_000) - 700) <= 5


def test_packets_are_20_ms_and_small() -> None:
    encoded = packets(tone(700, 24_000, 400), opus.Encoder(24_000))
    assert {opus.packet_ticks(p) for p in encoded} == {960}
    assert max(len(p) for p in encoded) < 250


def test_a_lost_packet_is_concealed_not_silent() -> None:
    encoded = packets(tone(700, 24_000, 400), opus.Encoder(24_000))
    decoder = opus.Decoder(16_000)
    for packet in encoded[:10]:
        decoder.decode(packet)
    made_up = decoder.conceal(960)
    assert len(made_up) == 640
    assert level(made_up) > 2_000


def mode(packet: bytes) -> str:
    """RFC 6716 section 3.1, table 2."""
    configuration = packet[0] >> 3
    return "SILK" if configuration < 12 else "hybrid" if configuration < 16 else "CELT"


def test_a_clean_line_gets_the_cheap_codec_and_a_lossy_one_error_correction() -> None:
    encoder = opus.Encoder(24_000)
    frames = list(windows(tone(700, 24_000, 3_000), 960))
    assert {mode(encoder.encode(frame)) for frame in frames[:20]} == {"CELT"}
    encoder.expect_loss(5)
    lossy = [encoder.encode(frame) for frame in frames[20:60]]
    assert {mode(packet) for packet in lossy[5:]} <= {"SILK", "hybrid"}
    assert sum(map(len, lossy[5:])) / 35 * 400 < 45_000, "bits a second"


def test_error_correction_ends_when_no_loss_was_reported_for_a_while() -> None:
    encoder = opus.Encoder(24_000)
    frames = list(windows(tone(700, 24_000, 3_000), 960))
    encoder.expect_loss(5)
    encoder.expect_loss(0)
    encoder.expect_loss(1)
    encoder.expect_loss(5)
    for _ in range(opus.CLEAN_REPORTS - 1):
        encoder.expect_loss(0)
    assert mode([encoder.encode(frame) for frame in frames[:20]][-1]) != "CELT"
    encoder.expect_loss(0)
    assert mode([encoder.encode(frame) for frame in frames[20:40]][-1]) == "CELT"


def test_the_change_of_codec_is_not_heard() -> None:
    """A tone goes on through it: no gap, no click, the level stays."""
    encoder, decoder = opus.Encoder(24_000), opus.Decoder(16_000)
    pcm = bytearray()
    for number, frame in enumerate(windows(tone(700, 24_000, 1_200), 960)):
        if number == 30:
            encoder.expect_loss(5)
        pcm += decoder.decode(encoder.encode(frame))
    levels = [level(part) for part in windows(bytes(pcm[6_400:]), 640)]
    assert min(levels) > 0.8 * max(levels)
    steps = np.abs(np.diff(np.frombuffer(pcm[6_400:], "<i2").astype(int)))
    assert steps.max() < 1.3 * 8_000 * 2 * np.pi * 700 / 16_000


@pytest.mark.parametrize("limit", [12_000, 24_000, 32_000])
def test_no_more_bits_are_sent_than_the_peer_wants(limit: int) -> None:
    noise = np.random.default_rng(1).normal(0, 4_000, 24_000 * 3).astype("<i2").tobytes()
    encoded = packets(noise, opus.Encoder(24_000, max_bitrate=limit))
    assert sum(map(len, encoded)) * 8 / 3 < limit * 1.15


def test_forward_error_correction_gives_back_the_lost_packet() -> None:
    """A note that changes pitch in the lost packet: concealment cannot know it, FEC does."""
    speech = tone(300, 24_000, 300) + tone(900, 24_000, 300)
    encoder = opus.Encoder(24_000)
    encoder.expect_loss(20)
    encoded = packets(speech, encoder)

    def heard(*, fec: bool) -> int:
        decoder = opus.Decoder(16_000)
        for packet in encoded[:15]:
            decoder.decode(packet)
        lost = decoder.recover(encoded[16], 960) if fec else decoder.conceal(960)
        lost += decoder.recover(encoded[17], 960) if fec else decoder.conceal(960)
        return loudest(lost[640:], 16_000)

    assert abs(heard(fec=True) - 900) <= 60
    assert abs(heard(fec=False) - 300) <= 60


def test_the_silence_packet_is_silent_however_often_it_comes() -> None:
    decoder = opus.Decoder(16_000)
    packet = opus.silence_packet(24_000)
    assert level(b"".join(decoder.decode(packet) for _ in range(200))) < 5


def test_silence_after_speech_does_not_click() -> None:
    encoder, decoder = opus.Encoder(24_000), opus.Decoder(16_000)
    for packet in packets(tone(700, 24_000, 200) + bytes(4_800), encoder):
        decoder.decode(packet)
    after = [decoder.decode(opus.silence_packet(24_000)) for _ in range(20)]
    assert level(after[0]) < 60
    assert level(after[-1]) < 5


@pytest.mark.parametrize(
    ("toc", "more", "ticks"),
    [
        (0b01001_0_00, b"", 960),
        (0b00011_0_00, b"", 2_880),
        (0b11111_0_01, b"", 1_920),
        (0b11100_0_11, b"\x04", 480),
        (0b00011_0_11, b"\x3f", 0),
    ],
    ids=["wideband 20 ms", "60 ms", "two frames", "four of 2.5 ms", "longer than 120 ms"],
)
def test_the_length_of_a_packet_is_in_its_first_bytes(toc: int, more: bytes, ticks: int) -> None:
    assert opus.packet_ticks(bytes([toc]) + more) == ticks


@given(st.binary(max_size=200))
def test_any_bytes_can_be_decoded(payload: bytes) -> None:
    decoder = opus.Decoder(16_000)
    pcm = decoder.decode(payload)
    assert len(pcm) % 2 == 0
    assert 0 <= opus.packet_ticks(payload) <= 5_760
    assert len(decoder.recover(payload, 960)) == 640
