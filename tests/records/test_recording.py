from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import (
    ALAW_8K,
    MULAW_8K,
    PCM_8K,
    PCM_24K,
    AudioFormat,
    encode,
)
from flowcat_server.errors import RecordsError
from flowcat_server.records import wav
from flowcat_server.records.recorder import Recorder
from flowcat_server.records.recording import HOLD_MS, Recording

FRAME = 160
"""20 ms at 8 kHz."""


class Clock:
    """A call's clock that is moved by hand."""

    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


def tone(value: int, samples: int = FRAME) -> bytes:
    return np.full(samples, value, dtype=np.int16).tobytes()


def read(path: Path) -> npt.NDArray[np.int16]:
    with wave.open(str(path)) as file:
        assert file.getsampwidth() == 2
        data = file.readframes(file.getnframes())
        assert len(data) == file.getnframes() * 2 * file.getnchannels(), (
            "the header tells the truth"
        )
        return np.frombuffer(data, dtype=np.int16).reshape(-1, file.getnchannels())


class Desk:
    """A recording driven step by step, without the thread."""

    def __init__(
        self,
        tmp_path: Path,
        *,
        caller: AudioFormat = PCM_8K,
        agent: AudioFormat = PCM_8K,
        sample_rate: int = 8000,
        mono: bool = False,
    ) -> None:
        self.recorder = Recorder()
        self.clock = Clock()
        self.path = tmp_path / "2026-11-22" / "c1.wav"
        self.recording: Recording = self.recorder.open(
            self.path, caller=caller, agent=agent, sample_rate=sample_rate, mono=mono,
            now_ms=self.clock,
        )  # fmt: skip

    def at(self, ms: int) -> None:
        """Time passes; the thread has its turn."""
        self.clock.ms = ms
        self.recorder.tick()

    def done(self, ms: int) -> npt.NDArray[np.int16]:
        self.clock.ms = ms
        self.recording.end()
        self.recorder.tick()
        return read(self.path)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_both_sides_are_where_the_wire_had_them(desk: Desk) -> None:
    for number in range(100):
        desk.recording.caller(number * FRAME, tone(number + 1))
        if number % 25 == 0:
            desk.at(number * 20)
    desk.recording.agent(800, tone(7000, 4 * FRAME))

    left, right = desk.done(2000).T

    assert left.tolist() == np.repeat(np.arange(1, 101), FRAME).tolist()
    assert np.flatnonzero(right).tolist() == list(range(800, 800 + 4 * FRAME))


def test_a_gap_is_silence(desk: Desk) -> None:
    desk.recording.caller(0, tone(5))
    desk.at(30_000)
    desk.recording.caller(8000 * 30, tone(6))

    left = desk.done(31_000)[:, 0]

    assert len(left) == 31 * 8000
    assert np.flatnonzero(left).tolist() == [*range(FRAME), *range(240_000, 240_000 + FRAME)]


def test_late_audio_is_put_where_it_belongs(desk: Desk) -> None:
    """The loop was blocked for 400 ms: the thread wrote on, the frames came in a burst."""
    for number in range(50):
        desk.recording.caller(number * FRAME, tone(number + 1))
    desk.recording.agent(50 * FRAME, tone(9000, 20 * FRAME))
    desk.at(1000)
    desk.at(1400 + HOLD_MS)
    for number in range(50, 80):
        desk.recording.caller(number * FRAME, tone(number + 1))
    desk.at(1900)

    left, right = desk.done(2000).T

    assert left[: 80 * FRAME].tolist() == np.repeat(np.arange(1, 81), FRAME).tolist()
    assert np.flatnonzero(right).tolist() == list(range(50 * FRAME, 70 * FRAME))


def test_what_was_cleared_is_never_in_the_file(desk: Desk) -> None:
    desk.recording.agent(0, tone(100, 8000 * 3))  # three seconds, sent ahead
    desk.at(500)
    assert desk.recording.duration_ms == 500 - HOLD_MS
    assert len(read(desk.path)) == 2000, "what is not yet played is not in the file"
    desk.recording.agent_cleared(6400)
    desk.recording.agent(7200, tone(200))

    right = desk.done(3000)[:, 1]

    assert set(right[:6400].tolist()) == {100}
    assert np.flatnonzero(right[6400:]).tolist() == list(range(800, 800 + FRAME))
    assert set(right[7200 : 7200 + FRAME].tolist()) == {200}


