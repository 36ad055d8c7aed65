"""The carrier's socket on virtual time: a fake socket, the real ledger, the real Twilio wire."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from aiohttp import WebSocketError, WSMsgType
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

from flowcat_server.carriers import twilio
from flowcat_server.core import ended
from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.carrier import Account, CarrierStream, Request, Sending, Started
from flowcat_server.core.playout import Playout
from flowcat_server.transports import carrier, websocket
from flowcat_server.transports.pacer import STOP, TICK_MS, Pacer
from flowcat_server.transports.websocket import read_start
from tests.transports.far_end import FakeSocket, FarLine, now_ms
from tests.virtual import on_virtual_time

START = json.dumps({"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1"}})
BYTES_PER_MS = 8
SENDING = Sending()


def opened() -> CarrierStream:
    return twilio.CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))


class Line(FarLine):
    """A transport with everything around it; what it sends is Twilio's."""

    def __init__(self, *arriving: object) -> None:
        self.stream = opened()
        started = self.stream.feed(START)
        assert isinstance(started, Started)
        self.longest_lead = 0
        super().__init__(FakeSocket(*arriving), self.stream, started, MULAW_8K)

    async def passes(self, ms: int) -> None:
        for _ in range(ms // 5):
            await asyncio.sleep(0.005)
            self.longest_lead = max(self.longest_lead, self.playout.lead_ms(self.sink.now_ms()))

    def sent(self, event: str) -> list[tuple[int, dict[str, Any]]]:
        """Messages of a kind, with the time since the line was opened."""
        return [(at - self.began, m) for at, m in self.socket.sent if m["event"] == event]

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """Audio messages: when, and how many milliseconds."""
        return [
            (at, len(b64decode(m["media"]["payload"])) // BYTES_PER_MS)
            for at, m in self.sent("media")
        ]

    @property
    def audio(self) -> bytes:
        return b"".join(_payload(m) for _, m in self.sent("media"))


def _payload(message: dict[str, Any]) -> bytes:
    return b64decode(message["media"]["payload"], validate=True)


# --- speech ---------------------------------------------------------------------------------------


@on_virtual_time
async def test_the_first_message_is_small_and_leaves_at_once():
    async with Line() as line:
        line.begin()
        await line.passes(35)
        line.push(2000)
        await line.passes(5)
        assert line.chunks[0] == (35, SENDING.first_ms)
        assert {ms for _, ms in line.chunks[1:]} == {SENDING.chunk_ms}


@on_virtual_time
async def test_speech_is_sent_ahead_up_to_the_lead_and_all_of_it_arrives():
    async with Line() as line:
        line.begin()
        line.push(5000)
        await line.passes(1000)
        so_far = sum(ms for _, ms in line.chunks)
        assert 1000 + 300 <= so_far <= 1000 + SENDING.ahead_ms + SENDING.chunk_ms
        await line.passes(5000)
        assert line.longest_lead <= SENDING.ahead_ms + SENDING.chunk_ms
        assert line.audio == line.pushed
        assert len(line.chunks) <= 5000 // SENDING.chunk_ms + 3


@on_virtual_time
async def test_speech_is_never_late_at_the_far_end():
    async with Line() as line:
        line.begin()
        line.push(3000)
        await line.passes(3500)
        due = 0
        for at, ms in line.chunks:
            assert at <= due, "the far end had nothing to play"
            due += ms


@pytest.mark.parametrize("tick_ms", [20, 10, 40])
@on_virtual_time
async def test_speech_that_trickles_in_at_its_own_pace_is_passed_on_at_once(tick_ms: int):
    async with Line() as line:
        line.begin()
        await line.passes(5)
        for n in range(60):
            line.push(tick_ms)
            await line.passes(tick_ms)
            # Everything there is has left: nothing waits for a whole chunk or for a tick.
            assert len(line.audio) == len(line.pushed), n
        assert line.audio == line.pushed
        marks = len(line.sent("mark"))
        assert marks <= 60 * tick_ms // carrier.MARK_EVERY_MS + 2


@on_virtual_time
async def test_speech_slower_than_real_time_is_neither_starved_nor_held_back():
    async with Line() as line:
        line.begin()
        pushes = []
        for _ in range(20):
            pushes.append(line.sink.now_ms())
            line.push(50)
            await line.passes(120)
        assert [at for at, _ in line.chunks[::2]] == pushes
        assert line.audio == line.pushed


@on_virtual_time
async def test_fast_synthesis_in_small_pieces_becomes_few_messages():
    async with Line() as line:
        line.begin()
        for _ in range(150):  # 3 s of speech in 20 ms pieces, ten times faster than real time
            line.push(20)
            await line.passes(0)
            await asyncio.sleep(0.002)
        await line.passes(4000)
        assert line.audio == line.pushed
        assert len(line.chunks) < 45
        assert line.longest_lead <= SENDING.ahead_ms + SENDING.chunk_ms


@on_virtual_time
async def test_the_tail_of_a_reply_is_sent_and_marked():
    async with Line() as line:
        line.begin()
        line.push(730.5)
        await line.passes(900)
        assert line.audio == line.pushed
        marks = line.sent("mark")
        assert marks
        events = [message["event"] for _, message in line.socket.sent]
        assert events[-1] == "mark"
        assert line.playout.lead_ms(line.sink.now_ms()) == 0


@on_virtual_time
async def test_each_mark_follows_the_audio_it_stands_for():
    async with Line() as line:
        for _ in range(3):
            line.begin()
            line.push(300)
            await line.passes(1000)
        kinds = [message["event"] for _, message in line.socket.sent]
        assert kinds[0] == "media"
        assert kinds[-1] == "mark"
        for (_, mark), name in zip(line.sent("mark"), ["p1", "p2", "p3"], strict=True):
            assert mark["mark"]["name"] == name


@on_virtual_time
async def test_a_mark_that_comes_back_reaches_the_ledger():
    async with Line() as line:
        line.begin()
        line.push(200)
        line.playout.reply_complete(1)
        await line.passes(400)
        line.socket.arrive({"event": "mark", "mark": {"name": "p1"}})
        await line.passes(10)
        assert line.sink.marks == ["p1"]
        (reply,) = line.playout.settle(line.sink.now_ms())
        assert reply.source == "mark"


@on_virtual_time
async def test_nothing_of_a_reply_follows_the_clear():
    async with Line() as line:
        line.socket.blocked = True
        line.begin()
        line.push(3000)
        await line.passes(50)
        line.transport.clear()
        line.playout.clear(line.sink.now_ms())
        line.socket.blocked = False
        await line.passes(2000)
        kinds = [message["event"] for _, message in line.socket.sent]
        # One message was with the socket already; the others never left.
        assert kinds == ["media", "clear"]


@on_virtual_time
async def test_after_a_clear_the_next_reply_starts_afresh():
    async with Line() as line:
        line.begin()
        line.push(3000)
        await line.passes(500)
        line.transport.clear()
        line.playout.clear(line.sink.now_ms())
        await line.passes(100)
        before = len(line.chunks)
        line.begin()
        spoken_at = line.sink.now_ms()
        line.push(1000)
        await line.passes(5)
        assert line.chunks[before] == (spoken_at, SENDING.first_ms)
        await line.passes(1500)
        assert sum(ms for _, ms in line.chunks[before:]) == 1000


@on_virtual_time
async def test_an_idle_line_costs_no_timer():
    async with Line() as line:
        line.begin()
        line.push(200)
        await line.passes(1000)
        assert line.pacer._timer is None


@on_virtual_time
async def test_the_beat_does_nothing_while_nothing_is_due(monkeypatch: pytest.MonkeyPatch):
    async with Line() as line:
        line.begin()
        line.push(5000)
        asked = 0
        queued = Playout.queued

        def counted(playout: Playout) -> int:
            nonlocal asked
            asked += 1
            return queued(playout)

        monkeypatch.setattr(Playout, "queued", counted)
        await line.passes(4000)
        ticks = 4000 // TICK_MS
        assert asked <= 2 * 4000 // SENDING.chunk_ms + 2 < ticks
        await line.passes(2000)
        assert line.audio == line.pushed


# --- a slow or broken socket ----------------------------------------------------------------------


@on_virtual_time
async def test_a_peer_that_reads_nothing_is_given_up_with_little_kept():
    async with Line() as line:
        line.socket.blocked = True
        line.begin()
        line.push(120_000)
        await line.passes(60_000)
        assert line.sink.reasons[:1] == [ended.CARRIER_CLOSED]
        assert len(line.transport._outbox) <= carrier.MAX_UNSENT


@on_virtual_time
async def test_a_write_to_a_closed_socket_ends_the_call():
    async with Line() as line:
        line.socket.broken = ConnectionResetError("gone")
        line.begin()
        line.push(100)
        await line.passes(20)
        assert line.sink.reasons == [ended.CARRIER_CLOSED]


@on_virtual_time
async def test_hanging_up_closes_once_and_sends_nothing_more():
    async with Line() as line:
        line.begin()
        line.push(3000)
        await line.passes(100)
        sent = len(line.socket.sent)
        await line.transport.hang_up(ended.AGENT_ENDED)
        line.push(100)
        await line.passes(500)
        assert line.socket.closed_at is not None
        assert len(line.socket.sent) == sent


@on_virtual_time
async def test_a_peer_that_does_not_close_is_not_waited_for_for_long():
    async with Line() as line:
        line.socket.close_takes_s = 3600
        begun = now_ms()
        await line.transport.hang_up(ended.AGENT_ENDED)
        assert now_ms() - begun <= 3000


# --- what comes in --------------------------------------------------------------------------------


def media(payload: bytes) -> dict[str, Any]:
    return {"event": "media", "media": {"payload": b64encode(payload).decode()}}


@on_virtual_time
async def test_audio_and_keys_arrive_in_order_to_the_byte():
    frames = [bytes([n]) * 160 for n in range(100)]
    async with Line() as line:
        for frame in frames:
            line.socket.arrive(media(frame))
        line.socket.arrive({"event": "dtmf", "dtmf": {"digit": "5"}})
        line.socket.arrive({"event": "dtmf", "dtmf": {"digit": "#"}})
        await line.passes(5)
        assert line.sink.audio == frames
        assert line.sink.digits == ["5", "#"]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (WSMsgType.TEXT, b'{"event":"stop"}', ended.CALLER_HUNG_UP),
        (WSMsgType.CLOSE, 1000, ended.CALLER_HUNG_UP),
        (WSMsgType.CLOSED, None, ended.CARRIER_CLOSED),
        (WSMsgType.CLOSING, None, ended.CARRIER_CLOSED),
        (WSMsgType.ERROR, ConnectionResetError(), ended.CARRIER_CLOSED),
        (WSMsgType.ERROR, ValueError("ours"), ended.SERVER_ERROR),
        (WSMsgType.ERROR, WebSocketError(1009, "too big"), ended.CARRIER_PROTOCOL),
        (WSMsgType.ERROR, WebSocketError(1002, "compressed"), ended.CARRIER_PROTOCOL),
    ],
    ids=["stop", "close", "eof", "closing", "reset", "fault", "too-big", "violation"],
)
@on_virtual_time
async def test_every_end_of_the_socket_has_its_reason(kind: WSMsgType, data: object, reason: str):
    async with Line() as line:
        line.socket.arrive_as(kind, data)
        await line.passes(5)
        assert line.sink.reasons == [reason]
        assert line._tasks[0].done()


