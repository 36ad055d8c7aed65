"""AudioSocket: frames are cut out of anything, and every rate is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcat_server.carriers.audiosocket import AUDIO, HEADER, Frames, Stream
from flowcat_server.core.carrier import Ignored, Started

frame = st.builds(
    lambda kind, body: HEADER.pack(kind, len(body)) + body,
    st.integers(0, 255),
    st.binary(max_size=400),
)


@given(st.lists(frame, max_size=8), st.lists(st.integers(1, 500), max_size=20))
@settings(max_examples=150)
def test_frames_are_cut_wherever_the_packets_end(frames: list[bytes], cuts: list[int]):
    data = b"".join(frames)
    cutter = Frames()
    found: list[bytes] = []
    for size in cuts:
        found += cutter.cut(data[:size])
        data = data[size:]
    found += cutter.cut(data)
    assert found == frames


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(max_examples=150)
def test_no_bytes_break_it_and_no_frame_is_longer_than_it_may_be(pieces: list[bytes]):
    cutter, stream = Frames(), Stream()
    for piece in pieces:
        for each in cutter.cut(piece):
            assert len(each) <= HEADER.size + 0xFFFF
            stream.feed(each, binary=True)


@pytest.mark.parametrize(("kind", "rate"), AUDIO.items())
def test_every_rate(kind: int, rate: int):
    stream = Stream()
    assert stream.feed(HEADER.pack(1, 16) + bytes(16), binary=True) == Ignored("UUID")
    fed = stream.feed(HEADER.pack(kind, 4) + bytes(4), binary=True)
    assert isinstance(fed, Started)
    assert fed.input_format is not None
    assert fed.input_format.sample_rate == rate
    size = fed.sending.unit
    assert size == rate * 20 // 1000 * 2
    assert stream.audio(bytes(size)) == HEADER.pack(kind, size) + bytes(size)
