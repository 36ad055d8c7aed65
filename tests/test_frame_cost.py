"""What a frame of audio costs: Python calls, counted, so that no machine makes a difference."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from flowcat_server.core import events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, AudioFormat
from tests import virtual
from tests.callscript import SILENCE, VOICE, LoopbackTransport, call

AGENT = """
agent: {prompt: Be kind., greeting: "Good morning to you, and welcome to this long greeting."}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello]}}
  llm: {provider: scripted}
  tts: {provider: scripted}
"""
FRAMES = 50


def calls_of(work: Callable[[], Any]) -> int:
    """Python functions entered by `work`, itself not counted."""
    count = -1

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        del frame, argument
        count += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def deaf(transport: LoopbackTransport) -> Callable[[bytes], None]:
    sink = transport._sink
    assert sink is not None
    return sink.receive_audio


@pytest.mark.parametrize(
    ("audio", "frame", "most"),
    [
        pytest.param(PCM_8K, SILENCE, 20.5, id="silence"),
        pytest.param(PCM_8K, VOICE, 23, id="speech over a protected greeting"),
        pytest.param(MULAW_8K, b"\xff" * 160, 22.5, id="silence in mu-law"),
    ],
)
def test_a_frame_of_the_caller(audio: AudioFormat, frame: bytes, most: float):
    """From the transport to the transcriber's inbox, voice activity and turn-taking included."""

    async def listen() -> float:
        yaml = AGENT + "turn: {interruption: {enabled: false}}\n"
        async with call(yaml, audio=audio) as script:
            await script.passes(400, frame)
            receive = deaf(script.transport)

            def speak() -> None:
                for _ in range(FRAMES):
                    receive(frame)

            return calls_of(speak) / FRAMES

    cost = virtual.run(listen())
    print(f"{cost:.1f} calls a frame")
    assert cost <= most


def test_a_frame_of_the_agent():
    """From the queue to the transport, entered in the ledger."""

    async def speak() -> float:
        async with call(AGENT, buffers=False) as script:
            await script.until(events.AgentText)
            await script.passes(200)
            transport, source = script.transport, script.transport._source
            assert source is not None
            now = script.session.now_ms()
            assert source.queued() > FRAMES * 320

            def pull() -> None:
                for number in range(FRAMES):
                    source.pull(now + 20 * number, 320)

            assert transport.heard
            return calls_of(pull) / FRAMES

    cost = virtual.run(speak())
    print(f"{cost:.1f} calls a frame")
    assert cost <= 6


def test_nothing_waits_on_a_task_for_a_frame():
    """Frames start no task and set no timer."""

    async def listen() -> None:
        async with call(AGENT) as script:
            await script.until(events.AgentHeard)
            await script.passes(400)
            tasks = len(script.session._children)
            timers: list[object] = []
            script.session.call_at = lambda *args: timers.append(args)  # type: ignore[method-assign,assignment,return-value]
            receive = deaf(script.transport)
            for _ in range(20):
                receive(SILENCE)
            assert len(script.session._children) == tasks
            assert timers == []

    virtual.run(listen())
