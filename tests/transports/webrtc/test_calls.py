"""Whole calls over loopback: stock aiortc clients against the server side."""

from __future__ import annotations

import asyncio
import gc
import random
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiortc import RTCDataChannel, RTCRtpSender

from flowcat_server.core import ended
from flowcat_server.core.audio import PCM_16K, PCM_24K
from flowcat_server.core.interfaces import Transport
from flowcat_server.errors import CallRefused, TransportError
from flowcat_server.transports.webrtc import Answer, Offers, WebRtcSettings, WebRtcTransport, opus
from flowcat_server.transports.webrtc import offers as offers_module
from flowcat_server.transports.webrtc.channel import Channel
from flowcat_server.transports.webrtc.sdp import BadOffer
from tests.transports.webrtc.peers import (
    LOCAL,
    Mouth,
    Session,
    client,
    loudest,
    server,
    tone,
    until,
    windows,
)

needs_opus = pytest.mark.skipif(opus.library() is None, reason="no libopus on this machine")


@pytest.fixture
async def offers() -> AsyncIterator[Offers]:
    async with server() as running:
        yield running


def with_settings(**changes: object) -> WebRtcSettings:
    values: dict[str, object] = {"bind_ips": ("127.0.0.1",), **changes}
    return WebRtcSettings(**values)  # type: ignore[arg-type]


async def connected(answer: Answer, speech: bytes = b"") -> Session:
    await answer.transport.wait_connected()
    session = Session(speech)
    answer.transport.attach(session, session)
    return session