def test_a_clear_that_comes_late_takes_back_what_was_written(desk: Desk) -> None:
    desk.recording.caller(0, tone(3, 8000 * 2))
    desk.recording.agent(0, tone(100, 8000 * 3))
    desk.at(2000)
    desk.recording.agent_cleared(4000)
    desk.at(2100)

    left, right = desk.done(2500).T

    assert set(right[:4000].tolist()) == {100}
    assert not right[4000:].any()
    assert set(left[: 8000 * 2].tolist()) == {3}, "the caller is untouched"


def test_speech_that_the_end_cut_off_is_not_recorded(desk: Desk) -> None:
    desk.recording.agent(0, tone(100, 8000 * 3))

    right = desk.done(1000)[:, 1]

    assert right.tolist() == [100] * 8000


@pytest.mark.parametrize("audio", [MULAW_8K, ALAW_8K], ids=["mulaw", "alaw"])
def test_g711_is_decoded(tmp_path: Path, audio: AudioFormat) -> None:
    desk = Desk(tmp_path, caller=audio, agent=audio)
    desk.recording.caller(0, encode(tone(8000), audio.encoding))
    desk.recording.agent(FRAME, encode(tone(-8000), audio.encoding))

    left, right = desk.done(40).T

    assert np.abs(left[:FRAME] - 8000).max() < 400
    assert np.abs(right[FRAME:] + 8000).max() < 400


