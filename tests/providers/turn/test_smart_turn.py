"""The end-of-turn model, with the real file where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K, AudioFormat, encode
from flowcat_server.errors import AssetError, ConfigError
from flowcat_server.providers.assets import locate
from flowcat_server.providers.turn.smart_turn import (
    MODEL,
    PROVIDER,
    SmartTurn,
    SmartTurnOptions,
    features,
)
from tests.e2e.conftest import Speech
from tests.e2e.conftest import speech as speech_fixture
from tests.fakes.settings import settings

speech = speech_fixture


def installed() -> Path | None:
    try:
        return locate(MODEL)
    except AssetError:
        return None


needs_model = pytest.mark.skipif(installed() is None, reason=f"needs the model: {MODEL.install}")


def sound(seconds: float) -> bytes:
    chance = np.random.default_rng(4)
    noise = chance.standard_normal(int(seconds * 16_000)) * np.hanning(int(seconds * 16_000))
    return (noise * 8000).astype("<i2").tobytes()


@needs_model
@pytest.mark.parametrize("seconds", [0.5, 3.0, 8.0, 11.0])
def test_the_features_are_those_of_its_authors(seconds: float):
    """Held against the code that comes with the model."""
    path = installed()
    assert path is not None
    file = path.parents[1] / "_whisper_features.py"
    spec = importlib.util.spec_from_file_location("authors_features", file)
    assert spec is not None
    assert spec.loader is not None
    theirs: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    samples = np.frombuffer(sound(seconds), "<i2")[-128_000:].astype(np.float32) / 32768
    padded = np.pad(samples, (128_000 - len(samples), 0))
    expected = theirs.compute_whisper_log_mel_features(padded, do_normalize=True)
    found = features(sound(seconds), PCM_16K)
    assert found.shape == expected.shape == (80, 800)
    # The last frame looks beyond the end, where theirs mirrors the sound and ours is silent.
    assert np.abs(found[:, :-1] - expected[:, :-1]).max() < 1e-3


@pytest.mark.parametrize("audio", [MULAW_8K, PCM_8K, PCM_16K], ids=str)
@pytest.mark.parametrize("payload_ms", [0, 20, 4_000, 20_000])
def test_any_length_and_format_has_features(audio: AudioFormat, payload_ms: int):
    silence = audio.silence(payload_ms)
    noise = encode(sound(1.0)[: 2 * audio.bytes_for(payload_ms) // audio.sample_bytes], "pcm16")
    for payload in (silence, noise[: len(noise) // 2 * 2]):
        assert np.isfinite(features(payload, audio)).all()


@needs_model
@pytest.mark.models
async def test_it_hears_who_goes_on(speech: Speech):
    model = SmartTurn(SmartTurnOptions())
    await model.start()
    try:
        verdicts = {
            text: await model.finished(await speech.say(text, MULAW_8K), MULAW_8K, "call")
            for text in (
                "What are your opening hours?",
                "I would like to book a visit for Friday.",
                "My phone number is, uh,",
                "I was wondering if",
            )
        }
    finally:
        await model.close()
    assert list(verdicts.values()) == [True, True, False, False]


async def test_without_its_file_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flowcat_server.providers.assets.find_spec", lambda name: None)
    monkeypatch.setattr("flowcat_server.providers.assets._verified", {})
    model = SmartTurn(SmartTurnOptions())
    with pytest.raises(AssetError, match="pip install --no-deps 'pipecat-ai==1.14.0'"):
        await model.start()
    await model.close()


def test_an_unknown_model_is_refused():
    with pytest.raises(ConfigError, match=r"there is v3\.2"):
        PROVIDER.create(settings(PROVIDER, model="v9"))
