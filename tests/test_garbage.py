"""A call that has ended is freed at once: nothing of it waits for a garbage collection."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

import pytest

from flowcat_server.agents import Agents
from flowcat_server.calls import Calls, Incoming
from flowcat_server.core import ended
from flowcat_server.core.events import CallEvent
from flowcat_server.metrics import Metrics
from tests.callscript import SILENCE, VOICE, LoopbackTransport, loaded, parts
from tests.test_calls import Shelf
from tests.virtual import on_virtual_time

CASCADED = """
agent: {prompt: Be kind., greeting: Good morning.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Yes. And so on. And so forth.], loop: true}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""
REALTIME = """
agent: {prompt: Be kind., greeting: Good morning.}
topology:
  mode: realtime
  provider: scripted
  tts: {provider: scripted}
"""
ECHO = "topology: {mode: echo}"
CALLS = 3


class Deaf(Shelf):
    """Keeps no event, and so nothing of a call."""

    def on_event(self, event: CallEvent) -> None:
        del event


async def converse(calls: Calls) -> None:
    """A call of two turns that ends in the middle of an answer."""
    transport = LoopbackTransport(buffers=False)
    call_id, task = calls.start(calls.reserve(), transport, Incoming("loopback"))
    await asyncio.sleep(0.02)
    for sound, frames in ((SILENCE, 60), (VOICE, 60), (SILENCE, 60), (VOICE, 40), (SILENCE, 40)):
        for _ in range(frames):
            transport.tick(sound)
            await asyncio.sleep(0.02)
    await calls.hang_up(call_id, ended.OPERATOR_HUNG_UP)
    await task


@pytest.mark.parametrize("yaml", [CASCADED, REALTIME, ECHO], ids=["cascaded", "realtime", "echo"])
@on_virtual_time
async def test_a_call_that_has_ended_leaves_nothing_for_the_collector(yaml: str):
    shared = await parts(loaded(yaml))
    async with asyncio.TaskGroup() as tasks:
        calls = Calls(Agents(shared), Deaf(), None, Metrics(), tasks)  # type: ignore[arg-type]
        await converse(calls)
        gc.collect()
        gc.disable()
        try:
            for _ in range(CALLS):
                await converse(calls)
            await asyncio.sleep(120)  # timers of the process that hold on to a call
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == Counter()
