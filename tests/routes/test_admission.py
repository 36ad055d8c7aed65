"""Places: never one too many, never one lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from flowcat_server import calls as calls_module
from flowcat_server.core import ended
from tests.fakes.doors import (
    ECHO,
    SIGNED,
    doors,
    new_sid,
)

TRY_AGAIN_LATER = 1013


async def test_a_burst_of_twice_the_limit_accepts_exactly_the_limit(tmp_path: Path):
    async with doors(tmp_path, SIGNED + "limits: {max_calls: 20}\n") as house:
        answers = await asyncio.gather(*(house.ring() for _ in range(40)))
        verbs = [answer.verb for answer in answers]
        assert (verbs.count("Connect"), verbs.count("Reject")) == (20, 20)
        assert {answer.status for answer in answers} == {200}
        assert all('reason="busy"' in a.text for a in answers if a.verb == "Reject")
        assert house.calls.count == 20
        async with house.client.get(house.url + "/readyz") as response:
            assert (response.status, await response.json()) == (503, {"status": "full"})
        # Those that were accepted get their call.
        accepted = [answer for answer in answers if answer.verb == "Connect"]
        legs = [house.media(a.call_sid, a.parameters) for a in accepted]
        for leg in legs:
            await leg.__aenter__()
        await house.settled(20)
        assert (await house.ring()).verb == "Reject"
        for leg in legs:
            await leg.__aexit__(None, None, None)
        await house.settled(0)
        assert house.calls.count == 0


async def test_a_burst_of_sockets_without_webhooks_is_limited_too(tmp_path: Path):
    async with doors(tmp_path, ECHO + "limits: {max_calls: 3}\n") as house:
        legs = [house.media(new_sid(), {}) for _ in range(6)]
        opened = await asyncio.gather(*(leg.__aenter__() for leg in legs))
        await house.settled(3)
        codes = await asyncio.gather(
            *(asyncio.wait_for(leg.socket.receive(), 0.3) for leg in opened),
            return_exceptions=True,
        )
        refusals = [m.data for m in codes if isinstance(m, aiohttp.WSMessage)]
        assert refusals == [TRY_AGAIN_LATER] * 3
        for leg in legs:
            await leg.__aexit__(None, None, None)


async def test_a_place_that_nobody_takes_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calls_module, "RESERVATION_S", 0.05)
    async with doors(tmp_path, SIGNED + "limits: {max_calls: 1}\n") as house:
        late = await house.ring()
        assert (await house.ring()).verb == "Reject"
        await asyncio.sleep(0.1)
        assert house.calls.count == 0
        # Its token is still good: it takes a free place.
        async with house.media(late.call_sid, late.parameters):
            await house.settled(1)


async def test_a_draining_server_answers_busy_and_keeps_its_promises(tmp_path: Path):
    async with doors(tmp_path) as house:
        promised = await house.ring()
        async with house.call() as leg:
            await house.settled(1)
            drain = asyncio.create_task(house.calls.drain(30))
            await asyncio.sleep(0)
            assert (await house.ring()).verb == "Reject"
            async with house.media(promised.call_sid, promised.parameters) as other:
                await other.say(b"\x05" * 160)
                assert await other.hears(160) == b"\x05" * 160
                await leg.socket.close()
                await house.settled(1)
                assert not drain.done()
        await asyncio.wait_for(drain, 5)
        assert house.calls.count == 0


async def test_draining_ends_what_does_not_end_by_itself(tmp_path: Path):
    async with doors(tmp_path) as house:
        await house.ring()  # its call never comes
        async with house.call() as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            drain = asyncio.create_task(house.calls.drain(0.05))
            await leg.closed()
            await asyncio.wait_for(drain, 5)
            assert session.reason == ended.SERVER_DRAINED
            assert house.calls.count == 0