@on_virtual_time
async def test_some_faults_are_forgiven_and_a_flood_of_them_is_not():
    async with Line() as line:
        for _ in range(carrier.MAX_FAULTS):
            line.socket.arrive("nonsense")
        await line.passes(5)
        assert line.sink.reasons == []
        line.socket.arrive("nonsense")
        line.socket.arrive(media(b"x"))
        await line.passes(5)
        assert line.sink.reasons == [ended.CARRIER_PROTOCOL]
        assert line.sink.audio == []


@on_virtual_time
async def test_events_from_the_future_are_no_faults():
    async with Line() as line:
        for _ in range(carrier.MAX_FAULTS + 100):
            line.socket.arrive({"event": "from the future"})
            line.socket.arrive(
                {"event": "media", "media": {"track": "outbound", "payload": "AA=="}}
            )
        await line.passes(5)
        assert line.sink.reasons == []


@on_virtual_time
async def test_more_messages_than_any_call_has_are_a_flood():
    async with Line() as line:
        for _ in range(carrier.MAX_BURST + 300):
            line.socket.arrive({"event": "dtmf", "dtmf": {"digit": "1"}})
        await line.passes(5)
        assert line.sink.reasons == [ended.CARRIER_PROTOCOL]


@on_virtual_time
async def test_a_backlog_after_a_stall_is_no_flood():
    async with Line() as line:
        for _ in range(3000):  # a minute of 20 ms frames at once
            line.socket.arrive(media(b"\xff" * 160))
        await line.passes(5)
        for _ in range(10_000):
            line.socket.arrive(media(b"\xff" * 160))
            await asyncio.sleep(0.02)
        assert line.sink.reasons == []
        assert len(line.sink.audio) == 13_000


