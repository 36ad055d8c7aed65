"""What a frame of audio costs: Python calls, counted, so that no machine makes a difference."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from bench.routing import line as routing
from flowcat_server.core import events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, AudioFormat
from flowcat_server.core.carrier import Started
from flowcat_server.core.playout import Playout
from flowcat_server.providers.vad.energy import PROVIDER as ENERGY
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import WebSocketTransport
from tests import virtual
from tests.callscript import SILENCE, VOICE, LoopbackTransport, call
from tests.carriers.kit import opened, recordings, said
from tests.fakes.settings import settings
from tests.transports.far_end import FakeSocket, Sink
from tests.virtual import VirtualLoop

AGENT = """
agent: {prompt: Be kind., greeting: "Good morning to you, and welcome to this long greeting."}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello]}}
  llm: {provider: scripted}
  tts: {provider: scripted}
"""
FRAMES = 50


def calls_of(work: Callable[[], Any], but: CodeType | None = None) -> int:
    """Python functions entered by `work`, itself and `but` not counted."""
    count = -1

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        del argument
        count += event == "call" and frame.f_code is not but

    gc.disable()  # other tests may have left it something to call
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def deaf(transport: LoopbackTransport) -> Callable[[bytes], None]:
    sink = transport._sink
    assert sink is not None
    return sink.receive_audio


@pytest.mark.parametrize(
    ("audio", "frame", "most"),
    [
        pytest.param(PCM_8K, SILENCE, 12.5, id="silence"),
        pytest.param(PCM_8K, VOICE, 15.5, id="speech over a protected greeting"),
        pytest.param(MULAW_8K, b"\xff" * 160, 12.5, id="silence in mu-law"),
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


def test_a_frame_of_the_caller_to_a_speech_to_speech_model():
    """From the transport to the session's inbox, kept for a session that takes over."""

    async def listen() -> float:
        yaml = "agent: {prompt: Be kind.}\ntopology: {mode: realtime, provider: scripted}\n"
        meter = ENERGY.create(settings(ENERGY))
        async with call(yaml, extra={"vad": [meter]}) as script:
            await script.until(events.AgentHeard)
            await script.passes(2000)
            receive = deaf(script.transport)

            def speak() -> None:
                for _ in range(FRAMES):
                    receive(SILENCE)

            return calls_of(speak) / FRAMES

    cost = virtual.run(listen())
    print(f"{cost:.1f} calls a frame")
    assert cost <= 17


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
    assert cost <= 4.5


def test_a_frame_that_is_said_back():
    """From the carrier's message to the one that says its audio back, through the whole cascade."""

    async def repeat() -> float:
        data = routing.message(b"\xff" * 160)
        async with routing.line() as said_back:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            clock = VirtualLoop.time.__code__

            def hear() -> None:
                for _ in range(FRAMES):
                    loop._jumping.skipped += 0.02
                    said_back.take(data)

            hear()
            assert said_back.socket.messages >= FRAMES
            return calls_of(hear, but=clock) / FRAMES

    cost = virtual.run(repeat())
    print(f"{cost:.1f} calls a frame")
    assert cost <= 32


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


@pytest.mark.parametrize(
    ("name", "most"), [("twilio", 2), ("telnyx", 3), ("plivo", 2), ("vonage", 2), ("asterisk", 2),
                       ("jambonz", 2), ("genesys", 3)]
)  # fmt: skip
def test_a_message_of_a_carrier(name: str, most: int):
    """From the socket to the session: understood and handed on."""

    async def listen() -> float:
        file = next(file for owner, file in recordings() if owner == name)
        stream = opened(name, file)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        arriving = [row for row in rows if "do" not in row]
        begun = next(fed for row in arriving if isinstance(fed := stream.feed(*said(row)), Started))
        audio = next(row for row in arriving if "audio" in row["means"])
        line = WebSocketTransport(FakeSocket(), stream, begun, Pacer())  # type: ignore[arg-type]
        sink = Sink()
        line.attach(sink, Playout(MULAW_8K, delay_ms=60, marks=True))
        message, binary = said(audio)

        def hear() -> None:
            for _ in range(FRAMES):
                line._received(message, binary=binary)

        cost = calls_of(hear) / FRAMES
        assert len(sink.audio) == FRAMES
        return cost

    cost = virtual.run(listen())
    print(f"{cost:.1f} calls a message")
    assert cost <= most + 1  # the sink itself
