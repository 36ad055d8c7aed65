"""The doctor's visits to the real doors: an agent file, a house, a proxy between them."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowcat_server import carriers
from flowcat_server.cli.checkup.plan import Plan, Step
from flowcat_server.cli.checkup.run import run
from flowcat_server.cli.doctor import plan_of
from flowcat_server.cli.far_side import SIDES
from tests.callscript import loaded
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.peers import TELNYX_PUBLIC
from tests.fakes.proxy import Proxy, proxied

SECRET = "s" * 32
CLIENT_SECRET = b64encode(b"the client secret of the tests").decode()
BASIC = f"username: flowcat, password: {SECRET}"
BLOCKS = {
    "asterisk": BASIC,
    "audiosocket": "allow_from: [127.0.0.1]",
    "bandwidth": BASIC,
    "cloudonix": BASIC,
    "exotel": BASIC,
    "freeswitch": BASIC,
    "genesys": f"client_secret: '{CLIENT_SECRET}', api_key: KEY",
    "jambonz": f"webhook_secret: {SECRET}, {BASIC}",
    "plivo": f"auth_token: {SECRET}",
    "signalwire": f"signing_key: {SECRET}, codec: L16@16000h, byte_order: big",
    "telnyx": f"public_key: '{TELNYX_PUBLIC}', codec: L16, sample_rate: 16000",
    "twilio": f"auth_token: {SECRET}",
    "vobiz": f"auth_token: {SECRET}",
    "vonage": f"signature_secret: {SECRET}, api_key: abcd1234, sample_rate: 8000",
}
SERVED = [name for name in carriers.names() if SIDES[name].can_sign]


def yaml(name: str, block: str | None = None, more: str = "") -> str:
    block = BLOCKS[name] if block is None else block
    return f"{ECHO}carriers: {{{name}: {{{block}}}}}\n{more}"


def plan(name: str, url: str, file: str = "", **patience: Any) -> Plan:
    """What the doctor of an agent file would do; it waits less than it would."""
    made = plan_of(loaded(file or yaml(name)), name, url)
    quick = {"greeting_s": 8.0, "answer_s": 8.0, "hold_s": 0.6, "close_s": 8.0}
    return replace(made, **{**quick, **patience})


async def told(made: Plan) -> list[Step]:
    steps: list[Step] = []
    well = await run(made, steps.append)
    assert well == all(step.status != "fault" for step in steps)
    return steps


@asynccontextmanager
async def house(folder: Path, name: str, file: str = "") -> AsyncIterator[Doors]:
    async with doors(folder, file or yaml(name)) as opened:
        opened.clock.now = time.time()
        yield opened


async def fault(folder: Path, name: str, proxy: Proxy, **more: Any) -> Step:
    """The only fault that is found through a proxy."""
    server, mine = more.pop("server", ""), more.pop("mine", "")
    path = more.pop("path", "")
    async with house(folder, name, server) as opened, proxied(proxy) as url:
        proxy.to = opened.url
        steps = await told(plan(name, url + path, mine, **more))
    assert [step.status for step in steps].count("fault") == 1, steps
    assert steps[-1].status == "fault"
    assert steps[-1].advice
    return steps[-1]