def strong(pcm: bytes, rate: int, frequency: int) -> int:
    """How many 20 ms windows sound like `frequency`."""
    return sum(abs(loudest(w, rate) - frequency) <= 60 for w in windows(pcm, rate // 50 * 2))


def timeline_ms(transport: WebRtcTransport) -> int:
    """How long the audio has to be by the sender's count of packets."""
    stats = transport.stats
    return (stats.received + stats.lost) * 20 + stats.silence_ms


# --- talking ----------------------------------------------------------------------------------


async def test_both_sides_hear_each_other(offers: Offers) -> None:
    async with client(Mouth(tone(500, 16_000, 3_000))) as peer:
        began = time.monotonic()
        answer = await peer.call(offers)
        session = await connected(answer, tone(1_200, 24_000, 1_000))
        assert time.monotonic() - began < 1
        start, sent = len(session.heard), peer.mouth.sent
        await asyncio.sleep(1.1)
        heard, played, spoken = bytes(session.heard), bytes(peer.ears), peer.mouth.sent - sent
    assert session.pieces == {640}
    assert abs(loudest(heard[-16_000:], 16_000) - 500) <= 5
    assert abs((len(heard) - start) // 2 - spoken) <= 8 * 320
    assert abs(loudest(played[-38_400:], 48_000) - 1_200) <= 5


async def test_it_is_the_transport_the_session_expects(offers: Offers) -> None:
    async with client() as peer:
        transport: Transport = (await peer.call(offers)).transport
        assert (transport.input_format, transport.output_format) == (PCM_16K, PCM_24K)
        assert not transport.buffers
        transport.wake()
        transport.mark("x")
        transport.clear()


@needs_opus
@pytest.mark.parametrize("percent", [3, 8])
async def test_lost_packets_shorten_nothing(offers: Offers, percent: int) -> None:
    async with client(Mouth(tone(500, 16_000, 3_000))) as peer:
        answer = await peer.call(offers)
        session = await connected(answer)
        await until(lambda: session.heard)
        assert answer.transport.peer is not None
        connection = answer.transport.peer.connection
        deliver = connection.on_media
        assert deliver is not None
        chance = random.Random(percent)
        dropped = 0

        def lossy(data: bytes) -> bool:
            nonlocal dropped
            if 192 <= data[1] <= 223 or chance.random() * 100 >= percent:
                return deliver(data)
            dropped += 1
            return True

        connection.on_media = lossy
        start, due = len(session.heard), timeline_ms(answer.transport)
        await asyncio.sleep(1.5)
        connection.on_media = deliver
        heard, due = bytes(session.heard[start:]), timeline_ms(answer.transport) - due
        assert dropped >= 1
    assert abs(len(heard) / 32 - due) <= 60
    assert strong(heard, 16_000, 500) >= 0.95 * len(heard) / 640
    assert answer.transport.stats.lost in (dropped - 1, dropped)


@needs_opus
async def test_mouth_to_ear_is_short(offers: Offers) -> None:
    """From the sample leaving the client's microphone to the session; best of four beeps."""
    beep, pause = tone(1_000, 16_000, 100), bytes(640 * 10)
    async with client(Mouth((pause + beep) * 6)) as peer:
        answer = await peer.call(offers)
        await answer.transport.wait_connected()
        session = Session()
        delays: list[float] = []
        quiet = False

        def receive(payload: bytes) -> None:
            nonlocal quiet
            loud = np.abs(np.frombuffer(payload, "<i2").astype(int)).max() > 2_000
            if loud and quiet:
                since = time.monotonic() - peer.mouth._origin
                # Beep n begins at frame 15 n + 10.
                delays.append((since - 0.2) % 0.3)
            quiet = not loud

        session.receive_audio = receive  # type: ignore[method-assign]
        answer.transport.attach(session, session)
        await until(lambda: len(delays) >= 4)
    # 20 ms of it is the frame itself; aiortc's own receiver would need 120.
    assert min(delays) < 0.060


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
@needs_opus
async def test_a_peer_without_opus_is_understood(offers: Offers, codec: str) -> None:
    async with client(Mouth(tone(500, 16_000, 2_000))) as peer:
        wanted = [c for c in RTCRtpSender.getCapabilities("audio").codecs if c.name == codec]
        peer.pc.getTransceivers()[0].setCodecPreferences(wanted)
        session = await connected(await peer.call(offers), tone(1_200, 24_000, 900))
        await asyncio.sleep(0.9)
        heard, played = bytes(session.heard), bytes(peer.ears)
    assert abs(loudest(heard[-12_800:], 16_000) - 500) <= 5
    assert abs(loudest(played[-4_800:], 8_000) - 1_200) <= 5


@needs_opus
@pytest.mark.parametrize("lean", [pytest.param(True, marks=needs_opus), False])
async def test_someone_without_a_microphone_is_silent_and_hears(lean: bool) -> None:
    async with server(lean=lean) as offers, client() as peer:
        peer.pc.getTransceivers()[0].direction = "recvonly"
        session = await connected(await peer.call(offers), tone(1_200, 24_000, 1_000))
        await asyncio.sleep(1.3)
        assert 40 * 640 <= len(session.heard) <= 75 * 640
        assert not any(session.heard)
        assert strong(bytes(peer.ears), 48_000, 1_200) > 25


async def test_keys_arrive_once_each(offers: Offers) -> None:
    async with client() as peer:
        offer = await peer.offer()
        offer = (
            offer.replace("UDP/TLS/RTP/SAVPF 96", "UDP/TLS/RTP/SAVPF 96 126", 1)
            + "a=rtpmap:126 telephone-event/8000\r\na=fmtp:126 0-16\r\n"
        )
        answer = await offers.accept(offer)
        assert "a=rtpmap:126 telephone-event/8000" in answer.sdp
        await peer.take(answer.sdp)
        session = await connected(answer)
        await until(lambda: session.heard)
        sender = peer.pc.getSenders()[0]
        seq, timestamp = 40_000, 777
        for digit in (1, 5, 9, 11):
            timestamp += 8_000
            for n in range(5):
                seq += 1
                header = struct.pack("!BBHII", 0x80, 126, seq & 0xFFFF, timestamp, sender._ssrc)
                event = struct.pack("!BBH", digit, 0x8A if n >= 2 else 10, 160 * min(n + 1, 3))
                await sender.transport._send_rtp(header + event)
        await until(lambda: len(session.digits) == 4)
        await asyncio.sleep(0.05)
    assert session.digits == ["1", "5", "9", "#"]


async def test_without_libopus_calls_still_work() -> None:
    async with server(LOCAL, lean=False) as offers, client(Mouth(tone(500, 16_000, 3_000))) as peer:
        session = await connected(await peer.call(offers), tone(1_200, 24_000, 1_500))
        await asyncio.sleep(1.2)
        heard, played = bytes(session.heard), bytes(peer.ears)
        await peer.close()
        await asyncio.wait_for(session.lost_event.wait(), 3)
    assert session.pieces == {640}
    assert abs(loudest(heard[-16_000:], 16_000) - 500) <= 5
    assert abs(loudest(played[-28_800:], 48_000) - 1_200) <= 5


def test_missing_libopus_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus, "_candidates", lambda: iter(["libopus-that-is-not-there.so"]))
    opus.library.cache_clear()
    try:
        assert opus.library() is None
        with pytest.raises(TransportError):
            opus.Decoder(16_000)
    finally:
        opus.library.cache_clear()


# --- ending -----------------------------------------------------------------------------------


async def test_the_caller_hangs_up(offers: Offers) -> None:
    async with client() as peer:
        answer = await peer.call(offers)
        session = await connected(answer)
        await peer.close()
        await asyncio.wait_for(session.lost_event.wait(), 2)
    assert session.reasons == [ended.CALLER_HUNG_UP]
    assert offers.get(answer.pc_id) is None


async def test_the_agent_hangs_up(offers: Offers) -> None:
    async with client() as peer:
        answer = await peer.call(offers)
        session = await connected(answer)
        await asyncio.gather(*(answer.transport.hang_up(ended.AGENT_ENDED) for _ in range(3)))
        await until(lambda: peer.pc.connectionState == "closed")
        await answer.transport.hang_up(ended.AGENT_ENDED)
    assert session.reasons == []
    assert len(offers) == 0


async def test_a_dead_peer_is_noticed() -> None:
    async with server(with_settings(dead_after=500)) as offers, client() as peer:
        session = await connected(await peer.call(offers))
        # A killed browser: nothing comes any more, not even a goodbye.
        for protocol in peer.pc.getSenders()[0].transport.transport._connection._protocols:
            protocol.transport.abort()
        began = time.monotonic()
        await asyncio.wait_for(session.lost_event.wait(), 3)
        assert 0.3 < time.monotonic() - began < 2
    assert session.reasons == [ended.CALLER_MEDIA_LOST]


async def test_an_offer_that_never_connects_is_freed() -> None:
    async with server(with_settings(connect_timeout=150)) as offers, client() as peer:
        answer = await offers.accept(await peer.offer())
        session = Session()
        answer.transport.attach(session, session)
        assert offers.pending == 1
        with pytest.raises(TransportError):
            await asyncio.wait_for(answer.transport.wait_connected(), 2)
        assert session.reasons == [ended.CALLER_MEDIA_LOST]
        assert offers.pending == 0
        assert offers.get(answer.pc_id) is None


async def test_attaching_to_an_ended_call_says_so(offers: Offers) -> None:
    async with client() as peer:
        answer = await peer.call(offers)
        await answer.transport.wait_connected()
        await peer.close()
        await until(lambda: answer.transport.ended)
    session = Session()
    answer.transport.attach(session, session)
    await asyncio.sleep(0)
    assert session.reasons == [ended.CALLER_HUNG_UP]


async def test_closing_the_server_hangs_up_everyone() -> None:
    async with server() as offers, client() as one, client() as two:
        for peer in (one, two):
            await connected(await peer.call(offers))
        offer = str(one.pc.localDescription.sdp)
        await offers.close()
        await until(lambda: {p.pc.connectionState for p in (one, two)} == {"closed"})
        with pytest.raises(CallRefused):
            await offers.accept(offer)


async def test_what_ended_calls_leave_in_circles_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offers_module, "COLLECT_EVERY", 2)
    collected: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            collected.append(info["collected"])

    async with server() as offers, client() as peer:
        offer = await peer.offer()
        gc.collect()
        gc.disable()
        gc.callbacks.append(note)
        try:
            for _ in range(4):
                answer = await offers.accept(offer)
                await answer.transport.hang_up(ended.AGENT_ENDED)
                del answer
                await until(lambda: len(offers) == 0)
                await asyncio.sleep(0.1)
        finally:
            gc.callbacks.remove(note)
            gc.enable()
    assert len(collected) == 2
    assert collected[1] > 0, "of the calls before it"


# --- limits -----------------------------------------------------------------------------------


async def test_too_many_connecting_at_once_are_refused() -> None:
    async with server(with_settings(max_pending=2)) as offers, client() as peer:
        offer = await peer.offer()
        for _ in range(2):
            await offers.accept(offer)
        with pytest.raises(CallRefused) as refused:
            await offers.accept(offer)
        assert refused.value.reason == "full"


async def test_calls_stay_in_the_port_range_and_are_refused_beyond_it() -> None:
    settings = with_settings(port_range="47310-47312")
    async with server(settings) as offers, client() as peer:
        offer = await peer.offer()
        answers = [await offers.accept(offer) for _ in range(3)]
        ports = {int(a.sdp.split("m=audio ")[1].split()[0]) for a in answers}
        assert ports == {47_310, 47_311, 47_312}
        with pytest.raises(CallRefused):
            await offers.accept(offer)
        await answers[1].transport.hang_up(ended.AGENT_ENDED)
        again = await peer.call(offers)
        await again.transport.wait_connected()


async def test_the_advertised_address_stands_in_the_answer() -> None:
    async with server(WebRtcSettings(advertise_ip="203.0.113.7")) as offers, client() as peer:
        answer = await offers.accept(await peer.offer())
        lines = [line for line in answer.sdp.splitlines() if line.startswith("a=candidate")]
        assert len(lines) == 1
        assert "203.0.113.7" in lines[0]
        # Here nobody maps that address to us; the same port answers on the machine's own.
        await peer.take(answer.sdp.replace("203.0.113.7", "127.0.0.1"))
        await answer.transport.wait_connected()


async def test_a_peer_on_this_machine_is_offered_loopback() -> None:
    async with server(WebRtcSettings()) as offers, client() as peer:
        offer = await peer.offer()
        near = await offers.accept(offer, remote="::ffff:127.0.0.1")
        assert " 127.0.0.1 " in near.sdp
        await peer.take(near.sdp)
        await near.transport.wait_connected()


# --- odd offers -------------------------------------------------------------------------------


async def test_mdns_candidates_cost_no_time(offers: Offers) -> None:
    async with client() as peer:
        offer = await peer.offer()
        hidden = "\r\n".join(
            "a=candidate:1 1 udp 2113937151 0a1b2c3d-0000-4000-8000-0000abcd.local 50000 typ host"
            if line.startswith("a=candidate")
            else line
            for line in offer.split("\r\n")
        )
        began = time.monotonic()
        answer = await offers.accept(hidden)
        assert time.monotonic() - began < 0.1
        await offers.add_candidate(
            answer.pc_id, "candidate:2 1 udp 1 0a1b.local 50000 typ host", "0", 0
        )
        await peer.take(answer.sdp)
        await answer.transport.wait_connected()


async def test_candidates_may_follow_the_offer(offers: Offers) -> None:
    async with client() as peer:
        offer = await peer.offer()
        lines = offer.split("\r\n")
        candidates = [line for line in lines if line.startswith("a=candidate")]
        bare = "\r\n".join(
            line for line in lines if line not in candidates and line != "a=end-of-candidates"
        )
        answer = await offers.accept(bare)
        for candidate in candidates:
            await offers.add_candidate(answer.pc_id, candidate.removeprefix("a="), "0", 0)
        await offers.add_candidate(answer.pc_id, "", "0", 0)
        await peer.take(answer.sdp)
        await answer.transport.wait_connected()
        with pytest.raises(KeyError):
            await offers.add_candidate("pc-unknown", candidates[0], "0", 0)
        with pytest.raises(BadOffer):
            await offers.add_candidate(answer.pc_id, "candidate:nonsense", "0", 0)


async def test_video_is_declined_and_data_accepted(offers: Offers) -> None:
    async with client() as peer:
        peer.pc.addTransceiver("video", "sendrecv")
        peer.pc.addTransceiver("video", "sendonly")
        peer.pc.addTransceiver("audio", "recvonly")
        channel: RTCDataChannel = peer.pc.createDataChannel("chat")
        got: list[str] = []
        channel.on("message", got.append)
        answer = await peer.call(offers)
        assert answer.sdp.count("a=inactive") == 3
        assert "useinbandfec=1" in answer.sdp
        opened: list[Channel] = []
        answer.transport.on_channel = opened.append
        session = await connected(answer)
        await until(lambda: channel.readyState == "open" and opened)
        channel.send("early")
        channel.send(b"binary")
        channel.send("x" * 70_000)
        await until(lambda: session.heard)
        received: list[str] = []
        opened[0].on_message = received.append
        channel.send("hello")
        await until(lambda: "hello" in received)
        assert received == ["early", "hello"]
        assert opened[0].label == "chat"
        assert opened[0].send("back")
        await until(lambda: got == ["back"])
        closed: list[bool] = []
        opened[0].on_close = lambda: closed.append(True)
        await peer.close()
        await until(lambda: closed)
        assert not opened[0].send("too late")


async def test_the_owner_learns_of_a_call_before_its_answer() -> None:
    known: list[WebRtcTransport] = []
    async with server(LOCAL, on_peer=known.append) as offers, client() as peer:
        answer = await offers.accept(await peer.offer())
        assert known == [answer.transport]
        assert offers.get(answer.pc_id) is answer.transport


# --- continuing -------------------------------------------------------------------------------


async def test_a_restart_goes_on_with_the_same_call(offers: Offers) -> None:
    async with client(Mouth(tone(500, 16_000, 5_000))) as old:
        answer = await old.call(offers)
        session = await connected(answer)
        await until(lambda: session.heard)
        async with client(Mouth(tone(900, 16_000, 5_000))) as new:
            again = await new.call(offers, pc_id=answer.pc_id, restart=True)
            assert again.resumed
            assert again.pc_id == answer.pc_id
            assert again.transport is answer.transport
            await until(lambda: new.pc.connectionState == "connected")
            await until(lambda: old.pc.connectionState == "closed")
            session.speech = tone(1_200, 24_000, 700)
            await asyncio.sleep(0.9)
            assert abs(loudest(bytes(session.heard[-9_600:]), 16_000) - 900) <= 5
            assert strong(bytes(new.ears), 48_000, 1_200) >= 20
            assert session.reasons == []
            assert len(offers) == 1


async def test_a_restart_that_fails_leaves_the_call_as_it_was() -> None:
    async with server(with_settings(connect_timeout=800)) as offers, client() as old:
        answer = await old.call(offers)
        session = await connected(answer)
        async with client() as new:
            await offers.accept(await new.offer(), pc_id=answer.pc_id, restart=True)
        await asyncio.sleep(1.1)
        before = len(session.heard)
        await until(lambda: len(session.heard) > before + 6_400)
        assert session.reasons == []


async def test_a_second_offer_of_the_same_connection_is_renegotiated(offers: Offers) -> None:
    async with client() as peer:
        first = await peer.call(offers)
        session = await connected(first)
        peer.pc.createDataChannel("later")
        second = await peer.call(offers, pc_id=first.pc_id)
        assert second.transport is first.transport
        opened: list[Channel] = []
        first.transport.on_channel = opened.append
        await until(lambda: opened)
        before = len(session.heard)
        await until(lambda: len(session.heard) > before)


async def test_an_unknown_id_begins_a_new_call(offers: Offers) -> None:
    async with client() as peer:
        answer = await peer.call(offers, pc_id="pc-gone", restart=True)
        assert not answer.resumed
        assert answer.pc_id != "pc-gone"
        await answer.transport.wait_connected()


# --- memory -----------------------------------------------------------------------------------


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


async def cycles(count: int) -> None:
    async with server() as offers:
        for _ in range(count):
            async with client() as peer:
                session = await connected(await peer.call(offers))
                await until(lambda s=session: s.heard)  # type: ignore[misc]
        await until(lambda: len(offers) == 0)
        assert offers.pending == 0


async def leftovers(count: int, *, warm: int) -> tuple[int, int, int]:
    await cycles(warm)
    gc.collect()
    files, objects, memory = (
        open_files(),
        len(gc.get_objects()),
        resident_kb(),
    )
    await cycles(count)
    gc.collect()
    return (
        open_files() - files,
        len(gc.get_objects()) - objects,
        resident_kb() - memory,
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_calls_leave_nothing_behind() -> None:
    files, objects, _ = await leftovers(12, warm=4)
    assert files <= 0
    assert objects < 12 * 100
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_two_hundred_calls_leave_nothing_behind() -> None:
    files, objects, memory = await leftovers(150, warm=50)
    assert files <= 0
    assert objects < 2_000
    assert memory < 8_000
