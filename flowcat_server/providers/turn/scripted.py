"""`scripted`: judges one pause after the other as a script says."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from pydantic import Field

from flowcat_server.core.audio import AudioFormat
from flowcat_server.providers.drills import FaultOptions, FaultPlan
from flowcat_server.providers.registry import Provider, Settings


class ScriptedTurnOptions(FaultOptions):
    """What is judged, and how late."""

    finished: tuple[bool, ...] = ()
    """One for each pause of the process; true once they are used up."""
    delay_ms: int = Field(default=0, ge=0)


class ScriptedTurn:
    """Answers each pause with the script's next judgement."""

    window_ms = 8000

    def __init__(self, options: ScriptedTurnOptions) -> None:
        self._options = options
        self._faults = FaultPlan(options)
        self._judged = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def finished(self, payload: bytes, audio: AudioFormat, owner: Hashable) -> bool:
        """The next judgement."""
        trouble = self._faults.take()
        await trouble.before()
        await asyncio.sleep(self._options.delay_ms / 1000)
        self._judged += 1
        script = self._options.finished
        return script[self._judged - 1] if self._judged <= len(script) else True

    async def close(self) -> None:
        """Nothing to stop."""


def create(settings: Settings) -> ScriptedTurn:
    """Create the provider."""
    return ScriptedTurn(settings.options)


PROVIDER = Provider(
    create=create,
    options=ScriptedTurnOptions,
    local=True,
    status="built-in",
    title="Judges one pause after the other as a script says; for tests.",
)
