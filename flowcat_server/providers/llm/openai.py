"""OpenAI-compatible chat completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.providers import registry
from flowcat_server.providers.registry import Settings


class ChatOptions(registry.Options):
    """Options of every OpenAI-compatible model."""

    temperature: float | None = None
    extra: Mapping[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a vendor's chat completions differ from OpenAI's."""


class OpenAiModel:
    """A model behind an OpenAI-compatible chat completions endpoint."""

    def __init__(self, settings: Settings, dialect: Dialect) -> None:
        self._settings, self._dialect = settings, dialect

    async def start(self) -> None:
        """Nothing to load."""

    async def reply(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Stream one reply."""
        raise NotImplementedError
        yield

    async def close(self) -> None:
        """The HTTP client is shared and closed by its owner."""
