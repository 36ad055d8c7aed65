"""The thread that writes all recordings of the process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from flowcat_server.core.audio import AudioFormat
from flowcat_server.records.recording import Recording

log = structlog.get_logger()

INTERVAL_MS = 1_000


class Recorder:
    """Opens recordings and writes each about once in `interval_ms`.

    `start` before the first call, `close` after the last.
    """

    def __init__(self, interval_ms: int = INTERVAL_MS) -> None:
        self._interval = interval_ms / 1000
        self._recordings: list[Recording] = []
        self._dropped = 0
        """Pieces that finished recordings had dropped."""
        self._finished: queue.SimpleQueue[Recording | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def close(self, timeout_ms: int = 5_000) -> bool:
        """Finish all recordings and stop; False when that took longer. Blocks."""
        if self._thread is None:
            return True
        self._finished.put(None)
        self._thread.join(timeout_ms / 1000)
        stopped = not self._thread.is_alive()
        self._thread = None
        return stopped

    def open(
        self,
        path: Path,
        *,
        caller: AudioFormat,
        agent: AudioFormat,
        sample_rate: int = 8_000,
        mono: bool = False,
        now_ms: Callable[[], int] | None = None,
    ) -> Recording:
        """Begin a recording; nothing is written yet, and this does not block.

        Args:
            path: Must not exist yet.
            caller: Format of what `Recording.caller` is given.
            agent: Format of what `Recording.agent` is given.
            sample_rate: Of the file, Hertz.
            mono: One channel with both sides.
            now_ms: The call's clock, safe to call from another thread; 0 is position 0. The
                default starts now.
        """
        recording = Recording(
            self,
            path,
            caller=caller,
            agent=agent,
            sample_rate=sample_rate,
            mono=mono,
            now_ms=now_ms,
        )
        self._recordings.append(recording)
        return recording

    @property
    def dropped(self) -> int:
        """Pieces of audio that recordings had to drop, of live and of finished ones."""
        return self._dropped + sum(recording.dropped for recording in list(self._recordings))

    def finish(self, recording: Recording) -> None:
        """Called by `Recording.end`."""
        self._finished.put(recording)

    def tick(self) -> None:
        """Do once, for all recordings, what the thread does all the time."""
        while not self._finished.empty():
            self._finish(self._finished.get())
        for recording in list(self._recordings):
            recording.write()

    def _run(self) -> None:
        while True:
            recordings = list(self._recordings)
            if not recordings and not self._pause(self._interval):
                break
            for recording in recordings:
                if not self._pause(self._interval / len(recordings)):
                    return
                recording.write()

    def _pause(self, seconds: float) -> bool:
        """Wait, finishing what is finished at once; False when the thread is to stop."""
        try:
            finished = self._finished.get(timeout=seconds)
        except queue.Empty:
            return True
        if finished is None:
            for recording in list(self._recordings):
                recording.end()
                self._finish(recording)
            return False
        self._finish(finished)
        return True

    def _finish(self, recording: Recording | None) -> None:
        if recording is not None:
            recording.finish()
            if recording in self._recordings:
                self._recordings.remove(recording)
                self._dropped += recording.dropped
