"""An agent that passes calls on, its carrier, and the colleagues who are called."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from flowcat_server.carriers import bandwidth
from flowcat_server.core import events
from flowcat_server.session import Session
from tests.fakes.carrier_api import Api
from tests.fakes.carrier_api import carrier_api as any_api
from tests.fakes.doors import PUBLIC, Doors
from tests.fakes.peers import (
    Asked,
    Leg,
    Peer,
    Place,
    Rung,
    media,
    ring,
    send,
)
from tests.fakes.rsa_key import PEM
from tests.fakes.twilio_rest import ACCOUNT

AGENT = """
agent:
  graph_inline:
    nodes:
      - id: start
        type: startCall
        data:
          greeting: Hello.
          prompt: Be kind.
          transfer_targets:
            - {name: desk, target_phone: "+15550123", failed: Nobody is there.}
            - {name: ada, target_phone: "+15550124", mode: warm, failed: Ada is away.,
               introduce: "A call for you.", ring: 2s}
    edges: []
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true, delay_ms: 20}}
  llm: {provider: scripted, options: {replies: [I see.], loop: true, first_token_ms: 10}}
  tts: {provider: scripted, options: {first_audio_ms: 10, ms_per_char: 10}}
"""

CREDENTIALS: Mapping[str, str] = {
    "twilio": f"account_sid: {ACCOUNT}",
    "signalwire": "project_id: p, api_token: t",
    "telnyx": "api_key: KEY, connection_id: '1', from_number: '+15550199'",
    "plivo": "auth_id: MA1",
    "vobiz": "auth_id: MA1",
    "vonage": f"application_id: app-1, private_key: {json.dumps(PEM)}",
    "jambonz": "account_sid: a, api_key: k, application_sid: s",
    "bandwidth": "account_id: '9', client_id: c, client_secret: s, application_id: app",
}


@asynccontextmanager
async def carrier_api() -> AsyncIterator[Api]:
    """A carrier's API, which also grants Bandwidth's tokens."""
    async with any_api() as api:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bandwidth, "TOKEN_URL", f"{api.url}/oauth2/token")
            api.answer = {"access_token": "bearer"}
            yield api


async def until(true: Callable[[], bool], *, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - a test looks from outside
            await asyncio.sleep(0.01)


def yaml(peer: Peer, api: Api) -> str:
    credentials = CREDENTIALS.get(peer.name, "")
    address = f", api_url: '{api.url}'" if credentials else ""
    block = f"{peer.block}{address}{', ' if credentials else ''}{credentials}"
    return f"{AGENT}carriers: {{{peer.name}: {{{block}}}}}\nserver: {{public_url: '{PUBLIC}'}}\n"


async def live(house: Doors) -> Session:
    await house.settled(1)
    (session,) = house.calls.live.values()
    return session


@asynccontextmanager
async def talking(house: Doors, peer: Peer, call: str) -> AsyncIterator[tuple[Leg, Session]]:
    """A caller is connected to the agent."""
    rung = await ring(house, peer, call)
    async with media(house, peer, call, peer.place(rung.text)) as leg:
        yield leg, await live(house)


async def said(session: Session, text: str, *, within_s: float = 5.0) -> None:
    """Wait until the agent has said something, from now on."""
    heard = asyncio.Event()

    def listen(event: events.CallEvent) -> None:
        if isinstance(event, events.AgentHeard) and text in event.text:
            heard.set()

    session.subscribe(listen)
    async with asyncio.timeout(within_s):
        await heard.wait()


async def listening(leg: Leg) -> None:
    """The far end plays what it is sent, and answers marks."""
    async for message in leg.socket:
        fields = json.loads(message.data) if isinstance(message.data, str) else {}
        if fields.get("event") == "mark":
            await leg.send(json.dumps({"event": "mark", "mark": fields["mark"]}))
        elif fields.get("event") == "checkpoint":
            await leg.send(json.dumps({"event": "playedStream", "name": fields["name"]}))
        elif fields.get("action") == "notify":
            fields = {"event": "websocket:notify", "payload": fields["payload"]}
            await leg.send(json.dumps(fields))
        elif fields.get("type") == "mark":
            data = {**fields["data"], "event": "playout"}
            await leg.send(json.dumps({"type": "mark", "data": data}))


async def asked_next(
    house: Doors, peer: Peer, url: str, fields: Mapping[str, str], *, sign: bool = True
) -> Rung:
    """The carrier asks an address that it has been given."""
    assert url.startswith(PUBLIC)
    path = url.removeprefix(PUBLIC)
    if peer.name in ("vonage", "jambonz", "bandwidth", "telnyx"):
        body = json.dumps(fields, separators=(",", ":")).encode()
        asked = Asked("POST", path, body, "application/json")
    else:
        body = urlencode(fields).encode()
        asked = Asked("POST", path, body, "application/x-www-form-urlencoded")
    headers = peer.sign(asked, url, house.clock.now) if sign else {}
    return await send(house, asked, headers)


def leg_event(kind: str, state: str, **more: str) -> Asked:
    payload = {"call_control_id": "v3:leg-b", "client_state": state, **more}
    body = json.dumps({"data": {"event_type": kind, "id": kind, "payload": payload}})
    return Asked("POST", "/telephony/answer/telnyx", body.encode(), "application/json")


def warm_yaml(peer: Peer, api: Api) -> str:
    text = yaml(peer, api)
    if peer.name in ("signalwire", "plivo", "vonage", "jambonz", "bandwidth", "twilio"):
        text = text.replace(f"{peer.name}: {{", f"{peer.name}: {{from_number: '+15550199', ")
    return text


class Colleague:
    """Who is called, as their carrier has them."""

    def __init__(self, house: Doors, peer: Peer, api: Api) -> None:
        self.house, self.peer, self.api = house, peer, api
        self.call = peer.new_call()
        api.answer = {
            "sid": self.call,
            "request_uuid": self.call,
            "uuid": self.call,
            "callId": self.call,
            "access_token": "bearer",
            "data": {"call_control_id": self.call},
        }

    async def dialled(self) -> dict[str, Any]:
        """The request that had them called, as fields."""
        await until(lambda: self._dial() is not None)
        found = self._dial()
        assert found is not None
        return found

    def _dial(self) -> dict[str, Any] | None:
        asked = ("Url", "answer_url", "answerUrl", "webhook_url")
        for _, path, _, body in self.api.requests:
            fields = dict(parse_qsl(body)) if isinstance(body, str) else body
            if any(fields.get(name) for name in asked) or path.endswith("/Calls"):
                return fields
        return None

    async def answers(self) -> Place:
        """They pick up: the carrier asks what to do with them."""
        fields = await self.dialled()
        url = (
            fields.get("Url") or fields.get("answer_url") or fields.get("answerUrl")
            or fields.get("webhook_url") or fields["call_hook"]["url"]
        )  # fmt: skip
        url = url[0] if isinstance(url, list) else url
        asked = self.peer.webhook(self.call)
        asked = replace(asked, path=url.removeprefix(PUBLIC))
        if self.peer.name == "telnyx":
            payload = {"call_control_id": self.call, "client_state": fields["client_state"]}
            body = {"data": {"event_type": "call.answered", "id": "1", "payload": payload}}
            asked = replace(asked, body=json.dumps(body).encode(), content_type="application/json")
        rung = await send(self.house, asked, self.peer.sign(asked, url, self.house.clock.now))
        assert rung.status == 200, rung
        if self.peer.name == "telnyx":
            return Place(self.api.requests[-1][3]["stream_url"])
        return self.peer.place(rung.text)
