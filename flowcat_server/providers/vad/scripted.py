"""`scripted`: voice activity by loudness alone.

Deterministic and without memory: a chunk is speech when its root mean square exceeds a fixed
threshold. Good for tones in tests; useless on a street.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from flowcat_server.core.audio import PCM_8K, PCM_BYTES, level
from flowcat_server.providers.registry import Options, Provider, Settings

CHUNK_MS = 32
_CHUNK_BYTES = PCM_8K.bytes_for(CHUNK_MS)
_BYTES_PER_MS = PCM_8K.bytes_for(1)


class ScriptedVadOptions(Options):
    """What counts as voice."""

    threshold: int = Field(default=500, ge=1, le=32767)
    """Root mean square of 16-bit samples above which a chunk is speech."""


class ScriptedVad:
    """Loudness against a threshold."""

    format = PCM_8K

    def __init__(self, options: ScriptedVadOptions) -> None:
        self._threshold = options.threshold

    async def start(self) -> None:
        """Nothing to load."""

    def open(self, on_chunk: Callable[[int, float], None]) -> ScriptedVadStream:
        """Start a stream; `on_chunk` is called from inside `ScriptedVadStream.feed`."""
        return ScriptedVadStream(self._threshold, on_chunk)

    async def close(self) -> None:
        """Nothing to stop."""


class ScriptedVadStream:
    """The voice activity of one call."""

    __slots__ = ("_on_chunk", "_rest", "_threshold")

    chunk_ms = CHUNK_MS

    def __init__(self, threshold: int, on_chunk: Callable[[int, float], None]) -> None:
        self._threshold = threshold
        self._on_chunk: Callable[[int, float], None] | None = on_chunk
        self._rest = b""

    def feed(self, pcm: bytes, at_ms: int) -> None:
        """Judge every chunk that this audio completes."""
        data = self._rest + pcm
        size = len(data)
        start = 0
        while size - start >= _CHUNK_BYTES:
            on_chunk, chunk = self._on_chunk, data[start : start + _CHUNK_BYTES]
            if on_chunk is None:
                return
            start += _CHUNK_BYTES
            voiced = level(chunk, PCM_BYTES) > self._threshold
            on_chunk(at_ms - (size - start) // _BYTES_PER_MS, 1.0 if voiced else 0.0)
        self._rest = data[start:]

    def close(self) -> None:
        """No more calls back."""
        self._on_chunk = None


def create(settings: Settings) -> ScriptedVad:
    """Create the provider."""
    return ScriptedVad(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedVadOptions,
    local=True,
    status="built-in",
    title="Voice activity by loudness; for tests with tones.",
)
