"""The last rungs of the ladder: an apology, a transfer, or an end that names the culprit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowcat_server.core.graph import TransferTarget
from flowcat_server.errors import ProviderError
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call


@dataclass(frozen=True, slots=True)
class RescueRules:
    """What is said, and when the call is given up."""

    apologies: Sequence[str]
    give_up_turns: int
    """Failed turns in a row."""
    transfer: TransferTarget | None
    goodbyes: Sequence[str]


class Rescue:
    """What becomes of a turn that no provider could help with, and of its call.

    It answers with the words to be said; when they have been heard, the call is passed on or
    ended (`Actions.failure`).
    """

    def __init__(self, call: Call, actions: Actions, rules: RescueRules) -> None:
        self._call = call
        self._actions = actions
        self._rules = rules
        self._failures = 0
        self._apologies = 0

    @property
    def over(self) -> bool:
        """The call has been given up: nothing new is begun."""
        return self._actions.failure is not None

    def turn_went_well(self) -> None:
        """The caller got an answer."""
        self._failures = 0

    def turn_failed(self, error: ProviderError) -> str:
        """A turn is lost; returns what to say."""
        self._failures += 1
        if not error.retryable or self._failures >= self._rules.give_up_turns:
            return self.give_up(error)
        self._call.trouble(error.stage, f"{error.stage}_failed", error)
        return self.apology()

    def apology(self) -> str:
        """What to say for an answer that did not come; empty: nothing."""
        texts = self._rules.apologies
        self._apologies += 1
        return texts[(self._apologies - 1) % len(texts)] if texts else ""

    def give_up(self, error: ProviderError) -> str:
        """The call cannot go on; returns its last words."""
        target = self._rules.transfer
        self._actions.failure = error
        self._actions.transfer = target
        if target is not None:
            self._call.trouble(error.stage, f"{error.stage}_failed", error)
            return target.say
        return self._rules.goodbyes[0] if self._rules.goodbyes else ""

    def finish(self, error: ProviderError) -> None:
        """There is no voice left for last words."""
        if not self.over:
            self.give_up(error)
        self._actions.finish()
