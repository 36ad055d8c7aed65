"""The server's doors on loopback, with real calls behind them and a records store in a folder."""

from __future__ import annotations

import asyncio
import itertools
import json
import xml.etree.ElementTree as ET
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from twilio.request_validator import RequestValidator

from flowcat_server.agents import Agents
from flowcat_server.calls import Calls
from flowcat_server.metrics import Metrics
from flowcat_server.providers.http import Http
from flowcat_server.records.recorder import Recorder
from flowcat_server.records.store import Store
from flowcat_server.routes.access import guard
from flowcat_server.routes.api import ApiDoor
from flowcat_server.routes.connections import app_runner, watch_connections
from flowcat_server.routes.dialling import DiallingDoor
from flowcat_server.routes.expected import CarrierCalls
from flowcat_server.routes.gate import Gate
from flowcat_server.routes.health import HealthDoor
from flowcat_server.routes.next import NextDoor
from flowcat_server.routes.outbound import OutboundCalls
from flowcat_server.routes.page import PageDoor
from flowcat_server.routes.peers import parse_networks
from flowcat_server.routes.telephony import TelephonyDoor
from flowcat_server.routes.tokens import StreamTokens
from flowcat_server.routes.webrtc import WebRtcDoor
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.webrtc import Offers, WebRtcSettings
from tests.callscript import loaded, parts
from tests.fakes.twilio_rest import ACCOUNT

AUTH_TOKEN = "12345678901234567890123456789012"
API_TOKEN = "api-token-of-the-tests"
PUBLIC = "https://voice.example"
ECHO = "topology: {mode: echo}\n"
TWILIO = f"carriers: {{twilio: {{account_sid: {ACCOUNT}, auth_token: '{AUTH_TOKEN}'}}}}\n"
SIGNED = f"{ECHO}{TWILIO}server: {{public_url: '{PUBLIC}'}}\n"

LOCAL = WebRtcSettings(bind_ips=("127.0.0.1",))

_sids = itertools.count(1)


class Clock:
    """Wall-clock time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_764_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Doors:
    """A running server, as far as doors and calls go."""

    url: str
    client: aiohttp.ClientSession
    calls: Calls
    store: Store
    metrics: Metrics
    tokens: StreamTokens
    clock: Clock
    public: str = PUBLIC

    async def settled(self, live: int = 0, *, within_s: float = 5.0) -> None:
        """Wait until so many calls are live, and have begun."""
        sessions = self.calls.live.values
        async with asyncio.timeout(within_s):
            while [each.running for each in sessions()] != [True] * live:  # noqa: ASYNC110 - a test looks from outside
                await asyncio.sleep(0.005)

    async def free(self, *, within_s: float = 5.0) -> None:
        """Wait until every place has been given back."""
        async with asyncio.timeout(within_s):
            while self.calls.count:  # noqa: ASYNC110 - a test looks from outside
                await asyncio.sleep(0.005)

    # --- a carrier's side ---------------------------------------------------------------------

    def signature(self, url: str, form: Mapping[str, str] | None = None) -> dict[str, str]:
        """The header with which Twilio's own library would sign a request."""
        given = RequestValidator(AUTH_TOKEN).compute_signature(url, form or {})
        return {"X-Twilio-Signature": given}

    async def ring(
        self,
        call_sid: str = "",
        *,
        path: str = "/telephony/answer/twilio",
        sign: bool = True,
        **fields: str,
    ) -> Answer:
        """Twilio's webhook for a new call."""
        form = {"CallSid": call_sid or new_sid(), "From": "+15550100", "To": "+15550199", **fields}
        headers = self.signature(self.public + path, form) if sign else {}
        async with self.client.post(self.url + path, data=form, headers=headers) as response:
            return Answer(form["CallSid"], response.status, await response.text())

    @asynccontextmanager
    async def media(
        self,
        call_sid: str,
        parameters: Mapping[str, str],
        *,
        path: str = "/telephony/ws/twilio",
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Leg]:
        """The media socket of a call, started."""
        async with self.client.ws_connect(self.url + path, headers=headers) as socket:
            leg = Leg(socket, "MZ" + call_sid)
            await leg.start(call_sid, parameters)
            yield leg

    @asynccontextmanager
    async def call(self, **fields: str) -> AsyncIterator[Leg]:
        """A whole call: webhook, then the media socket it asked for."""
        answer = await self.ring(**fields)
        assert answer.parameters, answer
        async with self.media(answer.call_sid, answer.parameters) as leg:
            yield leg


