"""Calls from browsers: the offer's answer and refusals, the events socket, the beacon."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcat_server.core import ended
from flowcat_server.transports.webrtc import WebRtcSettings
from tests.fakes.doors import ECHO, LOCAL, Doors, doors
from tests.transports.webrtc.peers import Client, client, until

AGENT = """
agent: {name: desk, prompt: Be kind., greeting: Good morning.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there]}}
  llm: {provider: scripted, options: {replies: [First answer.], first_token_ms: 5}}
  tts: {provider: scripted, options: {first_audio_ms: 5, ms_per_char: 5}}
"""


async def post(house: Doors, body: object, **options: Any) -> tuple[int, Any]:
    async with house.client.post(
        house.url + "/webrtc/offer", data=json.dumps(body), **options
    ) as response:
        text = await response.text()
        return response.status, json.loads(text) if text.startswith("{") else text


async def offer(house: Doors, caller: Client, **fields: Any) -> dict[str, Any]:
    status, answer = await post(house, {"sdp": await caller.offer(), "type": "offer", **fields})
    assert status == 200, answer
    await caller.take(answer["sdp"])
    assert isinstance(answer, dict)
    return answer


@asynccontextmanager
async def on_air(house: Doors) -> Any:
    """A browser's call that has connected."""
    async with client() as caller:
        answer = await offer(house, caller)
        await house.settled(1)
        yield answer


