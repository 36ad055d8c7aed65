"""Phone calls from their first frame to their end, and what one call's fault costs the others."""

from __future__ import annotations

import asyncio
import base64
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.core import ended, events
from flowcat_server.core.graph import TransferTarget
from tests.fakes.doors import (
    AUTH_TOKEN,
    PUBLIC,
    SIGNED,
    doors,
)
from tests.fakes.twilio_rest import twilio_rest

MEDIA = "/telephony/ws/twilio"


# --- ends -----------------------------------------------------------------------------------------


async def test_hanging_up_closes_the_socket(tmp_path: Path):
    async with doors(tmp_path) as house, twilio_rest("x") as rest, house.call() as leg:
        await house.settled(1)
        (session,) = house.calls.live.values()
        assert await house.calls.hang_up(session.id, ended.OPERATOR_HUNG_UP)
        assert await leg.closed() == 1000
        await house.settled(0)
        assert rest.attempts == 0
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.summary.ended_reason == ended.OPERATOR_HUNG_UP


@pytest.mark.parametrize("how", ["stop", "close", "reset"])
async def test_the_callers_end_is_the_calls_end(tmp_path: Path, how: str):
    async with doors(tmp_path) as house, house.call() as leg:
        await house.settled(1)
        (session,) = house.calls.live.values()
        if how == "stop":
            await leg.send(event="stop", stop={})
            await leg.closed()
        elif how == "close":
            await leg.socket.close()
        else:
            transport = leg.socket._response.connection.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()
        await house.settled(0)
        expected = ended.CARRIER_CLOSED if how == "reset" else ended.CALLER_HUNG_UP
        assert session.reason == expected


@pytest.mark.parametrize(
    ("statuses", "attempts", "moved"),
    [
        ([], 1, True),
        ([500], 2, True),
        ([0], 2, True),
        ([500, 500], 2, False),
        ([404], 1, False),
        ([401], 1, False),
    ],
    ids=["at-once", "after-a-fault", "after-a-drop", "never", "over-already", "refused"],
)
async def test_a_transfer_updates_the_call_before_the_socket_closes(
    tmp_path: Path, statuses: list[int], attempts: int, *, moved: bool
):
    async with (
        twilio_rest(AUTH_TOKEN) as rest,
        doors(tmp_path, SIGNED, api=rest.url) as house,
        house.call() as leg,
    ):
        rest.statuses = list(statuses)
        await house.settled(1)
        (session,) = house.calls.live.values()
        open_at_update: list[bool] = []
        update = rest.update

        async def watched(request: Any) -> Any:
            open_at_update.append(not leg.socket.closed)
            return await update(request)

        rest.update = watched  # type: ignore[method-assign]
        session.pass_on(TransferTarget("desk", "+15550123"))
        await leg.closed()
        await house.settled(0)
        assert rest.attempts == attempts
        # A call that is over already is out of our hands too; an echo has nothing to say to others.
        gone = moved or statuses == [404]
        assert session.reason == (ended.AGENT_TRANSFERRED if gone else ended.AGENT_ENDED)
        assert len(rest.updates) == moved
        for made in rest.updates:
            (dial, hang_up) = ET.fromstring(made.form["Twiml"])
            assert (dial.tag, dial.text, hang_up.tag) == ("Dial", "+15550123", "Hangup")
            assert dial.attrib.pop("action").startswith(f"{PUBLIC}/telephony/next/twilio/token/")
            assert dial.attrib == {"callerId": "+15550199", "timeout": "30", "method": "POST"}


# --- one call's fault -----------------------------------------------------------------------------
async def test_a_fault_inside_one_call_ends_only_that_call(tmp_path: Path):
    async with doors(tmp_path) as house, house.call() as good, house.call() as bad:
        await house.settled(2)
        victim, broken = house.calls.live.values()

        def explode(frame: object) -> None:
            raise ZeroDivisionError(frame)

        broken._entry = explode
        await bad.say(b"\x01" * 160)
        await bad.closed()
        await house.settled(1)
        assert broken.reason == ended.SERVER_ERROR
        await good.say(b"\x02" * 160)
        assert await good.hears(160) == b"\x02" * 160
        assert victim.reason is None


async def test_records_that_break_lose_one_call_and_not_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with doors(tmp_path) as house:

        async def broken(*_: object) -> None:
            raise OSError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(house.store, "call_accepted", broken)
            async with house.call() as leg:
                await leg.closed()
        await house.free()
        assert not house.calls.live
        async with house.call() as leg:
            await leg.say(b"\x02" * 160)
            assert await leg.hears(160) == b"\x02" * 160


# --- everything at once ---------------------------------------------------------------------------

CALLS = 20
FRAMES = 150


async def test_twenty_calls_for_three_seconds_lose_no_frame(tmp_path: Path):
    async with doors(tmp_path) as house:

        async def one(number: int) -> int:
            frames = [bytes((number, n, number ^ n, 0x7F)) * 40 for n in range(FRAMES)]
            async with house.call() as leg:
                hearing = asyncio.create_task(leg.hears(FRAMES * 160, within_s=20))
                loop = asyncio.get_running_loop()
                begun = loop.time()
                for n, frame in enumerate(frames):
                    await leg.say(frame)
                    await asyncio.sleep(max(0.0, begun + (n + 1) * 0.02 - loop.time()))
                assert await hearing == b"".join(frames), number
            return number

        seen: list[Any] = []
        start = house.calls.start

        def watch(*args: Any, **kwargs: Any) -> Any:
            def note(event: object) -> None:
                if isinstance(event, events.CallStarted):
                    seen.append(house.calls.live[event.call_id])

            return start(*args, **{**kwargs, "subscribers": [note]})

        house.calls.start = watch  # type: ignore[method-assign]
        assert await asyncio.gather(*map(one, range(CALLS))) == list(range(CALLS))
        await house.settled(0)
        assert [session.frames_in for session in seen] == [FRAMES] * CALLS
        assert {session.reason for session in seen} == {ended.CALLER_HUNG_UP}
        assert house.calls.count == 0


async def test_odd_but_readable_messages_do_not_lose_the_call(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        async with house.client.ws_connect(house.url + MEDIA) as socket:
            start = {
                "accountSid": None,
                "callSid": answer.call_sid,
                "tracks": "inbound",
                "customParameters": {**answer.parameters, "n": 1, "x": None, "deep": {"a": []}},
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": "8000", "channels": "1"},
            }
            await socket.send_json({"event": "start", "streamSid": "MZ1", "start": start})
            payload = base64.b64encode(b"\x44" * 160).decode()
            await socket.send_json(
                {"event": "media", "streamSid": None, "media": {"track": None, "payload": payload}}
            )
            message = json.loads(await asyncio.wait_for(socket.receive_str(), 5))
            assert base64.b64decode(message["media"]["payload"]) == b"\x44" * 160
