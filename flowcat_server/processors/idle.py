"""Nobody speaks and nobody owes anything: ask, and in the end hang up politely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flowcat_server.core import ended
from flowcat_server.core.frames import Frame, Interrupted, TurnEnded
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.processors.call import Call

CHECK_MS = 500


@dataclass(frozen=True, slots=True)
class IdleRules:
    """When to ask, how often, and what then. Milliseconds."""

    after_ms: int
    say: Sequence[str]
    times: int
    hang_up: bool


class IdleProcessor(Processor):
    """A level-triggered clock: it runs only while the line is quiet on both sides."""

    __slots__ = (
        "_ask",
        "_asked",
        "_call",
        "_caller_open",
        "_playout",
        "_quiet_since",
        "_rules",
        "_timer",
    )

    sounds = ()

    def __init__(
        self,
        call: Call,
        rules: IdleRules,
        playout: Playout,
        caller_open: Callable[[], bool],
        ask: Callable[[str], object],
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            rules: When to ask.
            playout: Whether the agent speaks.
            caller_open: Whether the caller does.
            ask: Has the agent say a text as a turn of its own.
        """
        self._call = call
        self._rules = rules
        self._playout = playout
        self._caller_open = caller_open
        self._ask = ask
        self._quiet_since: int | None = None
        self._asked = 0
        self._timer = call.call_at(call.now_ms() + CHECK_MS, self._check)

    def process(self, frame: Frame) -> None:
        if type(frame) is TurnEnded or type(frame) is Interrupted:
            self._asked = 0
        self.emit(frame)

    def close(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        now = self._call.now_ms()
        self._timer = self._call.call_at(now + CHECK_MS, self._check)
        if self._playout.active() is not None or self._caller_open():
            self._quiet_since = None
            return
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < self._rules.after_ms:
            return
        if self._asked >= self._rules.times:
            if self._rules.hang_up:
                self._call.end(ended.CALLER_IDLE, f"quiet for {now - self._quiet_since} ms")
            return
        self._quiet_since = None
        text = self._rules.say[self._asked % len(self._rules.say)] if self._rules.say else ""
        self._asked += 1
        if text:
            self._ask(text)
