"""Asks a model whether the caller has finished, at each pause, beside the transcript."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import TurnModel
from flowcat_server.errors import ProviderError, ProviderTimeout
from flowcat_server.processors.call import Call

DEADLINE_MS = 1000
"""A judgement that is later than the longest wait is of no use."""


class Judge:
    """One call's questions to the model."""

    def __init__(self, call: Call, name: str, model: TurnModel, audio: AudioFormat) -> None:
        self._call = call
        self._name = name
        self._model = model
        self._audio = audio
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._most = audio.bytes_for(model.window_ms)
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def hear(self, payload: bytes) -> None:
        """The next of the caller's audio."""
        self._kept.append(payload)
        self._size += len(payload)
        while self._size - len(self._kept[0]) >= self._most:
            self._size -= len(self._kept.popleft())

    def ask(self, answer: Callable[[bool], None]) -> None:
        """The caller has paused; `answer` is told whether they have finished, if it is known."""
        self.cancel()
        heard = b"".join(self._kept)[-self._most :]
        self._task = self._call.spawn("judge", self._judge(heard, answer))

    def cancel(self) -> None:
        """The caller has gone on, or the turn is over."""
        if self._task is not None:
            self._task.cancel()

    async def _judge(self, heard: bytes, answer: Callable[[bool], None]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_MS / 1000):
                finished = await self._model.finished(heard, self._audio, self._call.id)
        except TimeoutError as error:
            self._trouble(ProviderTimeout(self._name, f"silent for {DEADLINE_MS} ms"), error)
        except ProviderError as error:
            self._trouble(error, None)
        else:
            answer(finished)

    def _trouble(self, error: ProviderError, cause: BaseException | None) -> None:
        """The words alone decide then; it is told once in a call."""
        error.__cause__ = cause
        if not self._failed:
            self._failed = True
            self._call.trouble("turn", "turn_failed", error)
