"""What a call has used: characters for voices, audio, tokens, and what of it was heard. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowcat_server.core.events import UsageCounted
from flowcat_server.core.interfaces import Usage
from flowcat_server.core.speech import Reply

HEARD = "heard"
"""The kind of what reached the caller, by the ledger; it has no provider."""


@dataclass(slots=True)
class Amount:
    """What one provider was used for."""

    characters: int = 0
    audio_ms: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def add_tokens(self, usage: Usage) -> None:
        """Another request, or another session, is over."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_tokens += usage.cached_tokens


class UsageMeter:
    """Adds up one call."""

    def __init__(self) -> None:
        self._amounts: dict[tuple[str, str], Amount] = {}

    def of(self, kind: str, provider: str) -> Amount:
        """To be added to. `kind`: ``stt``, ``llm``, ``tts`` or ``realtime``."""
        return self._amounts.setdefault((kind, provider), Amount())

    def settled(self, reply: Reply) -> None:
        """A reply is over, and it is known what was heard of it."""
        if reply.heard_ms:
            amount = self.of(HEARD, "")
            amount.characters += len(reply.heard_text)
            amount.audio_ms += reply.heard_ms

    def told(self, at_ms: int) -> Iterator[UsageCounted]:
        """One event for each provider that was used, and one for what was heard."""
        for (kind, provider), amount in self._amounts.items():
            if amount == Amount():
                continue
            yield UsageCounted(
                at_ms,
                kind,
                provider,
                characters=amount.characters,
                audio_ms=amount.audio_ms,
                input_tokens=amount.input_tokens,
                output_tokens=amount.output_tokens,
                cached_tokens=amount.cached_tokens,
            )
