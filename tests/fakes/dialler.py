"""Carriers that are asked to call somebody: they dial, ring, and call our doors back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from aiohttp import web

from tests.fakes.doors import PUBLIC, Doors
from tests.fakes.peers import (
    SECRET,
    Asked,
    Leg,
    Peer,
    Place,
    Rung,
    Telnyx,
    media,
    send,
)

TO = "+15550100"
OURS = "+15550199"
JSON = ("vonage", "jambonz", "bandwidth", "exotel")
CALL_FIELDS = {
    "plivo": "CallUUID", "vobiz": "CallUUID", "vonage": "uuid", "jambonz": "call_sid",
    "bandwidth": "callId",
}  # fmt: skip


@dataclass
class Dialled:
    """What the carrier was asked for: the fields of the request, whatever their form."""

    path: str
    authorization: str
    fields: Mapping[str, Any]


@dataclass
class Dialler:
    """A carrier's API, and the phone at its other end."""

    peer: Peer
    url: str = ""
    status: int = 200
    """What the next requests to dial are answered."""
    delay_s: float = 0.0
    dials: list[Dialled] = field(default_factory=list)
    others: list[tuple[str, str, str]] = field(default_factory=list)
    """Other requests: method, path, body."""
    house: Doors | None = None
    on_dial: Callable[[], None] = lambda: None

    async def take(self, request: web.Request) -> web.Response:
        text = await request.text()
        if request.method == "POST" and self._dials(request.path):
            await asyncio.sleep(self.delay_s)
            if self.status >= 300:
                return web.json_response({"message": "not with this key"}, status=self.status)
            json_body = request.content_type == "application/json"
            form = {name: ",".join(values) for name, values in parse_qs(text).items()}
            self.dials.append(
                Dialled(
                    request.path,
                    request.headers.get("Authorization", ""),
                    json.loads(text) if json_body else form,
                )
            )
            self.on_dial()
            return web.json_response(self._told(), status=201)
        self.others.append((request.method, request.path, text))
        return web.json_response(self._told() if request.path.endswith("/token") else {})

    def _dials(self, path: str) -> bool:
        return path.endswith(
            ("/Calls.json", "/Call/", "/calls", "/Calls", "/application", "/connect.json")
        )

    @property
    def call(self) -> str:
        """The carrier's id of the last call."""
        return f"call-{self.peer.name}-{len(self.dials)}"

    def _told(self) -> dict[str, Any]:
        call = self.call
        return {
            "sid": call, "request_uuid": call, "uuid": call, "callId": call,
            "data": {"call_control_id": call}, "token": call, "Call": {"Sid": call},
            "access_token": "bearer-1",
        }  # fmt: skip

    # --- what the carrier does then -----------------------------------------------------------

    def _path(self, *names: str) -> str:
        """The path of an address that the request gave; with it, what proves the carrier."""
        fields = self.dials[-1].fields
        url = next(fields[name] for name in names if name in fields)
        url = url[0] if isinstance(url, list) else url
        url = url["url"] if isinstance(url, dict) else url
        scheme, _, rest = str(url).partition("://")
        host = PUBLIC.partition("://")[2]
        assert rest.removeprefix("flowcat:" + SECRET + "@").startswith(host), url
        assert scheme in ("https", "wss")
        return rest.partition(host)[2]

    async def _tell(self, asked: Asked) -> Rung:
        assert self.house is not None
        headers = self.peer.sign(asked, PUBLIC + asked.path, self.house.clock.now)
        return await send(self.house, asked, headers)

    async def reports(self, **fields: str) -> Rung:
        """A status callback, in the carrier's own words."""
        path = self._path(
            "StatusCallback", "hangup_url", "event_url", "webhook_url", "callback",
            "call_status_hook", "disconnectUrl",
        )  # fmt: skip
        if isinstance(self.peer, Telnyx):
            kind = fields.pop("event_type")
            payload = {"call_control_id": self.call, "client_state": self._state(), **fields}
            body = json.dumps({"data": {"event_type": kind, "payload": payload}})
            return await self._tell(Asked("POST", path, body.encode(), "application/json"))
        name = CALL_FIELDS.get(self.peer.name, "CallSid")
        if self.peer.name in JSON:
            body = json.dumps({name: self.call, **fields}, separators=(",", ":"))
            return await self._tell(Asked("POST", path, body.encode(), "application/json"))
        form = urlencode({name: self.call, **fields}).encode()
        return await self._tell(Asked("POST", path, form, "application/x-www-form-urlencoded"))

    def _state(self) -> str:
        return str(self.dials[-1].fields.get("client_state", ""))

    async def answers(self) -> Rung:
        """Somebody answers: the answer webhook."""
        if isinstance(self.peer, Telnyx):
            return await self.reports(event_type="call.answered", **{"from": OURS, "to": TO})
        path = self._path("Url", "answer_url", "url", "call_hook", "answerUrl")
        asked = self.peer.webhook(self.call, path.rpartition("/")[2])
        assert asked.path == path
        return await self._tell(asked)

    @asynccontextmanager
    async def talks(self) -> AsyncIterator[Leg]:
        """Somebody answers, and the media socket opens."""
        assert self.house is not None
        if "StreamUrl" in self.dials[-1].fields:
            place = Place("wss://voice.example" + self._path("StreamUrl"))
            async with media(self.house, self.peer, self.call, place) as leg:
                yield leg
            return
        rung = await self.answers()
        if isinstance(self.peer, Telnyx):
            place = Place(json.loads(self.others[-1][2])["stream_url"])
        else:
            place = self.peer.place(rung.text)
        async with media(self.house, self.peer, self.call, place) as leg:
            yield leg


@asynccontextmanager
async def dialler(peer: Peer) -> AsyncIterator[Dialler]:
    """A running API for one test."""
    api = Dialler(peer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
