"""A speech-to-speech vendor whose every event the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Audio,
    CallerSpeaking,
    RealtimeEvent,
    RealtimeInbox,
    RealtimeSetup,
    ResponseEnded,
)


class Vendor:
    """What `send` is given is said, by the session under way or else the next one; an error ends
    the session, and so does None."""

    chunk_ms = 20

    def __init__(self, audio: AudioFormat = PCM_8K) -> None:
        self.formats = (audio,)
        self.setups: list[RealtimeSetup] = []
        """Of every session so far."""
        self.got: list[Any] = []
        """Signals, in order."""
        self.audio: list[Audio] = []
        self._events: asyncio.Queue[RealtimeEvent | Exception | None] = asyncio.Queue()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def converse(
        self, setup: RealtimeSetup, inbox: RealtimeInbox
    ) -> AsyncGenerator[RealtimeEvent, None]:
        self.setups.append(setup)
        reading = asyncio.ensure_future(self._read(inbox))
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            reading.cancel()

    async def _read(self, inbox: RealtimeInbox) -> None:
        while items := await inbox.get():
            for item in items:
                (self.audio if isinstance(item, Audio) else self.got).append(item)

    def send(self, *happened: RealtimeEvent | Exception | None) -> None:
        for event in happened:
            self._events.put_nowait(event)

    def all(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.got if isinstance(item, kind)]


def sound(item: str, ms: int = 1000) -> AgentAudio:
    return AgentAudio(b"\x00\x40" * (PCM_8K.sample_rate * ms // 1000), item)


def says(item: str, text: str, ms: int = 1000) -> tuple[RealtimeEvent, ...]:
    """A whole response."""
    return AgentTranscript(text, item), sound(item, ms), ResponseEnded(item)


def turn_of(item: str = "") -> tuple[RealtimeEvent, ...]:
    return CallerSpeaking(True, item), CallerSpeaking(False, item)
