"""What the far end of a live call can do besides carrying its audio."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
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


class Decision(Awaitable[str], Protocol):
    """Is there some time; an `asyncio.Future`."""

    def done(self) -> bool:
        """It is there."""

    def set_result(self, result: str, /) -> None:
        """It is this."""


class Consultant(Protocol):
    """The call with a colleague, as far as the caller's needs to know it."""

    def end(self, reason: str, detail: str = "") -> None:
        """End it; the first reason wins."""

    async def hand_over(self, request: Awaitable[bool]) -> bool:
        """Await a request that takes it out of our hands; says whether it did."""


class Consultation:
    """A colleague is called and asked whether they take a call."""

    def __init__(
        self, target: TransferTarget, introduction: Awaitable[str], decision: Decision
    ) -> None:
        """Begin.

        Args:
            target: Whom.
            introduction: What is said to them.
            decision: Done when it is known whether they take it: empty, or why not.
        """
        self.target = target
        self.introduction = introduction
        self.decision = decision
        self.key = ("", "")
        """The carrier and its id of the colleague's call, once it is known."""
        self.session: Consultant | None = None
        """Their call, once they have answered."""

    def decide(self, why_not: str) -> None:
        """It is known whether they take the call; the first word counts."""
        if not self.decision.done():
            self.decision.set_result(why_not)


class LineControl(Protocol):
    """One call's far end, as far as it can be asked for anything."""

    async def transfer(
        self, target: TransferTarget, introduction: Awaitable[str], progress: Progress
    ) -> str:
        """Pass the call on; returns why it could not be done, empty: it is out of our hands.

        Args:
            target: Where to.
            introduction: Said first to who answers, where the transfer is warm.
            progress: What is to be known of the conversation if the call comes back.
        """

    async def press(self, keys: str) -> bool:
        """Send keys; False: it cannot be done but by sound."""