@on_virtual_time
async def test_messages_of_the_parser_are_understood_and_logged_as_the_calls_own():
    with bound_contextvars(call_id="call-7"):
        line = Line()
        line.socket.diverts = True
    async with line:
        await line.passes(5)
        take = line.socket.take
        assert take is not None
        with capture_logs(processors=[merge_contextvars]) as logs:
            take(json.dumps(media(b"\xff" * 160)).encode(), False)
            take(b"nonsense", False)
            take(b'{"event":"stop"}', False)
            take(json.dumps(media(b"\xff" * 160)).encode(), False)
        assert line.sink.audio == [b"\xff" * 160]
        assert line.sink.reasons == [ended.CALLER_HUNG_UP]
        assert [(log["event"], log["call_id"]) for log in logs] == [
            ("carrier_message_ignored", "call-7")
        ]
        line.socket.arrive_as(WSMsgType.CLOSE, 1000)
        await line.passes(5)
        assert line.sink.reasons == [ended.CALLER_HUNG_UP]
        assert line._tasks[0].done()


# --- before the start -----------------------------------------------------------------------------


@on_virtual_time
async def test_the_start_is_found_behind_other_messages():
    socket = FakeSocket({"event": "connected"}, media(b"x"), "nonsense", START)
    started = await read_start(socket, opened(), 10_000)  # type: ignore[arg-type]
    assert started is not None
    assert started.call_id == "CA1"


