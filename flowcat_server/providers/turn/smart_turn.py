"""smart-turn: a small Whisper encoder that hears whether a sentence is over.

It is given the last 8 s of the caller, silence in front where there is less. Source of the model
and of what it expects: https://github.com/pipecat-ai/smart-turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flowcat_server.core.audio import PCM_16K, AudioFormat, Transcoder
from flowcat_server.errors import ConfigError, Problem
from flowcat_server.providers.assets import Asset, verify
from flowcat_server.providers.mel import HOP, log_mel
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.workers import Workers

MODEL = Asset(
    "pipecat",
    "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
    "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
    "pipecat-ai==1.14.0",
    alone=True,
)
NAME = "v3.2"
WINDOW_MS = 8000
_FRAMES = WINDOW_MS // 10
_SAMPLES = _FRAMES * HOP
_QUIET = 1e-7
"""Added to the variance, so that silence can be divided by it."""


class SmartTurnOptions(Options):
    """How sure it has to be."""

    threshold: float = Field(0.5, gt=0, lt=1)
    """Below this probability the caller is taken to go on."""
    threads: int = Field(1, ge=1, le=16)
    """Pauses judged at the same time."""


class SmartTurn:
    """One model for all calls, off the event loop."""

    window_ms = WINDOW_MS

    def __init__(self, options: SmartTurnOptions) -> None:
        self._threshold = options.threshold
        self._workers = Workers("smart-turn", options.threads)
        self._session: Any = None

    async def start(self) -> None:
        """Load the model; raises `AssetError` where it is not installed."""
        self._session = await asyncio.to_thread(_load)

    async def finished(self, payload: bytes, audio: AudioFormat, owner: Hashable) -> bool:
        """Whether a turn that ends with this sound is over."""

        def judge(cancelled: threading.Event) -> float:
            del cancelled
            return self._probability(payload, audio)

        return await self._workers.run(judge, owner=owner) >= self._threshold

    async def close(self) -> None:
        """End the threads."""
        self._workers.close()

    def _probability(self, payload: bytes, audio: AudioFormat) -> float:
        (answer,) = self._session.run(None, {"input_features": features(payload, audio)[None]})
        return float(answer[0].item())


def features(payload: bytes, audio: AudioFormat) -> npt.NDArray[np.float32]:
    """What the model is given: the spectrogram (80 bands, 800 frames) of the last 8 s."""
    transcoder = Transcoder(audio, PCM_16K, live=False)
    pcm = transcoder.feed(payload) + transcoder.flush()
    heard = np.frombuffer(pcm, "<i2")[-_SAMPLES:].astype(np.float32) * np.float32(1 / 32768)
    samples = np.zeros(_SAMPLES, np.float32)
    samples[_SAMPLES - len(heard) :] = heard
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + np.float32(_QUIET))
    return log_mel(samples, _FRAMES)


def _load() -> Any:
    import onnxruntime as ort

    path = verify(MODEL)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"input_features": np.zeros((1, 80, _FRAMES), np.float32)})
    return session


def create(settings: Settings) -> SmartTurn:
    """Make the provider."""
    if settings.model not in ("", NAME):
        problem = f"smart-turn has no model {settings.model!r}; there is {NAME}"
        raise ConfigError(Problem(problem, "topology.turn.model"))
    return SmartTurn(settings.options)


PROVIDER = Provider(
    create=create,
    options=SmartTurnOptions,
    requires=("onnxruntime",),
    extra="vad",
    assets=(MODEL,),
    local=True,
    status="local",
    title="smart-turn v3.2: hears whether a sentence is over, in 23 languages",
)
