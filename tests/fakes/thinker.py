"""A language model that does exactly what a test lists, and keeps what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from flowcat_server.core.interfaces import ModelEvent, ModelRequest, TextDelta, ToolCall, Usage
from flowcat_server.errors import ProviderError

Step = str | float | ToolCall | Usage | ProviderError
"""Text, a wait in seconds, a tool call, the tokens so far, or a failure."""


class Thinker:
    """Answers its nth request with the nth list of steps; the last again for later ones."""

    def __init__(self, *answers: Sequence[Step]) -> None:
        self._answers = answers
        self.requests: list[ModelRequest] = []
        self.cancelled = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Take the steps of the next answer."""
        number = min(len(self.requests), len(self._answers) - 1)
        self.requests.append(request)
        try:
            for step in self._answers[number]:
                if isinstance(step, ProviderError):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield TextDelta(step) if isinstance(step, str) else step
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
