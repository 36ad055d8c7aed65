"""Recordings: stereo WAV, the caller left, the agent as it was heard right.

Every piece of audio comes with its position on the wire, in samples of the call's clock at the
recording's rate, so a stalled event loop moves nothing. Handing it over appends a reference to a
deque; one thread for the whole process decodes, mixes and writes, each recording about once a
second and one after the other, so that it never holds the interpreter for long.

Theory of operation. The file is written in order up to the *horizon*: what is certainly played,
that is the call's clock (or the caller's newest audio, if that is ahead) minus `HOLD_MS`. Speech
of the agent that was sent ahead waits in memory until its time has passed; a barge-in takes it
away again. What arrives behind the horizon after all (audio that was late by a stall, a clear
that took long to come back) is patched into the file where it belongs. Gaps are silence. The
header is brought up to date with every write: a killed process leaves a file that plays.

A mono recording is written as stereo and mixed when the call ends, because audio cannot be taken
out of a mix again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from flowcat_server.core.audio import AudioFormat
from flowcat_server.records import wav
from flowcat_server.records.track import Samples, Track

if TYPE_CHECKING:
    from flowcat_server.records.recorder import Recorder

log = structlog.get_logger()

HOLD_MS = 250
"""How far behind the call's clock the file is written."""
MAX_WAITING = 6_000
"""Pieces of audio that may wait for the writer thread (a minute of a call); more are dropped."""
MAX_MS = 6 * 3_600_000
"""The longest recording; what lies behind it is dropped."""
MAX_AHEAD_MS = 120_000
"""Speech may be given this long before it is played."""
_BLOCK_MS = 5_000
_CALLER, _AGENT, _CLEAR = 0, 1, 2
_FRAME = 4
"""Bytes of one sample of both sides."""
_BROKEN = (OSError, OverflowError, RuntimeError, ValueError)
"""What ends one recording and must not end the thread that writes all of them."""


