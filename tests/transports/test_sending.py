"""Every way in which a carrier wants to be sent speech, on virtual time with the real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiohttp import WSMsgType

from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.core import ended
from flowcat_server.core.audio import PCM_8K, PCM_16K, AudioFormat
from flowcat_server.core.carrier import (
    Fed,
    Flow,
    Ignored,
    Message,
    Refuse,
    Reply,
    Sending,
    Started,
    Stopped,
)
from flowcat_server.transports import carrier
from flowcat_server.transports.websocket import read_start
from tests.transports.far_end import FakeSocket, FarLine, now_ms
from tests.virtual import on_virtual_time

FRAMES = Sending(unit=640, least=640, most=640)
"""Exactly 20 ms at 16 kHz."""
LARGE = Sending(unit=320, least=3200, most=96_000, chunk_ms=200, first_ms=200)
PACED = Sending(unit=320, least=320, most=320, ahead_ms=20, chunk_ms=20, first_ms=20,
                marks=False, forgets=False)  # fmt: skip
FILLED = Sending(unit=320, least=320, most=320, ahead_ms=20, chunk_ms=20, first_ms=20,
                 marks=False, forgets=False, fills=True)  # fmt: skip


class Plain(PcmStream):
    """A wire without any vendor: audio as it is, JSON for the rest."""

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        match fields.get("event"):
            case "ask":
                return Reply('{"event":"answer"}')
            case "bye":
                return Reply('{"event":"closed"}', Stopped())
            case "full":
                return Flow(paused=True)
            case "empty":
                return Flow(paused=False)
            case "wrong":
                return Refuse("wrong sequence", 1002)
            case "start":
                return Reply('{"event":"opened"}', Started("c", "s"))
            case _:
                return Ignored("unknown event")

    def accept(self) -> Sequence[Message]:
        return ['{"event":"accepted"}']

    def mark(self, name: str) -> str:
        return f'{{"event":"mark","name":"{name}"}}'

    def clear(self) -> str:
        return '{"event":"clear"}'

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        return [f'{{"event":"end","reason":"{reason}"}}']


class Line(FarLine):
    """A transport with everything around it; what it sends is binary."""

    lowest = 1

    def __init__(self, sending: Sending, audio: AudioFormat = PCM_8K) -> None:
        self.audio = audio
        started = Started("c", "s", input_format=audio, output_format=audio, sending=sending)
        super().__init__(FakeSocket(), Plain(), started, audio)

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        return [(at - self.began, data) for at, data in self.socket.binary]

    @property
    def speech(self) -> bytes:
        """What was sent, without silence."""
        return b"".join(data for _, data in self.messages).replace(b"\x00", b"")

    @property
    def texts(self) -> list[str]:
        return [message["event"] for _, message in self.socket.sent]


async def passes(ms: int) -> None:
    await asyncio.sleep(ms / 1000)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length_ms", [20, 30.5, 100, 730, 2015])
@on_virtual_time
async def test_frames_are_exact_and_only_the_last_is_padded(length_ms: float):
    async with Line(FRAMES, PCM_16K) as line:
        line.begin()
        line.push(length_ms)
        await passes(3500)
        assert {len(data) for _, data in line.messages} == {640}
        assert line.speech == line.pushed
        assert b"\x00" not in b"".join(data for _, data in line.messages[:-1])
        assert line.texts[-1] == "mark"


@pytest.mark.parametrize("length_ms", [30, 199, 200, 1000, 4321.5])
@on_virtual_time
async def test_large_messages_keep_the_least_the_most_and_the_multiple(length_ms: float):
    async with Line(LARGE) as line:
        line.begin()
        line.push(length_ms)
        await passes(6000)
        assert all(len(data) >= 3200 and len(data) % 320 == 0 for _, data in line.messages)
        assert line.speech == line.pushed
        assert b"\x00" not in b"".join(data for _, data in line.messages[:-1])


@pytest.mark.parametrize("tick_ms", [20, 30, 35])
@on_virtual_time
async def test_no_silence_is_put_into_speech_that_trickles_in(tick_ms: int):
    for sending, audio in ((FRAMES, PCM_16K), (LARGE, PCM_8K)):
        async with Line(sending, audio) as line:
            line.begin()
            for _ in range(60):
                line.push(tick_ms)
                await passes(tick_ms)
            await passes(1000)
            assert line.speech == line.pushed
            assert b"\x00" not in b"".join(data for _, data in line.messages[:-1])


@on_virtual_time
async def test_what_is_long_is_cut_at_the_most():
    async with Line(Sending(unit=2, most=1000)) as line:
        line.begin()
        line.push(1000)
        await passes(1500)
        assert max(len(data) for _, data in line.messages) <= 1000
        assert line.speech == line.pushed


@on_virtual_time
async def test_speech_in_frames_is_never_late_at_the_far_end():
    async with Line(FRAMES, PCM_16K) as line:
        line.begin()
        line.push(3000)
        await passes(3500)
        for n, (at, _) in enumerate(line.messages):
            assert at <= n * 20
            assert at >= n * 20 - FRAMES.ahead_ms - FRAMES.chunk_ms


# --- pace -----------------------------------------------------------------------------------------


@on_virtual_time
async def test_where_nothing_is_buffered_speech_leaves_at_the_pace_at_which_it_sounds():
    async with Line(PACED) as line:
        line.begin()
        line.push(2000)
        await passes(2500)
        times = [at for at, _ in line.messages]
        assert len(times) == 100
        for n, at in enumerate(times):
            assert n * 20 - 40 <= at <= n * 20
        assert line.speech == line.pushed
        assert line.pacer._timer is None


@on_virtual_time
async def test_a_stall_is_not_made_up_for_by_a_burst():
    async with Line(PACED) as line:
        line.begin()
        line.push(2000)
        await passes(500)
        asyncio.get_running_loop()._jumping.skipped += 0.3  # type: ignore[attr-defined]
        sent = len(line.messages)
        await passes(100)
        assert len(line.messages) - sent <= 7
        await passes(2500)
        assert line.speech == line.pushed


@on_virtual_time
async def test_a_carrier_that_wants_to_hear_something_hears_silence_or_speech_on_every_tick():
    async with Line(FILLED) as line:
        await passes(1000)
        assert {data for _, data in line.messages} == {b"\x00" * 320}
        line.begin()
        line.push(500)
        await passes(1000)
        times = [at for at, _ in line.messages]
        assert times == list(range(20, 2001, 20))[: len(times)]
        assert len(times) >= 99
        assert line.speech == line.pushed


@on_virtual_time
async def test_what_cannot_be_taken_back_was_heard():
    async with Line(PACED) as line:
        assert not line.transport.buffers
        line.begin()
        line.push(1000)
        await passes(505)
        sent = len(line.messages) * 20
        (cut,) = line.playout.clear(line.sink.now_ms())
        assert sent - 20 <= (cut.heard_ms or 0) <= sent
        assert "mark" not in line.texts


# --- flow -----------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_full_buffer_is_sent_nothing_until_it_has_room():
    async with Line(FRAMES, PCM_16K) as line:
        line.begin()
        line.push(3000)
        await passes(500)
        line.socket.arrive({"event": "full"})
        await passes(20)
        sent = len(line.messages)
        line.push(100)
        await passes(1000)
        assert len(line.messages) == sent
        line.socket.arrive({"event": "empty"})
        await passes(4000)
        assert line.speech == line.pushed


@on_virtual_time
async def test_a_full_buffer_that_was_cleared_is_empty():
    async with Line(FRAMES, PCM_16K) as line:
        line.begin()
        line.push(3000)
        await passes(500)
        line.socket.arrive({"event": "full"})
        await passes(20)
        line.transport.clear()
        line.playout.clear(line.sink.now_ms())
        sent = len(line.messages)
        line.begin()
        line.push(200)
        await passes(500)
        assert len(line.messages) - sent == 10


# --- answers that are owed ------------------------------------------------------------------------


@on_virtual_time
async def test_a_clear_drops_speech_and_not_what_the_protocol_demands():
    async with Line(FRAMES, PCM_16K) as line:
        await passes(5)
        assert line.texts == ["accepted"]
        line.socket.blocked = True
        line.begin()
        line.push(2000)
        line.socket.arrive({"event": "ask"})
        await passes(50)
        line.transport.clear()
        line.playout.clear(line.sink.now_ms())
        line.socket.blocked = False
        await passes(500)
        assert line.texts == ["accepted", "answer", "clear"]
        assert len(line.messages) == 1  # with the socket already


@pytest.mark.parametrize("sending", [FRAMES, PACED, FILLED])
@on_virtual_time
async def test_what_is_owed_leaves_a_slow_socket_though_nobody_speaks(sending: Sending):
    async with Line(sending) as line:
        await passes(5)
        line.socket.blocked = True
        line.begin()
        line.push(20)
        await passes(60)
        line.socket.arrive({"event": "ask"})
        line.socket.arrive({"event": "full"})
        await passes(500)
        assert line.texts == ["accepted"]
        line.transport.clear()
        line.playout.clear(line.sink.now_ms())
        line.socket.blocked = False
        await passes(50)
        assert line.texts == ["accepted", "answer", "clear"]
        await passes(500)
        assert (line.pacer._timer is None) is not sending.fills


@on_virtual_time
async def test_a_full_buffer_does_not_keep_back_what_is_owed():
    async with Line(FRAMES, PCM_16K) as line:
        await passes(5)
        line.socket.arrive({"event": "full"})
        await passes(5)
        line.socket.blocked = True
        line.socket.arrive({"event": "ask"})
        line.socket.arrive({"event": "ask"})
        await passes(100)
        assert line.texts == ["accepted", "answer"]
        line.socket.blocked = False
        await passes(50)
        assert line.texts == ["accepted", "answer", "answer"]


@on_virtual_time
async def test_what_is_owed_at_the_end_is_said_before_the_socket_closes():
    async with Line(FRAMES, PCM_16K) as line:
        line.socket.arrive({"event": "bye"})
        await passes(5)
        assert line.sink.reasons == [ended.CALLER_HUNG_UP]
        await line.transport.hang_up(ended.CALLER_HUNG_UP)
        assert line.texts == ["accepted", "closed"]
        assert line.socket.close_code == 1000


@on_virtual_time
async def test_our_own_goodbye_waits_for_a_carrier_that_lingers():
    async with Line(Sending(lingers=True)) as line:
        begun = now_ms()
        ending = asyncio.create_task(line.transport.hang_up(ended.AGENT_ENDED))
        await passes(300)
        assert line.socket.closed_at is None
        assert line.texts == ["accepted", "end"]
        line.socket.arrive({"event": "bye"})
        await ending
        assert now_ms() - begun < 400
    async with Line(Sending(lingers=True)) as line:
        begun = now_ms()
        await line.transport.hang_up(ended.AGENT_ENDED)
        assert now_ms() - begun <= carrier.LINGER_S * 1000 + 50
        assert line.socket.closed_at is not None


@on_virtual_time
async def test_a_peer_that_breaks_the_protocol_is_told_with_the_close_code():
    async with Line(FRAMES, PCM_16K) as line:
        line.socket.arrive({"event": "wrong"})
        await passes(5)
        assert line.sink.reasons == [ended.CARRIER_PROTOCOL]
        await line.transport.hang_up(ended.CARRIER_PROTOCOL)
        assert line.socket.close_code == 1002


@on_virtual_time
async def test_audio_is_told_by_the_messages_kind():
    async with Line(FRAMES, PCM_16K) as line:
        line.transport._stream._started = True  # type: ignore[attr-defined]
        line.socket.arrive_as(WSMsgType.BINARY, b"\x01\x02" * 320)
        line.socket.arrive_as(WSMsgType.TEXT, b'{"event":"ask"}')
        await passes(5)
        assert line.sink.audio == [b"\x01\x02" * 320]


@on_virtual_time
async def test_what_is_owed_before_the_start_is_answered():
    socket = FakeSocket({"event": "ask"}, {"event": "start"})
    started = await read_start(socket, Plain(), 1000)  # type: ignore[arg-type]
    assert isinstance(started, Started)
    assert [message["event"] for _, message in socket.sent] == ["answer", "opened"]
    refused = await read_start(FakeSocket({"event": "wrong"}), Plain(), 1000)  # type: ignore[arg-type]
    assert refused == Refuse("wrong sequence", 1002)
    left = await read_start(FakeSocket({"event": "bye"}), Plain(), 1000)  # type: ignore[arg-type]
    assert left is None
