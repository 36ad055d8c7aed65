"""What the page reads: the server, its calls, their recordings."""

from __future__ import annotations

import asyncio
import io
import wave
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from flowcat_server.core import ended, events
from flowcat_server.core.events import AgentHeard, CallEvent
from tests.fakes.doors import ECHO, Doors, doors

AGENT = """
agent:
  name: desk
  prompt: Be kind.
  greeting: Good morning to you.
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there]}}
  llm: {provider: scripted, options: {replies: [First answer.]}}
  tts: {provider: scripted, options: {first_audio_ms: 5, ms_per_char: 5}}
"""


async def get(house: Doors, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    async with house.client.request(
        method, URL(house.url + path, encoded=True), headers=headers
    ) as response:
        if response.content_type == "application/json":
            return response.status, await response.json()
        return response.status, await response.read()


async def finished_call(house: Doors, frames: int = 10) -> str:
    """Make a call and hang up; its id."""
    async with house.call() as leg:
        await house.settled(1)
        (call_id,) = house.calls.live
        for _ in range(frames):
            await leg.say(b"\x20" * 160)
        await leg.hears(frames * 160)
    await house.free()
    return call_id


async def test_info_tells_the_server_and_its_room(tmp_path: Path):
    async with doors(tmp_path, ECHO + "limits: {max_calls: 7}\n") as house, house.call():
        await house.settled(1)
        status, info = await get(house, "/api/info")
        assert status == 200
        assert info["name"] == "flowcat-server"
        assert info["limits"] == {"max_calls": 7, "live": 1}
        assert info["agent"] == {"name": "test"}
        assert info["secure"] is False
        assert info["agents"] == ["test"]


async def test_info_tells_of_each_agent(tmp_path: Path):
    knows = (
        "agent: {prompt: Sell.}\nknowledge: [{questions: [How much?], answer: Little.}]\n"
        "topology: {vad: scripted, stt: scripted, llm: scripted, tts: scripted}\n"
    )
    yaml = ECHO + "routes:\n  rules: []\n"
    async with doors(tmp_path, yaml, agents={"sales": knows}) as house:
        status, info = await get(house, "/api/info?agent=sales")
        assert status == 200
        assert info["agents"] == ["test", "sales"]
        assert info["agent"] == {"name": "sales", "suggestions": ["How much?"]}
        assert info["topology"]["mode"] == "cascaded"
        status, info = await get(house, "/api/info?agent=nobody")
        assert (status, info) == (404, b"no such agent (known: test, sales)")


async def test_calls_are_listed_as_the_page_reads_them(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        first, second = await finished_call(house), await finished_call(house)
        async with house.call():
            await house.settled(1)
            status, body = await get(house, "/api/calls?limit=50")
            assert status == 200
            live, *past = body["calls"]
            assert [call["id"] for call in past] == [second, first]
            assert (live["live"], live["duration_ms"]) == (True, None)
        for call in past:
            assert call["agent"] == "test"
            assert call["channel"] == "twilio"
            assert (call["from"], call["to"]) == ("+15550100", "+15550199")
            assert call["started_at"].endswith("Z")
            assert call["duration_ms"] >= 0
            assert call["ended_reason"] == ended.CALLER_HUNG_UP
            assert (call["recording"], call["live"]) == (False, False)
            assert isinstance(call["turns"], int)
        assert [c["id"] for c in (await get(house, "/api/calls?limit=1"))[1]["calls"]] != [first]
        page = (await get(house, f"/api/calls?before={second}"))[1]["calls"]
        assert [call["id"] for call in page] == [first]


async def test_one_call_is_shown_with_turns_latency_and_events(tmp_path: Path):
    async with doors(tmp_path, AGENT) as house:
        async with house.call() as leg:
            await house.settled(1)
            (call_id,) = house.calls.live
            (session,) = house.calls.live.values()
            heard: asyncio.Queue[CallEvent] = asyncio.Queue()
            session.subscribe(
                lambda event: heard.put_nowait(event) if isinstance(event, AgentHeard) else None
            )
            await leg.hears(len("Good morning to you.") * 5 * 8)
            await asyncio.wait_for(heard.get(), 5)
            session.receive_digit("5")
            session.receive_text("hello")
            await leg.hears(len("First answer.") * 5 * 8)
            await asyncio.wait_for(heard.get(), 5)
        await house.free()
        status, body = await get(house, f"/api/calls/{call_id}")
        assert status == 200
        assert body.keys() == {"call", "turns", "events", "tool_calls", "usage", "variables"}
        used = {line["kind"]: line for line in body["usage"]}
        assert used["tts"].keys() == {"kind", "provider", "characters", "audio_ms"}
        heard = used["heard"]
        assert heard["characters"] == sum(len(turn["agent"]) for turn in body["turns"])
        assert heard["audio_ms"] == sum(turn["heard_ms"] for turn in body["turns"])
        assert used["llm"]["output_tokens"] > 0
        assert body["call"]["id"] == call_id
        assert body["variables"]["caller_number"] == "+15550100"
        assert body["turns"][0]["agent"].startswith("Good morning")
        for turn in body["turns"]:
            latency = turn["latency"]
            assert latency is None or latency["total"] == sum(
                value for part, value in latency.items() if part != "total"
            )
            assert not any(name.endswith("_first_audio_ms") for name in turn)
        assert {event["type"] for event in body["events"]} >= {"digit_pressed"}


async def test_what_happened_is_told_again_as_the_events_socket_told_it(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        async with house.call():
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.publish(events.NodeEntered(100, "n1", "Booking"))
            session.publish(events.ToolStarted(200, "t1", "hours", {"day": "Saturday"}))
            session.publish(events.Notice(205, "info", "x", "Hold on."))
            session.publish(events.ToolEnded(210, "t1", "hours", "9-13", ok=True, duration_ms=10))
            session.publish(events.ToolStarted(300, "t2", "book", {}))
        await house.free()
        _, body = await get(house, f"/api/calls/{session.id}")
        own = ("agent_heard", "call_ended")
        told = [event for event in body["events"] if event["type"] not in own]
        assert told == [
            {"type": "node_entered", "at_ms": 100, "node": "n1", "name": "Booking"},
            {
                "type": "tool_started",
                "at_ms": 200,
                "tool_call_id": "t1",
                "name": "hours",
                "arguments": {"day": "Saturday"},
            },
            {"type": "notice", "at_ms": 205, "level": "info", "code": "x", "text": "Hold on."},
            {
                "type": "tool_ended",
                "at_ms": 210,
                "tool_call_id": "t1",
                "name": "hours",
                "result": "9-13",
                "ok": True,
                "duration_ms": 10,
            },
            {
                "type": "tool_started",
                "at_ms": 300,
                "tool_call_id": "t2",
                "name": "book",
                "arguments": {},
            },
        ]


@pytest.mark.parametrize(
    "path",
    [
        "/api/calls/unknown",
        "/api/calls/unknown/recording",
        "/api/calls/..%2f..%2fetc%2fpasswd/recording",
        "/api/calls/%00",
        "/api/calls/%ff",
        "/api/calls/" + "x" * 65,
        "/api/calls/.",
        "/api/calls/a'b",
    ],
)
async def test_what_is_not_a_call_is_not_found(tmp_path: Path, path: str):
    async with doors(tmp_path, ECHO) as house:
        for method in ("GET", "DELETE"):
            assert (await get(house, path, method))[0] in (404, 405)


async def test_wrong_paging_is_told(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        for query in ("limit=x", "limit=" + "9" * 5000, "limit=", "before=%00", "before=a/b"):
            assert (await get(house, f"/api/calls?{query}"))[0] == 400, query
        for query in ("limit=0", "limit=-5", "limit=100000", "before=unknown"):
            assert await get(house, f"/api/calls?{query}") == (200, {"calls": []}), query


async def test_a_live_call_is_hung_up_and_not_deleted(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house, house.call() as leg:
        await house.settled(1)
        (call_id,) = house.calls.live
        assert (await get(house, f"/api/calls/{call_id}", "DELETE"))[0] == 409
        assert (await get(house, f"/api/calls/{call_id}/hangup", "POST"))[0] == 204
        await leg.closed()
        await house.free()
        assert (await get(house, f"/api/calls/{call_id}/hangup", "POST"))[0] == 404
        assert (await get(house, f"/api/calls/{call_id}", "DELETE"))[0] == 204
        assert (await get(house, f"/api/calls/{call_id}"))[0] == 404
        assert (await get(house, f"/api/calls/{call_id}", "DELETE"))[0] == 404


async def test_a_recording_is_played_whole_and_in_ranges_and_goes_with_its_call(tmp_path: Path):
    async with doors(tmp_path, ECHO, recorded=True) as house:
        call_id = await finished_call(house)
        path = f"/api/calls/{call_id}/recording"
        status, sound = await get(house, path)
        assert status == 200
        with wave.open(io.BytesIO(sound)) as recording:
            assert (recording.getnchannels(), recording.getframerate()) == (2, 8000)
            assert recording.getnframes() > 0
        async with house.client.get(house.url + path, headers={"Range": "bytes=4-11"}) as part:
            assert part.status == 206
            assert part.headers["Content-Type"] == "audio/wav"
            assert part.headers["Content-Range"] == f"bytes 4-11/{len(sound)}"
            assert await part.read() == sound[4:12]
        async with house.client.get(house.url + path, headers={"Range": "bytes=44-"}) as part:
            assert await part.read() == sound[44:]
        async with house.client.get(
            house.url + path, headers={"Range": f"bytes={len(sound)}-"}
        ) as part:
            assert part.status == 416
        (summary,) = (await get(house, "/api/calls"))[1]["calls"]
        assert summary["recording"] is True
        assert (await get(house, f"/api/calls/{call_id}", "DELETE"))[0] == 204
        assert (await get(house, path))[0] == 404
        assert not await asyncio.to_thread(lambda: list(tmp_path.rglob("*.wav")))