def test_other_rates_are_resampled_in_place(tmp_path: Path) -> None:
    """A browser call: 24 kHz out, 16 kHz file; two bursts, one second apart."""
    desk = Desk(tmp_path, caller=PCM_8K, agent=PCM_24K, sample_rate=16_000)
    wave_in = (8000 * np.sin(np.arange(24_000 // 5) * 2 * np.pi * 440 / 24_000)).astype(np.int16)
    for start in (16_000, 32_000):
        for part in range(10):  # 20 ms pieces, whose ms-rounded positions may be off by one
            piece = wave_in[part * 480 : (part + 1) * 480].tobytes()
            desk.recording.agent(start + part * 320 + (part % 2) * 16, piece)
            desk.at(start // 16 + part * 20)
    right = desk.done(3000)[:, 1]

    for start in (16_000, 32_000):
        burst = right[start : start + 3200].astype(float)
        expected = 8000 * np.sin(np.arange(3200) * 2 * np.pi * 440 / 16_000)
        correlation = np.dot(burst, expected) / np.linalg.norm(burst) / np.linalg.norm(expected)
        assert correlation > 0.99
        assert not right[start - 400 : start - 20].any()
        assert not right[start + 3220 : start + 3600].any()


def test_mono_holds_the_sum_of_both(tmp_path: Path) -> None:
    desk = Desk(tmp_path, mono=True)
    desk.recording.caller(0, tone(30_000, 8000))
    desk.recording.agent(0, tone(1000, 8000))
    desk.recording.agent(8000, tone(9, 8000))
    desk.at(700)
    desk.recording.agent_cleared(4000)
    desk.recording.agent(6000, tone(20_000, 1000))

    mixed = desk.done(1000)

    assert mixed.shape == (8000, 1)
    assert set(mixed[:4000, 0].tolist()) == {31_000}
    assert set(mixed[4000:6000, 0].tolist()) == {30_000}
    assert set(mixed[6000:7000, 0].tolist()) == {32_767}, "clipped, not wrapped"
    assert not list(desk.path.parent.glob("*.part"))


def test_positions_where_no_audio_can_be_are_dropped(desk: Desk) -> None:
    desk.recording.caller(0, tone(1))
    desk.recording.caller(-FRAME, tone(2))
    desk.recording.caller(10**12, tone(3))
    desk.recording.agent(8000 * 3600, tone(4))

    assert len(desk.done(1000)) == 8000
    assert desk.recording.dropped == 3


def test_the_queue_is_bounded(desk: Desk) -> None:
    for number in range(20_000):
        desk.recording.caller(number * FRAME, tone(1))

    assert desk.recording.dropped == 14_000


def test_a_disk_that_fails_ends_the_recording_only(desk: Desk) -> None:
    desk.path.parent.write_text("a file where the folder should be")
    desk.recording.caller(0, tone(1, 8000))
    desk.at(1000)
    desk.recording.caller(8000, tone(1))
    desk.at(2000)

    assert desk.recording.failed
    desk.recording.end()
    desk.recorder.tick()
    assert desk.path.parent.is_file()


def test_an_existing_file_is_not_overwritten(desk: Desk) -> None:
    desk.path.parent.mkdir()
    desk.path.write_bytes(b"precious")
    desk.recording.caller(0, tone(1, 8000))
    desk.at(1000)

    assert desk.recording.failed
    assert desk.path.read_bytes() == b"precious"


def test_nothing_recorded_leaves_no_file(desk: Desk) -> None:
    desk.clock.ms = 0
    desk.recording.end()
    desk.recorder.tick()

    assert not desk.path.exists()


def test_an_hour_takes_no_memory(tmp_path: Path) -> None:
    desk = Desk(tmp_path, caller=MULAW_8K, agent=MULAW_8K)
    payload, speech = b"\x10" * FRAME, b"\x20" * (FRAME * 5)
    tracemalloc.start()
    for second in range(3600):
        for number in range(50):
            desk.recording.caller((second * 50 + number) * FRAME, payload)
        for number in range(10):  # sent 600 ms ahead
            desk.recording.agent(second * 8000 + 4800 + number * FRAME * 5, speech)
        desk.at(second * 1000 + 1000)
        if second == 60:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert after - before < 20_000
    assert peak - before < 2_000_000
    assert len(desk.done(3_600_000)) == 3600 * 8000


async def test_the_thread_writes_while_the_loop_is_blocked(tmp_path: Path) -> None:
    recorder = Recorder(interval_ms=10)
    recorder.start()
    recording = recorder.open(tmp_path / "c1.wav", caller=PCM_8K, agent=PCM_8K)
    try:
        for number in range(20):
            recording.caller(number * FRAME, tone(number + 1))
        time.sleep(0.4)  # noqa: ASYNC251 - the stall under test
        for number in range(20, 40):
            recording.caller(number * FRAME, tone(number + 1))
        duration = await recording.close(end_ms=800)
    finally:
        assert recorder.close()

    left = read(recording.path)[:, 0]
    assert duration == 800
    assert left.tolist() == np.repeat(np.arange(1, 41), FRAME).tolist()


async def test_many_recordings_are_closed_with_the_recorder(tmp_path: Path) -> None:
    recorder = Recorder(interval_ms=50)
    recorder.start()
    recordings = [
        recorder.open(tmp_path / f"c{number}.wav", caller=PCM_8K, agent=PCM_8K)
        for number in range(20)
    ]
    for recording in recordings:
        recording.caller(0, tone(5, 800))
    await asyncio.sleep(0.02)
    assert recorder.close()

    assert all(read(recording.path)[:800, 0].all() for recording in recordings)
    assert await asyncio.gather(*(recording.close() for recording in recordings))


KILLED = """
import sys, time
from pathlib import Path
from flowcat_server.core.audio import MULAW_8K
from flowcat_server.records.recorder import Recorder

recorder = Recorder(interval_ms=20)
recorder.start()
recording = recorder.open(Path(sys.argv[1]), caller=MULAW_8K, agent=MULAW_8K)
number = 0
while True:
    recording.caller(number * 160, b"\\x10" * 160)
    number += 1
    if recording.duration_ms > 300:
        print("ready", flush=True)
    time.sleep(0.002)
"""


def test_kill_9_leaves_a_file_that_plays(tmp_path: Path) -> None:
    path = tmp_path / "c1.wav"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    as_left = read(path)
    with path.open("ab") as file:
        file.write(b"\x01\x00\x02\x00\x03")  # written, but not yet counted in the header
    duration = wav.repair(path)
    repaired = read(path)

    assert len(as_left) >= 300 * 8
    assert len(set(as_left[:2400, 0].tolist())) == 1
    assert len(repaired) == len(as_left) + 1
    assert repaired[-1].tolist() == [1, 2]
    assert duration == len(repaired) * 1000 // 8000


@pytest.mark.parametrize("content", [b"", b"RIFF", b"x" * 100, b"\0" * 44])
def test_a_file_that_is_not_ours_is_not_repaired(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)

    with pytest.raises(RecordsError):
        wav.repair(path)
    assert path.read_bytes() == content


@given(st.binary(max_size=200), st.booleans())
def test_any_file_is_repaired_or_refused(content: bytes, ours: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.wav"
        path.write_bytes(wav.header(8000, 2, 1234) + content if ours else content)
        try:
            wav.repair(path)
        except RecordsError:
            assert not ours
        else:
            assert len(read(path)) == len(content) // 4
