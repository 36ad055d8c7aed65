"""A reply begun on a guess: the caller has paused, and may or may not have finished.

The model is asked while endpointing still waits. Its answer is read ahead and kept; nothing of it
is said, entered in the conversation or remembered before the turn has ended with the same words
and the same state of the call. Otherwise it is thrown away. Of what the model calls only tools
without side effect are run ahead, and none behind a call that might have changed their input.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from flowcat_server.core.interfaces import ModelEvent, ModelRequest, TextDelta, ToolCall, Usage
from flowcat_server.core.language import tokens
from flowcat_server.errors import ProviderError
from flowcat_server.processors.actions import Actions, ToolResult
from flowcat_server.processors.call import Call

AHEAD = 512
"""Events that the model may be ahead of the end of the turn; then it waits."""


class Guess:
    """One request to the model, and what it has answered so far."""

    def __init__(
        self,
        call: Call,
        request: ModelRequest,
        ask: Callable[[], AbstractAsyncContextManager[AsyncGenerator[ModelEvent, None]]],
        actions: Actions,
    ) -> None:
        """Ask the model.

        Args:
            call: Owns the tasks.
            request: What is asked; its last message is what the caller is taken to have said.
            ask: Opens the model's stream for it.
            actions: Runs tools, and knows which may be run ahead.
        """
        self._call = call
        self._request = request
        self._ask = ask
        self._actions = actions
        self._events: asyncio.Queue[ModelEvent | ProviderError | None] = asyncio.Queue(AHEAD)
        self._results: dict[str, asyncio.Future[ToolResult]] = {}
        self._tasks = [call.spawn("guess", self._read())]
        self._pure = True
        """The answer so far changes nothing that a tool may see."""

    def says(self, text: str) -> bool:
        """Whether it was asked for these words of the caller's, whatever their punctuation."""
        return tokens(text) == tokens(self._request.messages[-1].text)

    def answers(self, request: ModelRequest) -> bool:
        """Whether it can stand for the answer to this request; a failure is an answer too."""
        mine, theirs = self._request.messages, request.messages
        if not theirs or theirs[-1].role != "user":
            return False
        same = replace(request, messages=[*theirs[:-1], mine[-1]])
        return same == self._request and self.says(theirs[-1].text)

    def result(self, call: ToolCall) -> asyncio.Future[ToolResult] | None:
        """What a tool that was run ahead comes to; None: it was not."""
        return self._results.get(call.id)

    async def stream(self) -> AsyncGenerator[ModelEvent, None]:
        """The model's answer from its beginning; raises what the model fails with."""
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, ProviderError):
                    raise event
                yield event
        finally:
            self._tasks[0].cancel()

    def drop(self) -> None:
        """Throw it away."""
        for task in self._tasks:
            task.cancel()

    async def _read(self) -> None:
        end: ProviderError | None = None
        try:
            async with self._ask() as stream:
                async for event in stream:
                    self._look(event)
                    await self._events.put(event)
        except ProviderError as error:
            end = error
        await self._events.put(end)

    def _look(self, event: ModelEvent) -> None:
        if isinstance(event, TextDelta | Usage):
            return
        if self._pure and isinstance(event, ToolCall) and self._actions.harmless(event):
            self._results[event.id] = asyncio.get_running_loop().create_future()
            self._tasks.append(self._call.spawn("guess-tool", self._run_tool(event)))
        else:
            self._pure = False

    async def _run_tool(self, call: ToolCall) -> None:
        result = self._results[call.id]
        try:
            result.set_result(await self._actions.attempt(call))
        finally:
            result.cancel()  # unless there is one
