"""Calls that nobody is in any more, and calls without end: over in time, at every door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flowcat_server import carriers
from flowcat_server import session as session_module
from flowcat_server.core import ended
from tests.fakes import genesys
from tests.fakes.audiosocket import listening
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.peers import PEERS, SWITCHES, Place, media, ring
from tests.routes.test_audiosocket import connected, framed
from tests.transports.webrtc.peers import client

SOCKETS = {peer.name: peer for peer in (*PEERS, *SWITCHES)}
DOORS = [*carriers.names(), "webrtc"]
Talk = Callable[[], Awaitable[None]]
"""Has the caller say something for 20 ms."""


def yaml_of(name: str) -> str:
    if name in SOCKETS:
        return SOCKETS[name].yaml
    return genesys.YAML if name == "genesys" else ECHO


@asynccontextmanager
async def on_the_line(house: Doors, name: str) -> AsyncIterator[Talk]:
    """A call through this door."""
    if name in SOCKETS:
        peer = SOCKETS[name]
        call, place = peer.new_call(), Place(f"/telephony/ws/{name}")
        if name not in {each.name for each in SWITCHES}:
            place = peer.place((await ring(house, peer, call)).text)
        async with media(house, peer, call, place) as leg:
            yield lambda: leg.say(peer.frame)
    elif name == "genesys":
        headers = genesys.signed(house.clock.now)
        async with house.client.ws_connect(house.url + genesys.PATH, headers=headers) as socket:
            await genesys.Client(socket).open()
            yield lambda: socket.send_bytes(b"\x55" * 160)
    elif name == "audiosocket":
        async with listening(house) as address, connected(address) as switch:
            await switch.start()
            yield lambda: switch.send(framed(0x10, bytes(320)))
    else:
        async with client() as caller:
            url = f"{house.url}/webrtc/offer"
            async with house.client.post(url, json={"sdp": await caller.offer()}) as response:
                await caller.take((await response.json())["sdp"])
            yield lambda: asyncio.sleep(0)  # a browser's track sends by itself


async def end_of(house: Doors) -> str | None:
    await house.settled(1)
    (session,) = house.calls.live.values()
    await house.free(within_s=15)
    return session.reason


@pytest.mark.parametrize("name", [name for name in DOORS if name != "webrtc"])
async def test_a_call_without_audio_is_over(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session_module, "WATCH_INTERVAL_MS", 20)
    yaml = yaml_of(name) + "limits: {media_timeout: 200ms}\n"
    async with doors(tmp_path, yaml) as house, on_the_line(house, name) as talk:
        await talk()
        assert await end_of(house) == ended.CALLER_MEDIA_LOST


@pytest.mark.parametrize("name", DOORS)
async def test_a_call_that_goes_on_and_on_is_over(tmp_path: Path, name: str):
    yaml = yaml_of(name) + "limits: {media_timeout: 10s, max_call: 300ms}\n"
    async with doors(tmp_path, yaml) as house, on_the_line(house, name) as talk:
        ending = asyncio.create_task(end_of(house))
        while not ending.done():
            try:
                await talk()
            except ConnectionError:
                break  # it is over, and the socket with it
            await asyncio.sleep(0.02)
        assert await ending == ended.SERVER_LIMIT
