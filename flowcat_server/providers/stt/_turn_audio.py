"""The sound of the caller's turn, kept until it is no longer needed for a transcript."""

from __future__ import annotations

import numpy as np

from flowcat_server.core.audio import PCM_16K, AudioFormat, Transcoder

LONGEST_MS = 25_000
"""More than this at once is decoded in parts."""
CUT_FROM_MS = 18_000
"""Where the search for the quietest place begins."""
LIMIT_MS = 120_000
"""When decoding is so far behind, the oldest sound is dropped."""
_BLOCK_MS = 20
_QUIET_BLOCKS = 8


class TurnAudio:
    """Collects sound in the call's format, gives PCM16 at 16 kHz."""

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._transcoder = Transcoder(audio, PCM_16K)
        self._pcm = bytearray()

    @property
    def pcm(self) -> bytearray:
        """What is held; do not keep it over an `add`."""
        return self._pcm

    @property
    def duration_ms(self) -> int:
        """Of what is held."""
        return PCM_16K.duration_ms(len(self._pcm))

    def add(self, payload: bytes) -> None:
        """The next sound."""
        self._pcm += self._transcoder.feed(payload)
        excess = len(self._pcm) - PCM_16K.bytes_for(LIMIT_MS)
        if excess > 0:
            del self._pcm[:excess]

    def drop(self, size: int) -> None:
        """Forget the first `size` bytes."""
        del self._pcm[:size]

    def clear(self) -> None:
        """Forget everything."""
        self._pcm.clear()
        self._transcoder = Transcoder(self._audio, PCM_16K)

    def cut(self) -> int:
        """Bytes up to the quietest 160 ms between `CUT_FROM_MS` and `LONGEST_MS`."""
        begin, end = PCM_16K.bytes_for(CUT_FROM_MS), PCM_16K.bytes_for(LONGEST_MS)
        samples = np.frombuffer(bytes(self._pcm[begin:end]), dtype="<i2").astype(np.float32)
        block = PCM_16K.bytes_for(_BLOCK_MS) // 2
        power = (samples[: len(samples) // block * block].reshape(-1, block) ** 2).mean(axis=1)
        if len(power) < _QUIET_BLOCKS:
            return min(end, len(self._pcm))
        smooth = np.convolve(power, np.ones(_QUIET_BLOCKS), mode="valid")
        middle = int(smooth.argmin()) + _QUIET_BLOCKS // 2
        return begin + middle * block * 2
