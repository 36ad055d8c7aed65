"""One item after the other is a call of the real pipeline; what happened is written down."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from bench.turns import agent
from bench.turns.clock import Owed, WorkLoop, counted_workers
from bench.turns.items import Item
from bench.turns.line import FRAME_MS, FarEnd, Played
from bench.turns.taps import Line
from flowcat_server.core import ended, events
from flowcat_server.core.events import CallEvent
from flowcat_server.pipeline import CallLine
from flowcat_server.session import Session

SETTLE_MS = {"continue": 2600, "stop": 1600, "turns": 3600}
"""How long a call goes on after the item's last sample."""
QUIET_MS = 1200
"""...and after the last expected turn was ended, when that comes sooner."""
LATE_MS = 60
"""A call whose far end was served later than this does not count."""
LONGEST_MS = 60_000


@dataclass(slots=True)
class Trace:
    """What happened in one call. All times are the line's, in ms: 0 is the line's first sample."""

    item: str
    start_ms: int
    """When the item's first sample was spoken."""
    played: list[Played] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)
    events: list[tuple[int, CallEvent]] = field(default_factory=list)
    voice: list[tuple[int, float]] = field(default_factory=list)
    late_ms: int = 0
    ended: str = ""

    @property
    def counts(self) -> bool:
        """The far end was served in time and the call did not break."""
        return self.late_ms <= LATE_MS and self.ended == ended.CALLER_HUNG_UP


class Call:
    """One item on the line."""

    def __init__(self, item: Item, bench: agent.Bench) -> None:
        self._item = item
        self._bench = bench
        self._far = FarEnd(item.channel, item.echo, zlib.crc32(item.id.encode()))
        self._far.on_frame = self._on_frame
        self._events: list[tuple[int, CallEvent]] = []
        self._start: int | None = None
        self._listening = True

    async def run(self) -> Trace:
        parts, far = self._bench.parts[self._item.scenario], self._far
        session = Session(
            self._item.id,
            far,
            lambda owner: CallLine(owner, parts, far),
            agent_name="bench",
            channel="loopback",
            max_call_ms=10 * LONGEST_MS,
            media_timeout_ms=LONGEST_MS,
        )
        session.subscribe(self._on_event)
        loop = asyncio.get_running_loop()
        task = loop.create_task(session.run())
        await asyncio.sleep(0)
        try:
            late = await self._ticks(loop)
        finally:
            self._listening = False  # what hanging up causes is not the item's doing
            session.end(ended.CALLER_HUNG_UP)
            with contextlib.suppress(asyncio.CancelledError):
                await task
        zero = far.zero_ms
        return Trace(
            self._item.id,
            self._start or 0,
            far.played,
            far.cleared,
            self._events,
            [(at - zero, probability) for at, probability in self._bench.vad.notes],
            late,
            session.reason or "",
        )

    async def _ticks(self, loop: asyncio.AbstractEventLoop) -> int:
        begun, worst = loop.time(), 0.0
        for number in range(LONGEST_MS // FRAME_MS):
            due = begun + number * FRAME_MS / 1000
            await asyncio.sleep(max(0.0, due - loop.time()))
            worst = max(worst, loop.time() - due)
            self._far.tick()
            if self._over(number * FRAME_MS):
                break
        return int(worst * 1000)

    def _on_frame(self, played: Played) -> None:
        if self._item.scenario == "tell" and self._start is None and played.audible:
            self._speak(played.start_ms)

    def _on_event(self, event: CallEvent) -> None:
        if not self._listening:
            return
        at = event.at_ms - self._far.zero_ms
        self._events.append((at, event))
        if self._start is None and isinstance(event, events.AgentHeard) and event.turn == 0:
            self._speak(self._far.line_ms())

    def _speak(self, cue_ms: int) -> None:
        self._start = cue_ms + self._item.wait_ms
        self._far.says(self._item.sound, self._start)

    def _over(self, line_ms: int) -> bool:
        if self._start is None:
            return False
        item, after = self._item, line_ms - self._start - self._item.length_ms
        if item.expect == "turns" and item.speech:
            last = self._start + item.speech[-1].end_ms
            ends = [at for at, e in self._events if isinstance(e, events.CallerText) and e.final]
            if (
                ends
                and ends[-1] >= last
                and line_ms >= max(ends[-1], self._start + item.length_ms) + QUIET_MS
            ):
                return True
        return after >= SETTLE_MS[item.expect]


async def _all(
    items: Iterable[Item],
    known: dict[str, Line],
    settings: Sequence[str],
    owed: Owed | None,
    on_trace: Callable[[Item, Trace], None],
) -> None:
    bench = await agent.start(settings, known, owed)
    try:
        for item in items:
            on_trace(item, await Call(item, bench).run())
    finally:
        await bench.close()


def run(
    items: Sequence[Item],
    known: dict[str, Line],
    settings: Sequence[str],
    on_trace: Callable[[Item, Trace], None],
    *,
    realtime: bool = False,
) -> int:
    """Run items one by one; returns how often work got stuck (see `clock`)."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if realtime:
        asyncio.run(_all(items, known, settings, None, on_trace))
        return 0
    loops: list[WorkLoop] = []

    def factory() -> WorkLoop:
        loops.append(WorkLoop())
        return loops[0]

    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WorkLoop)
        with counted_workers(loop.owed):
            runner.run(_all(items, known, settings, loop.owed, on_trace))
    return loops[0].stuck
