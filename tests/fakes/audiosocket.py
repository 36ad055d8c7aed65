"""The AudioSocket door on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flowcat_server.providers.http import Http
from flowcat_server.routes.audiosocket import AudioSocketListener
from flowcat_server.routes.expected import CarrierCalls
from flowcat_server.routes.lines import lines
from flowcat_server.transports.pacer import Pacer
from tests.callscript import loaded
from tests.fakes.doors import ECHO, Doors


@asynccontextmanager
async def serving(house: Doors, yaml: str = ECHO) -> AsyncIterator[AudioSocketListener]:
    """The door of a house, which does not listen."""
    config = loaded(yaml).config
    http = Http()
    line = next(each for each in lines(config) if each.carrier.name == "audiosocket")
    calls = CarrierCalls(house.calls, house.tokens, http)
    listener = AudioSocketListener(line, calls, Pacer())
    try:
        yield listener
    finally:
        await listener.close()
        await http.close()


@asynccontextmanager
async def listening(house: Doors, yaml: str = ECHO) -> AsyncIterator[tuple[str, int]]:
    """The door of a house; its address."""
    async with serving(house, yaml) as listener:
        yield await listener.open("127.0.0.1:0")
