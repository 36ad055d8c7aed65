from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, encode
from flowcat_server.transports.webrtc import opus
from flowcat_server.transports.webrtc.inbound import Codec, Inbound
from tests.transports.webrtc.peers import loudest, tone, windows

CODECS: dict[int, Codec] = {0: "pcmu", 8: "pcma", 111: "opus", 110: "telephone-event"}

needs_opus = pytest.mark.skipif(opus.library() is None, reason="no libopus on this machine")


class Ear:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.digits = ""
        self.inbound = Inbound(self.pieces.append, self._digit)
        self.inbound.configure(CODECS)
        self.seq, self.timestamp, self.now = 65_500, 2**32 - 9_600, 5_000

    def _digit(self, digit: str) -> None:
        self.digits += digit

    def receive(
        self,
        payloads: list[bytes],
        *,
        kind: int = 111,
        ticks: int = 960,
        lost: Sequence[bool] = (),
    ) -> None:
        for number, payload in enumerate(payloads):
            if not (number < len(lost) and lost[number]):
                self.inbound.packet(1, kind, self.seq, self.timestamp, payload, self.now)
            self.seq = (self.seq + 1) & 0xFFFF
            self.timestamp = (self.timestamp + ticks) & 0xFFFFFFFF
            self.now += ticks // (8 if kind in (0, 8) else 48)
            self.inbound.beat(self.now - 5)

    @property
    def pcm(self) -> bytes:
        return b"".join(self.pieces)


def spoken(pcm: bytes, *, loss: int = 0) -> list[bytes]:
    encoder = opus.Encoder(24_000)
    encoder.expect_loss(loss)
    return [encoder.encode(frame) for frame in windows(pcm, 960)]


def levels(pcm: bytes) -> list[float]:
    return [
        float(np.sqrt(np.mean(np.frombuffer(w, "<i2").astype(float) ** 2)))
        for w in windows(pcm, 640)
    ]


@needs_opus
@pytest.mark.parametrize(("percent", "weak"), [(3, 0), (8, 2), (15, 10)])
def test_a_tone_goes_on_through_loss(percent: int, weak: int) -> None:
    chance = random.Random(percent)
    lost = [chance.random() * 100 < percent for _ in range(200)]
    lost[-3:] = [False] * 3
    lost[0] = False
    ear = Ear()
    ear.receive(spoken(tone(700, 24_000, 4_000), loss=percent), lost=lost)
    assert sum(lost) > 2
    assert len(ear.pcm) == 4_000 * 32
    assert abs(loudest(ear.pcm[6_400:], 16_000) - 700) <= 5
    assert sum(level < 1_000 for level in levels(ear.pcm)[1:]) <= weak
    assert {len(piece) for piece in ear.pieces} == {640}


@pytest.mark.parametrize(("kind", "law"), [(0, MULAW_8K), (8, ALAW_8K)], ids=["PCMU", "PCMA"])
def test_g711_is_decoded_and_concealed(kind: int, law: object) -> None:
    assert law in (MULAW_8K, ALAW_8K)
    coded = encode(tone(700, 8_000, 2_000), "mulaw" if kind == 0 else "alaw")
    payloads = list(windows(coded, 160))
    lost = [n % 20 == 11 for n in range(100)]
    ear = Ear()
    ear.receive(payloads, kind=kind, ticks=160, lost=lost)
    assert len(ear.pcm) == 2_000 * 32
    assert abs(loudest(ear.pcm[6_400:], 16_000) - 700) <= 5
    assert min(levels(ear.pcm)[3:-1]) > 1_000


@needs_opus
@pytest.mark.parametrize("ticks", [480, 1_920, 2_880], ids=["10 ms", "40 ms", "60 ms"])
def test_other_packet_lengths_still_give_20_ms_pieces(ticks: int) -> None:
    # Code 3 packets of several 10 or 20 ms frames made from silence (RFC 6716 section 3.2.5).
    silent = opus.silence_packet(24_000)
    payload = {
        480: b"\xf0" + silent[1:3],
        1_920: bytes([silent[0] | 1]) + silent[1:] * 2,
        2_880: bytes([silent[0] | 3, 3]) + silent[1:] * 3,
    }[ticks]
    assert opus.packet_ticks(payload) == ticks
    ear = Ear()
    ear.receive([payload] * 24, ticks=ticks)
    assert len(ear.pcm) == 24 * ticks // 3 * 2
    assert {len(piece) for piece in ear.pieces} == {640}


@needs_opus
def test_keys_between_speech_are_heard_and_cost_no_audio() -> None:
    ear = Ear()
    ear.receive(spoken(tone(700, 24_000, 200)))
    for digit in (1, 5, 11):
        start = ear.timestamp
        for n in range(1, 9):
            payload = struct.pack("!BBH", digit, 0x8A if n > 5 else 10, 960 * min(n, 6))
            ear.inbound.packet(1, 110, ear.seq, start, payload, ear.now)
            ear.seq = (ear.seq + 1) & 0xFFFF
            if n <= 6:
                ear.now += 20
                ear.timestamp = (ear.timestamp + 960) & 0xFFFFFFFF
            ear.inbound.beat(ear.now)
        ear.receive(spoken(tone(700, 24_000, 100)))
    assert ear.digits == "15#"
    assert ear.inbound.stats.lost == 0
    assert len(ear.pcm) == (200 + 3 * (120 + 100)) * 32


@needs_opus
def test_discontinuous_transmission_leaves_no_hole_in_the_timeline() -> None:
    ear = Ear()
    ear.receive(spoken(tone(700, 24_000, 400)))
    ear.receive([b"\x68"])
    for _ in range(19):
        ear.timestamp = (ear.timestamp + 960) & 0xFFFFFFFF
        ear.now += 20
        ear.inbound.beat(ear.now)
    before = len(ear.pcm)
    assert before >= (400 + 20 + 300) * 32
    ear.receive(spoken(tone(700, 24_000, 200)))
    assert len(ear.pcm) == (400 + 400 + 200) * 32


@needs_opus
def test_another_source_takes_over() -> None:
    ear = Ear()
    ear.receive(spoken(tone(700, 24_000, 200)))
    for number, payload in enumerate(spoken(tone(1_500, 24_000, 400))):
        ear.inbound.packet(2, 111, 7 + number, 99 + 960 * number, payload, ear.now + 20 * number)
    assert abs(loudest(ear.pcm[-6_400:], 16_000) - 1_500) <= 30
    assert len(ear.pcm) == 600 * 32


@needs_opus
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([0, 8, 110, 111, 13]),
            st.integers(0, 65_535),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=40),
            st.integers(0, 100),
        ),
        max_size=12,
    )
)
def test_no_packets_break_it(packets: list[tuple[int, int, int, int, bytes, int]]) -> None:
    ear = Ear()
    for ssrc, kind, seq, timestamp, payload, wait in packets:
        ear.now += wait
        ear.inbound.packet(ssrc, kind, seq, timestamp, payload, ear.now)
        ear.inbound.beat(ear.now)
    assert all(len(piece) == 640 for piece in ear.pieces)