@dataclass(frozen=True)
class Answer:
    """What the webhook was answered."""

    call_sid: str
    status: int
    text: str

    @property
    def verb(self) -> str:
        """The document's first verb; empty where there is no document."""
        return ET.fromstring(self.text)[0].tag if self.text.startswith("<?xml") else ""

    @property
    def parameters(self) -> dict[str, str]:
        if self.verb != "Connect":
            return {}
        found = ET.fromstring(self.text).iterfind("./Connect/Stream/Parameter")
        return {each.attrib["name"]: each.attrib["value"] for each in found}

    @property
    def stream_url(self) -> str:
        stream = ET.fromstring(self.text).find("./Connect/Stream")
        assert stream is not None
        return stream.attrib["url"]


@dataclass
class Leg:
    """The carrier's end of a media socket."""

    socket: aiohttp.ClientWebSocketResponse
    stream_sid: str

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps({"streamSid": self.stream_sid, **message}))

    async def start(self, call_sid: str, parameters: Mapping[str, str]) -> None:
        await self.send(event="connected", protocol="Call", version="1.0.0")
        await self.send(
            event="start",
            start={
                "accountSid": ACCOUNT,
                "callSid": call_sid,
                "streamSid": self.stream_sid,
                "customParameters": dict(parameters),
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            },
        )

    async def say(self, payload: bytes) -> None:
        await self.send(
            event="media", media={"track": "inbound", "payload": b64encode(payload).decode()}
        )

    async def hears(self, size: int, *, within_s: float = 5.0) -> bytes:
        """The next `size` bytes of audio; marks are returned as a carrier does."""
        heard = b""
        async with asyncio.timeout(within_s):
            while len(heard) < size:
                message = json.loads(await self.socket.receive_str())
                assert message["streamSid"] == self.stream_sid
                if message["event"] == "media":
                    heard += b64decode(message["media"]["payload"], validate=True)
                elif message["event"] == "mark":
                    await self.send(event="mark", mark=message["mark"])
        return heard

    async def closed(self, *, within_s: float = 5.0) -> int:
        """Wait for the server to close; its close code."""
        async with asyncio.timeout(within_s):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code or 0


def new_sid() -> str:
    return f"CA{next(_sids):032d}"


@asynccontextmanager
async def doors(
    folder: Path,
    yaml: str = SIGNED,
    *,
    api: str = "http://127.0.0.1:9",
    recorded: bool = False,
    webrtc: WebRtcSettings = LOCAL,
    agents: Mapping[str, str] | None = None,
) -> AsyncIterator[Doors]:
    """Open the doors; every call is ended and awaited when the block is left.

    `agents` are further agents' names and files, for the ``routes`` that the YAML has.
    """
    if "api_url:" not in yaml:
        yaml = yaml.replace("auth_token:", f"api_url: '{api}', auth_token:", 1)
    for name, text in (agents or {}).items():
        (folder / f"{name}.yaml").write_text(text)
    listed = ", ".join(f"{name}: {name}.yaml" for name in agents or {})
    file = loaded(yaml.replace("routes:\n", f"routes:\n  agents: {{{listed}}}\n"), folder)
    clock = Clock()
    async with AsyncExitStack() as stack:
        http = Http()
        stack.push_async_callback(http.close)
        store = await Store.open(directory=folder / "calls")
        stack.push_async_callback(store.close)
        recorder = Recorder() if recorded else None
        if recorder is not None:
            recorder.start()
            stack.push_async_callback(asyncio.to_thread, recorder.close)
        metrics = Metrics()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        others = {name: await parts(other, name=name) for name, other in file.agents.items()}
        calls = Calls(Agents(await parts(file), others), store, recorder, metrics, tasks)
        tokens = StreamTokens(b"secret of the tests", clock)
        trusted = parse_networks(file.config.server.trusted_proxies)
        offers = Offers(webrtc)
        access = guard(API_TOKEN, public_url=file.config.server.public_url, trusted=trusted)
        app = web.Application(middlewares=[access])
        outbound = OutboundCalls(file.config, calls, http, tasks, clock)
        carrier_calls = CarrierCalls(calls, tokens, http, clock, outbound)
        gate = Gate(file.config.server.public_url, trusted, clock)
        for door in (
            PageDoor(),
            DiallingDoor(calls, outbound),
            ApiDoor(calls, store, {"agent": {"name": "test"}}),
            HealthDoor(calls, metrics, serve_metrics=True, writable=lambda: store.writable),
            WebRtcDoor(calls, offers),
            TelephonyDoor(file.config, carrier_calls, gate, Pacer(), http),
            NextDoor(file.config, carrier_calls, gate),
        ):
            app.add_routes(door.routes())
        runner = app_runner(app, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        watch = tasks.create_task(watch_connections(runner.server))
        stack.callback(watch.cancel)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        )
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        public = file.config.server.public_url or url
        stack.push_async_callback(offers.close)
        stack.push_async_callback(calls.end_all, "operator.hung_up")
        yield Doors(url, client, calls, store, metrics, tokens, clock, public)