class Reader:
    """The page's events socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                message = json.loads(await self.socket.receive_str())
                self.seen.append(message)
                if message["type"] == kind and fields.items() <= message.items():
                    return message


def events_url(house: Doors, pc_id: str, query: str = "") -> str:
    return f"{house.url}/webrtc/events/{pc_id}{query}"


# --- the offer ------------------------------------------------------------------------------------


async def test_an_offer_is_answered_and_its_call_runs_until_the_beacon(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, on_air(house) as answer:
        assert answer.keys() == {"sdp", "type", "pc_id", "call_id"}
        assert answer["type"] == "answer"
        assert list(house.calls.live) == [answer["call_id"]]
        session = house.calls.live[answer["call_id"]]
        async with house.client.post(f"{house.url}/webrtc/hangup/{answer['pc_id']}") as response:
            assert response.status == 204
        await house.free()
        assert session.reason == ended.CALLER_HUNG_UP
        assert not house.calls.live


async def test_an_offer_that_comes_in_many_pieces_is_read_whole(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, client() as caller:
        body = json.dumps({"sdp": await caller.offer(), "padding": "x" * 20_000}).encode()

        async def pieces() -> Any:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]
                await asyncio.sleep(0)

        async with house.client.post(house.url + "/webrtc/offer", data=pieces()) as response:
            assert response.status == 200, await response.text()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"nonsense", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"sdp":""}', 422),
        (b'{"sdp":5}', 422),
        (b'{"sdp":"hello"}', 422),
        (b'{"sdp":"v=0\\r\\n"}', 422),
        (b'{"sdp":"v=0\\r\\nm=video 9 UDP/TLS/RTP/SAVPF 96\\r\\n"}', 422),
        (b"[" * 50_000, 422),
        (b'{"sdp":"' + b"x" * 70_000 + b'"}', 413),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_an_offer_that_cannot_be_answered_is_refused_and_keeps_no_place(
    tmp_path: Path, body: bytes, status: int
):
    async with (
        doors(tmp_path, ECHO) as house,
        house.client.post(house.url + "/webrtc/offer", data=body) as response,
    ):
        assert response.status == status
        assert house.calls.count == 0


async def test_a_full_server_says_so_in_words(tmp_path: Path):
    async with doors(tmp_path, ECHO + "limits: {max_calls: 1}\n") as house, on_air(house):
        async with client() as other:
            status, answer = await post(house, {"sdp": await other.offer()})
        assert status == 503
        assert answer["error"] == "full"
        assert "busy" in answer["message"]


async def test_a_full_server_says_what_the_file_says(tmp_path: Path):
    limits = "limits: {max_calls: 1, when_full: {say: Come back later.}}\n"
    async with doors(tmp_path, ECHO + limits) as house, on_air(house):
        async with client() as other:
            status, answer = await post(house, {"sdp": await other.offer()})
        assert (status, answer) == (503, {"error": "full", "message": "Come back later."})


@pytest.mark.parametrize(
    ("query", "body", "agent"),
    [
        ("", {}, "test"),
        ("", {"agent": ""}, "test"),
        ("", {"agent": "sales"}, "sales"),
        ("?agent=sales", {}, "sales"),
        ("?agent=support", {"agent": "sales"}, "sales"),
    ],
)
async def test_a_browser_may_say_which_agent_it_wants(
    tmp_path: Path, query: str, body: dict[str, str], agent: str
):
    agents = {"sales": ECHO, "support": ECHO}
    yaml = ECHO + "routes:\n  rules: []\n"
    async with doors(tmp_path, yaml, agents=agents) as house, client() as caller:
        given = json.dumps({"sdp": await caller.offer(), **body})
        url = f"{house.url}/webrtc/offer{query}"
        async with house.client.post(url, data=given) as response:
            answer = await response.json()
        await caller.take(answer["sdp"])
        await house.settled(1)
        (session,) = house.calls.live.values()
        assert session.agent_name == agent
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            hello = await Reader(socket).until("hello")
            assert hello["agent"] == agent


@pytest.mark.parametrize("agent", ["nobody", 7, ["sales"]])
async def test_an_agent_that_there_is_not_is_named_as_such(tmp_path: Path, agent: object):
    async with doors(tmp_path, ECHO) as house, client() as caller:
        status, answer = await post(house, {"sdp": await caller.offer(), "agent": agent})
        assert (status, answer) == (422, "there is no such agent (known: test)")
        assert house.calls.count == 0


async def test_a_draining_server_says_so_in_words(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, client() as caller:
        house.calls.draining = True
        status, answer = await post(house, {"sdp": await caller.offer()})
        assert (status, answer["error"]) == (503, "draining")
        assert "restarted" in answer["message"]


async def test_without_a_free_port_the_answer_is_503(tmp_path: Path):
    settings = WebRtcSettings(bind_ips=("127.0.0.1",), port_range="40404-40404")
    async with doors(tmp_path, ECHO, webrtc=settings) as house, client() as one, client() as two:
        await offer(house, one)
        status, answer = await post(house, {"sdp": await two.offer()})
        assert status == 503
        assert answer["error"]
        assert answer["message"]
        assert house.calls.count == 1


async def test_a_browser_that_never_connects_gives_its_place_back(tmp_path: Path):
    settings = WebRtcSettings(bind_ips=("127.0.0.1",), connect_timeout=100)
    async with doors(tmp_path, ECHO, webrtc=settings) as house, client() as caller:
        status, answer = await post(house, {"sdp": await caller.offer()})
        assert status == 200
        assert house.calls.count == 1
        async with house.client.ws_connect(events_url(house, answer["pc_id"])) as socket:
            message = await asyncio.wait_for(socket.receive(), 5)
            assert message.type is aiohttp.WSMsgType.CLOSE
        await house.free()


async def test_a_page_that_leaves_while_connecting_gives_its_place_back(tmp_path: Path):
    async with doors(tmp_path, ECHO, webrtc=LOCAL) as house, client() as caller:
        _, answer = await post(house, {"sdp": await caller.offer()})
        async with house.client.post(f"{house.url}/webrtc/hangup/{answer['pc_id']}"):
            pass
        await house.free()


async def test_ending_all_calls_reaches_those_that_are_connecting(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, client() as caller:
        await post(house, {"sdp": await caller.offer()})
        await asyncio.wait_for(house.calls.end_all(ended.SERVER_DRAINED), 5)
        assert house.calls.count == 0


async def test_a_new_offer_for_a_known_peer_continues_its_call(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, on_air(house) as first, client() as again:
        second = await offer(house, again, pc_id=first["pc_id"], restart_pc=True)
        assert (second["pc_id"], second["call_id"]) == (first["pc_id"], first["call_id"])
        assert house.calls.count == 1
        await until(lambda: again.pc.connectionState == "connected")


async def test_an_unknown_peer_id_is_a_new_call(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, client() as caller:
        sdp = await caller.offer()
        seen = set()
        for pc_id in ("pc-of-someone", 5, None, ["x"]):
            status, answer = await post(house, {"sdp": sdp, "pc_id": pc_id})
            assert status == 200
            seen.add(answer["pc_id"])
        assert len(seen) == house.calls.count == 4
        assert "pc-of-someone" not in seen


async def test_a_beacon_of_an_unknown_peer_does_nothing(tmp_path: Path):
    async with (
        doors(tmp_path, ECHO) as house,
        house.client.post(house.url + "/webrtc/hangup/pc-x") as response,
    ):
        assert response.status == 204


# --- events ---------------------------------------------------------------------------------------


async def test_the_native_dialect_tells_the_call_from_its_first_moment(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            reader = Reader(socket)
            hello = await reader.until("hello")
            assert (hello["call_id"], hello["agent"]) == (answer["call_id"], "test")
            started = await reader.until("call_started")
            assert started["channel"] == "webrtc"
            heard = await reader.until("agent_heard")
            assert heard["text"] == "Good morning."
            await socket.send_str('{"type":"ping"}')
            await reader.until("pong")
            await socket.send_str('{"type":"text","text":"What are your hours?"}')
            assert (await reader.until("caller_text", final=True))["typed"]
            await reader.until("agent_heard", text="First answer.")
            await socket.send_str('{"type":"digit","digit":"5"}')
            assert (await reader.until("digit_pressed"))["digit"] == "5"
            await socket.send_str('{"type":"hangup"}')
            over = await reader.until("call_ended")
            assert over["reason"] == ended.CALLER_HUNG_UP
            message = await asyncio.wait_for(socket.receive(), 5)
            assert message.type is aiohttp.WSMsgType.CLOSE


async def test_flowcats_dialect_is_the_default(tmp_path: Path):
    async with (
        doors(tmp_path, AGENT) as house,
        on_air(house) as answer,
        house.client.ws_connect(events_url(house, answer["pc_id"])) as socket,
    ):
        reader = Reader(socket)
        await reader.until("rtf-bot-stopped-speaking")
        assert {m["type"] for m in reader.seen} >= {
            "rtf-bot-text",
            "rtf-bot-started-speaking",
            "rtf-bot-stopped-speaking",
        }
        assert all(m.keys() == {"type", "payload"} for m in reader.seen)


async def test_nonsense_from_the_page_changes_nothing(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            for text in (
                "nonsense",
                "[]",
                "{}",
                "[" * 10_000,
                '{"type":5}',
                '{"type":"digit","digit":"12"}',
                '{"type":"digit","digit":""}',
                '{"type":"text","text":5}',
                '{"type":"text","text":"   "}',
                '{"type":"from the future"}',
            ):
                await socket.send_str(text)
            await socket.send_bytes(b"\x00")
            await socket.send_str('{"type":"ping"}')
            reader = Reader(socket)
            await reader.until("pong")
            kinds = {message["type"] for message in reader.seen}
            assert not kinds & {"digit_pressed", "call_ended"}
            assert not [m for m in reader.seen if m["type"] == "caller_text"]


async def test_a_call_has_one_reader_and_may_have_another_later(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            await Reader(socket).until("call_started")
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await house.client.ws_connect(url)
            assert refused.value.status == 404
        # A request that is no WebSocket must not take the place for ever.
        async with house.client.get(url) as response:
            assert response.status == 400
        async with asyncio.timeout(5):
            while True:
                try:
                    async with house.client.ws_connect(url) as socket:
                        await Reader(socket).until("hello")
                        break
                except aiohttp.WSServerHandshakeError:
                    await asyncio.sleep(0.01)


async def test_unknown_calls_and_dialects_are_not_found(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, on_air(house) as answer:
        for url in (
            events_url(house, "pc-unknown"),
            events_url(house, answer["pc_id"], "?format=klingon"),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await house.client.ws_connect(url)
            assert refused.value.status == 404


async def test_a_fault_behind_a_command_ends_the_call_and_not_its_events(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:

        def explode(text: str) -> None:
            raise ZeroDivisionError(text)

        house.calls.live[answer["call_id"]].receive_text = explode  # type: ignore[method-assign]
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            await socket.send_str('{"type":"text","text":"hello"}')
            over = await Reader(socket).until("call_ended")
            assert over["reason"] == ended.SERVER_ERROR


async def test_a_page_that_lost_its_socket_goes_on_behind_the_last_event_it_got(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as lost:
            old = Reader(lost)
            last = await old.until("agent_text")
            async with house.client.ws_connect(f"{url}&after={last['seq']}") as socket:
                new = Reader(socket)
                await new.until("agent_heard")
                sequence = [message["seq"] for message in new.seen if "seq" in message]
                assert sequence == list(range(last["seq"] + 1, last["seq"] + 1 + len(sequence)))
                async with asyncio.timeout(5):
                    while (message := await lost.receive()).type is aiohttp.WSMsgType.TEXT:
                        pass  # what had been sent to it before
                assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def test_a_page_that_lost_its_socket_is_told_what_had_arrived_of_its_own(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house, on_air(house) as answer:
        url = events_url(house, answer["pc_id"], "?format=native")
        async with house.client.ws_connect(url) as socket:
            reader = Reader(socket)
            assert (await reader.until("hello"))["taken"] == 0
            await socket.send_str('{"type":"text","text":"What are your hours?"}')
            await socket.send_str('{"type":"ping"}')
            await socket.send_str('{"type":"digit","digit":"5"}')
            last = await reader.until("digit_pressed")
        async with house.client.ws_connect(f"{url}&after={last['seq']}") as socket:
            assert (await Reader(socket).until("hello"))["taken"] == 2