@on_virtual_time
async def test_media_does_not_extend_the_wait_for_a_start():
    socket = FakeSocket()

    async def talk() -> None:
        for _ in range(1500):
            socket.arrive(media(b"\xff" * 160))
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    begun = now_ms()
    assert await read_start(socket, opened(), 10_000) is None  # type: ignore[arg-type]
    assert now_ms() - begun == 10_000
    talking.cancel()


@pytest.mark.parametrize("size", [0, 60_000])
@on_virtual_time
async def test_a_socket_that_floods_before_its_start_is_left(size: int):
    socket = FakeSocket(*["x" * size] * 5000, START)
    begun = now_ms()
    assert await read_start(socket, opened(), 10_000) is None  # type: ignore[arg-type]
    assert now_ms() == begun
    read = 5001 - socket.arriving.qsize()
    assert read * (size + websocket.MESSAGE_COST_BYTES) <= websocket.MAX_BYTES_BEFORE_START + 61_000


@on_virtual_time
async def test_a_socket_that_closes_before_its_start_is_left():
    socket = FakeSocket()
    socket.arrive_as(WSMsgType.CLOSE, 1000)
    assert await read_start(socket, opened(), 10_000) is None  # type: ignore[arg-type]


# --- the pacer ------------------------------------------------------------------------------------


class Member:
    def __init__(self, pacer: Pacer, ticks: int, *, fails: bool = False) -> None:
        self.at: list[int] = []
        self.ticks = ticks
        self.fails = fails
        self.told = False
        pacer.add(self)

    def pump(self) -> int:
        self.at.append(now_ms())
        if self.fails:
            raise ZeroDivisionError
        return 0 if len(self.at) < self.ticks else STOP

    def failed(self) -> None:
        self.told = True


@on_virtual_time
async def test_the_beat_is_absolute_and_stops_with_its_last_member():
    pacer = Pacer()
    begun = now_ms()
    member = Member(pacer, 50)
    await asyncio.sleep(2)
    assert [at - begun for at in member.at] == list(range(20, 1020, 20))
    assert pacer._timer is None


class Patient:
    """Wants to be called after so many milliseconds, again and again."""

    def __init__(self, *after_ms: int) -> None:
        self.at: list[int] = []
        self.after_ms = list(after_ms)

    def pump(self) -> int:
        self.at.append(now_ms())
        return self.after_ms.pop(0) if self.after_ms else STOP

    def failed(self) -> None:
        raise AssertionError


@on_virtual_time
async def test_members_are_called_on_the_first_tick_after_the_time_they_asked_for():
    pacer, begun = Pacer(), now_ms()
    member = Patient(41, 0, 20)
    pacer.add(member, 60)
    await asyncio.sleep(0.5)
    assert [at - begun for at in member.at] == [60, 120, 140, 160]
    assert pacer._timer is None


@on_virtual_time
async def test_of_two_times_the_earlier_counts_and_who_is_removed_is_not_called():
    pacer, begun = Pacer(), now_ms()
    sooner, later, gone = Patient(), Patient(), Patient()
    for member in (sooner, later, gone):
        pacer.add(member, 100)
    pacer.add(sooner)
    pacer.add(later, 200)
    pacer.remove(gone)
    await asyncio.sleep(0.5)
    assert [at - begun for at in sooner.at] == [20]
    assert [at - begun for at in later.at] == [100]
    assert gone.at == []
    assert pacer._timer is None


@on_virtual_time
async def test_one_members_fault_does_not_silence_the_others():
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    pacer = Pacer()
    members = [Member(pacer, 5, fails=n == 2) for n in range(6)]
    await asyncio.sleep(0.3)
    assert [len(member.at) for member in members] == [5, 5, 1, 5, 5, 5]
    assert members[2].told
    assert len(faults) == 1
    assert pacer._timer is None


@on_virtual_time
async def test_a_transport_whose_pump_fails_ends_its_call():
    async with Line() as line:
        line.transport.failed()
        assert line.sink.reasons == [ended.SERVER_ERROR]
