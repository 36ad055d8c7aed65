"""What the far end of a live call can do besides carrying its audio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.interfaces import Message


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a conversation stands: enough to go on with it in another call."""

    node: str = ""
    """The graph's node."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    """What was said and heard."""


@dataclass(frozen=True, slots=True)
class Comeback:
    """A call that was passed on, and comes back because nobody was reached."""

    progress: Progress
    target: TransferTarget


class LineControl(Protocol):
    """One call's far end, as far as it can be asked for anything."""

    async def transfer(self, target: TransferTarget, introduction: str, progress: Progress) -> str:
        """Pass the call on; returns why it could not be done, empty: it is out of our hands.

        Args:
            target: Where to.
            introduction: Said first to who answers, where the transfer is warm.
            progress: What is to be known of the conversation if the call comes back.
        """

    async def press(self, keys: str) -> bool:
        """Send keys; False: it cannot be done but by sound."""