class Recording:
    """One call's recording; made by `Recorder.open`.

    `caller`, `agent` and `agent_cleared` belong to the audio path: they never block or fail.
    """

    def __init__(
        self,
        recorder: Recorder,
        path: Path,
        *,
        caller: AudioFormat,
        agent: AudioFormat,
        sample_rate: int,
        mono: bool,
        now_ms: Callable[[], int] | None,
    ) -> None:
        self.path = path
        self.dropped = 0
        """Pieces of audio that found the queue full, or lay where no audio can be."""
        self.failed = ""
        """Why nothing is written any more; empty while all is well."""
        self.duration_ms = 0
        """Written so far."""
        self._recorder = recorder
        self._inbox: list[tuple[int, int, bytes]] = []
        """Filled by the loop, emptied from the front by the thread."""
        self.sample_rate = self._rate = sample_rate
        self._mono = mono
        self._now_ms = now_ms or _clock()
        self._tracks = (Track(caller, sample_rate), Track(agent, sample_rate))
        self._limit = MAX_MS // 1000 * sample_rate
        self._file = -1
        self._written = 0
        self._end_ms: int | None = None
        self._closed = False
        """The file is complete."""
        self._waiter: Future[int] | None = None
        """Waits for that."""
        self._ended = False

    # --- on the audio path --------------------------------------------------------------------

    def caller(self, position: int, payload: bytes) -> None:
        """Audio of the caller, in the caller's format, that begins at `position`."""
        if len(self._inbox) < MAX_WAITING:
            self._inbox.append((_CALLER, position, payload))
        else:
            self.dropped += 1

    def agent(self, position: int, payload: bytes) -> None:
        """Audio of the agent that will be played from `position` on, in the agent's format."""
        if len(self._inbox) < MAX_WAITING:
            self._inbox.append((_AGENT, position, payload))
        else:
            self.dropped += 1

    def agent_cleared(self, position: int) -> None:
        """Nothing the agent was given to say so far is played at or after `position`."""
        self._inbox.append((_CLEAR, position, b""))

    def end(self, end_ms: int | None = None) -> None:
        """The call is over: the agent's audio after `end_ms` of the call was never heard.

        Without `end_ms`, the moment of this call. Idempotent; the rest happens in the thread.
        """
        if not self._ended:
            self._ended = True
            self._end_ms = self._now_ms() if end_ms is None else end_ms
            self._recorder.finish(self)

    async def close(self, end_ms: int | None = None, timeout_ms: int = 5_000) -> int:
        """As `end`, and wait until the file is complete; returns its length in ms.

        0: nothing was recorded. After `timeout_ms` the thread goes on alone.
        """
        self.end(end_ms)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await asyncio.shield(asyncio.wrap_future(self._wait()))
        except TimeoutError:
            log.warning("recording_not_closed", waited_ms=timeout_ms)
            return self.duration_ms

    def _wait(self) -> Future[int]:
        waiter = self._waiter = self._waiter or Future()
        if self._closed:
            self._tell(waiter)
        return waiter

    # --- in the writer thread -----------------------------------------------------------------

    def write(self) -> None:
        """Write what has been played since the last time. Called by the recorder's thread."""
        if self.failed or self._closed:
            self._inbox.clear()
            return
        try:
            self._take()
            self._write_until(self._newest() - self._samples(HOLD_MS))
        except _BROKEN as error:
            self._fail(error)

    def finish(self) -> None:
        """Write the rest and close the file. Called by the recorder's thread."""
        if self._closed:
            return
        try:
            if not self.failed:
                self._finish()
        except _BROKEN as error:
            self._fail(error)
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._closed = True
            if self._waiter is not None:
                self._tell(self._waiter)

    def _tell(self, waiter: Future[int]) -> None:
        with suppress(InvalidStateError):  # the loop and the thread may both have seen the end
            waiter.set_result(self.duration_ms)

    def _finish(self) -> None:
        self._take()
        for track in self._tracks:
            track.settle()
        end = self._samples(self._end_ms or 0)
        self._clear(end)
        self._write_until(max(end, self._tracks[_CALLER].end))
        if self._mono and self._file >= 0:
            _mix_down(self.path, self._file, self._rate)

    def _samples(self, ms: int) -> int:
        return ms * self._rate // 1000

    def _newest(self) -> int:
        return max(self._tracks[_CALLER].end, self._samples(self._now_ms()))

    def _fail(self, error: Exception) -> None:
        self.failed = str(getattr(error, "strerror", None) or type(error).__name__)
        self._inbox.clear()
        log.error("recording_failed", file=self.path.name, error=self.failed)

    def _take(self) -> None:
        """Move what is in the inbox to the tracks, in order."""
        inbox = self._inbox
        tracks = self._tracks
        for track in tracks:
            track.fresh = False
        limit = min(self._limit, self._newest() + self._samples(MAX_AHEAD_MS))
        taken = inbox[:]
        del inbox[: len(taken)]
        for kind, position, payload in taken:
            if kind == _CLEAR:
                tracks[_AGENT].settle()
                self._clear(position)
            elif not tracks[kind].add(position, payload, limit):
                self.dropped += 1
        for track in tracks:
            track.gather()
            if not track.fresh:
                track.settle()

    def _clear(self, position: int) -> None:
        track = self._tracks[_AGENT]
        track.cut(position)
        written = min(track.written, self._written)
        if position < written:
            silence = np.zeros(written - position, dtype=np.int16)
            self._patch(max(0, position), silence, _AGENT)
            track.written = position

    def _write_until(self, horizon: int) -> None:
        horizon = min(horizon, self._limit)
        block = self._samples(_BLOCK_MS)
        start = self._written
        for channel, track in enumerate(self._tracks):
            for position, samples in track.take_before(start):
                self._patch(position, samples, channel)
        while start < horizon:
            end = min(start + block, horizon)
            self._write_block(start, end)
            start = end
        if self._file >= 0:
            size = self._written * _FRAME
            os.ftruncate(self._file, wav.HEADER_SIZE + size)
            os.pwrite(self._file, wav.header(self._rate, 2, size), 0)
            self.duration_ms = self._written * 1000 // self._rate

    def _write_block(self, start: int, end: int) -> None:
        frames: Samples | None = None
        for channel, track in enumerate(self._tracks):
            for position, samples in track.take_before(end):
                if frames is None:
                    frames = np.zeros((end - start, 2), dtype=np.int16)
                at = position - start
                frames[at : at + len(samples), channel] = samples
        self._open()
        if frames is not None:  # silence is left to be a hole in the file
            _write_all(self._file, frames.tobytes(), wav.HEADER_SIZE + start * _FRAME)
        self._written = end

    def _patch(self, position: int, samples: Samples, channel: int) -> None:
        """Change one side of what is in the file already."""
        size, offset = len(samples) * _FRAME, wav.HEADER_SIZE + position * _FRAME
        there = bytearray(os.pread(self._file, size, offset).ljust(size, b"\0"))
        frames = np.frombuffer(there, dtype=np.int16).reshape(-1, 2)
        frames[:, channel] = samples
        _write_all(self._file, bytes(there), offset)

    def _open(self) -> None:
        if self._file < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
            os.pwrite(self._file, wav.header(self._rate, 2, 0), 0)


def _clock() -> Callable[[], int]:
    start = time.monotonic_ns()
    return lambda: (time.monotonic_ns() - start) // 1_000_000


def _write_all(file: int, data: bytes, offset: int) -> None:
    done = os.pwrite(file, data, offset)
    while done < len(data):  # a disk that is nearly full takes less than it is given
        done += os.pwrite(file, data[done:], offset + done)


def _mix_down(path: Path, file: int, rate: int) -> None:
    """Replace the stereo file by one that holds the sum of both sides."""
    mixed = path.with_suffix(".part")
    offset, total = wav.HEADER_SIZE, 0
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
    with os.fdopen(os.open(mixed, flags, 0o600), "wb") as target:
        target.write(wav.header(rate, 1, 0))
        while data := os.pread(file, 1 << 18, offset):
            offset += len(data)
            pair = np.frombuffer(data, dtype=np.int16).reshape(-1, 2)
            samples = np.clip(pair.sum(axis=1, dtype=np.int32), -32768, 32767).astype(np.int16)
            total += target.write(samples.tobytes())
        target.seek(0)
        target.write(wav.header(rate, 1, total))
    mixed.replace(path)
