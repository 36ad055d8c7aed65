"""The carriers' side of a call: webhooks signed by the vendors' own libraries, and their wires."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from plivo.utils import signature_v3 as plivo_signature
from twilio.request_validator import RequestValidator

from flowcat_server.core.proof import basic
from tests.fakes.doors import ECHO, PUBLIC, Doors

SECRET = "s" * 32
USER = "flowcat"
TELNYX_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
TELNYX_PUBLIC = base64.b64encode(TELNYX_KEY.public_key().public_bytes_raw()).decode()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
OTHER_PUBLIC = base64.b64encode(OTHER_KEY.public_key().public_bytes_raw()).decode()
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Asked:
    """A webhook, not yet sent."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True)
class Place:
    """Where the answer to a webhook sends the call's audio."""

    url: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.url.removeprefix("wss://voice.example")


class Peer:
    """A carrier of Twilio's manner; others say what differs."""

    name = "twilio"
    block = f"auth_token: {SECRET}"
    signed = True
    """It signs webhooks."""
    covers_url = True
    """Its signature covers the address."""
    covers_call = True
    """Its signature covers which call it is."""
    dated = False
    """Its signature says when it was made."""
    frame = bytes([0x11, 0x22, 0x33, 0x44]) * 40
    socket_headers: Mapping[str, str] = {}
    subprotocols: tuple[str, ...] = ()

    def others(self) -> str:
        """The agent file of somebody else."""
        return self.yaml.replace(SECRET, "t" * 32).replace(TELNYX_PUBLIC, OTHER_PUBLIC)

    @property
    def yaml(self) -> str:
        return (
            f"{ECHO}carriers: {{{self.name}: {{{self.block}}}}}\n"
            f"server: {{public_url: '{PUBLIC}'}}\n"
        )

    def new_call(self) -> str:
        return f"call-{self.name}-{next(_numbers)}"

    # --- the webhook ------------------------------------------------------------------------

    def form(self, call: str) -> dict[str, str]:
        return {"CallSid": call, "From": "+15550100", "To": "+15550199", "AccountSid": "AC1"}

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        path = f"/telephony/answer/{self.name}" + (f"/{run_id}" if run_id else "")
        body = urlencode({**self.form(call), **more}).encode()
        return Asked("POST", path, body, "application/x-www-form-urlencoded")

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del now
        pairs = dict(_pairs(asked.body))
        return {"X-Twilio-Signature": RequestValidator(SECRET).compute_signature(url, pairs)}

    def place(self, answer: str) -> Place:
        stream = ET.fromstring(answer).find("./Connect/Stream")
        assert stream is not None, answer
        found = {each.attrib["name"]: each.attrib["value"] for each in stream}
        return Place(stream.attrib["url"], found)

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 200 and ET.fromstring(answer)[0].tag == "Reject"

    # --- the socket -------------------------------------------------------------------------

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        return [
            json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}),
            json.dumps(
                {
                    "event": "start",
                    "streamSid": "MZ" + call,
                    "start": {
                        "callSid": call,
                        "accountSid": "AC1",
                        "customParameters": dict(parameters),
                        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
                    },
                }
            ),
        ]

    def say(self, audio: bytes) -> str | bytes:
        payload = base64.b64encode(audio).decode()
        return json.dumps({"event": "media", "media": {"track": "inbound", "payload": payload}})

    def heard(self, message: str | bytes) -> bytes:
        """The audio of a message; nothing if it is none."""
        assert isinstance(message, str)
        fields = json.loads(message)
        return base64.b64decode(fields.get("media", {}).get("payload", ""))


class SignalWire(Peer):
    name = "signalwire"
    block = f"signing_key: {SECRET}"

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        return {"X-SignalWire-Signature": super().sign(asked, url, now)["X-Twilio-Signature"]}


class Cloudonix(Peer):
    name = "cloudonix"
    block = f"username: {USER}, password: {SECRET}"
    signed = covers_url = False

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del asked, url, now
        return {"Authorization": basic(USER, SECRET)}


class Telnyx(Peer):
    name = "telnyx"
    block = f"public_key: '{TELNYX_PUBLIC}'"
    covers_url = False
    dated = True

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del url
        stamp = str(int(now))
        given = TELNYX_KEY.sign(f"{stamp}|".encode() + asked.body)
        return {
            "telnyx-timestamp": stamp,
            "telnyx-signature-ed25519": base64.b64encode(given).decode(),
        }

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        start = {
            "call_control_id": call,
            "user_id": "u",
            "custom_parameters": dict(parameters),
            "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        }
        return [
            json.dumps({"event": "connected", "version": "1.0.0"}),
            json.dumps({"event": "start", "stream_id": "s", "start": start}),
        ]


class Exotel(Peer):
    name = "exotel"
    block = f"username: {USER}, password: {SECRET}"
    signed = covers_url = False
    frame = bytes([0x11, 0x22, 0x33, 0x44]) * 400
    socket_headers: Mapping[str, str] = {"Authorization": basic(USER, SECRET)}  # noqa: RUF012, RUF100

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        path = f"/telephony/answer/exotel{'/' if run_id else ''}{run_id}"
        query = {"CallSid": call, "CallFrom": "+15550100", "CallTo": "+15550199", **more}
        return Asked("GET", f"{path}?{urlencode(query)}")

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del asked, url, now
        return {"Authorization": basic(USER, SECRET)}

    def place(self, answer: str) -> Place:
        return Place(json.loads(answer)["url"])

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 503 and "url" not in json.loads(answer)

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        start = {
            "stream_sid": "s",
            "call_sid": call,
            "custom_parameters": dict(parameters),
            "media_format": {"encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16"},
        }
        return [
            json.dumps({"event": "connected"}),
            json.dumps({"event": "start", "stream_sid": "s", "start": start}),
        ]


class Plivo(Peer):
    name = "plivo"
    block = f"auth_token: {SECRET}"

    def form(self, call: str) -> dict[str, str]:
        return {"CallUUID": call, "From": "15550100", "To": "15550199", "CallStatus": "ringing"}

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del now
        nonce = f"nonce-{next(_numbers)}"
        pairs = {name: [value] for name, value in _pairs(asked.body)}
        signed = (
            plivo_signature.construct_get_url(url, {})
            if asked.method == "GET"
            else plivo_signature.construct_post_url(url, pairs)
        )
        given = plivo_signature.get_signature_v3(SECRET.encode(), signed.decode(), nonce)
        return {"X-Plivo-Signature-V3": given.decode(), "X-Plivo-Signature-V3-Nonce": nonce}

    def place(self, answer: str) -> Place:
        stream = ET.fromstring(answer).find("./Stream")
        assert stream is not None, answer
        assert stream.text
        return Place(stream.text)

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 200 and ET.fromstring(answer)[0].attrib == {"reason": "busy"}

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        start = {
            "callId": call,
            "streamId": "s",
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
        }
        extra = ";".join(f"{name}={value}" for name, value in parameters.items())
        return [
            json.dumps(
                {"event": "start", "sequenceNumber": 1, "start": start, "extra_headers": extra}
            )
        ]


class Vobiz(Plivo):
    name = "vobiz"
    covers_call = False

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del asked, now
        nonce = f"nonce-{next(_numbers)}"
        signed = f"{url.partition('?')[0]}.{nonce}".encode()
        given = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest())
        return {"X-Vobiz-Signature-V3": given.decode(), "X-Vobiz-Signature-V3-Nonce": nonce}


class Vonage(Peer):
    name = "vonage"
    block = f"signature_secret: {SECRET}, api_key: abcd1234"
    covers_url = False
    dated = True
    frame = bytes([0x11, 0x22, 0x33, 0x44]) * 160

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        path = f"/telephony/answer/vonage{'/' if run_id else ''}{run_id}"
        fields = {"uuid": call, "from": "15550100", "to": "15550199", **more}
        return Asked("POST", path, json.dumps(fields).encode(), "application/json")

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del url
        claims = {
            "iat": int(now),
            "jti": f"jti-{next(_numbers)}",
            "iss": "Vonage",
            "api_key": "abcd1234",
            "payload_hash": hashlib.sha256(asked.body).hexdigest(),
        }
        return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}

    def place(self, answer: str) -> Place:
        (connect,) = json.loads(answer)
        (endpoint,) = connect["endpoint"]
        return Place(endpoint["uri"], endpoint["headers"])

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 200 and [each["action"] for each in json.loads(answer)] == ["talk"]

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        first = {"event": "websocket:connected", "content-type": "audio/l16;rate=16000"}
        return [json.dumps({**first, **parameters, "call_uuid": call})]

    def say(self, audio: bytes) -> str | bytes:
        return audio

    def heard(self, message: str | bytes) -> bytes:
        return message if isinstance(message, bytes) else b""


class Jambonz(Peer):
    name = "jambonz"
    block = f"webhook_secret: {SECRET}"
    covers_url = False
    dated = True
    subprotocols = ("audio.jambonz.org",)

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        path = f"/telephony/answer/jambonz{'/' if run_id else ''}{run_id}"
        fields = {"call_sid": call, "from": "+15550100", "to": "+15550199", **more}
        body = json.dumps(fields, separators=(",", ":")).encode()
        return Asked("POST", path, body, "application/json")

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del url
        signed = f"{int(now)}.".encode() + asked.body
        given = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        return {"Jambonz-Signature": f"t={int(now)},v1={'0' * 64},v1={given}"}

    def place(self, answer: str) -> Place:
        listen, hangup = json.loads(answer)
        assert (listen["verb"], hangup["verb"]) == ("listen", "hangup")
        return Place(listen["url"], listen["metadata"])

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 200 and json.loads(answer)[0]["verb"] == "sip:decline"

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        return [json.dumps({"callSid": call, "sampleRate": 8000, **parameters})]

    def say(self, audio: bytes) -> str | bytes:
        return audio

    def heard(self, message: str | bytes) -> bytes:
        return message if isinstance(message, bytes) else b""


class Bandwidth(Cloudonix):
    name = "bandwidth"

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        path = f"/telephony/answer/bandwidth{'/' if run_id else ''}{run_id}"
        fields = {"eventType": "initiate", "callId": call, "from": "+15550100", "to": "+15550199"}
        return Asked("POST", path, json.dumps({**fields, **more}).encode(), "application/json")

    def place(self, answer: str) -> Place:
        stream = ET.fromstring(answer).find("./StartStream")
        assert stream is not None, answer
        found = {each.attrib["name"]: each.attrib["value"] for each in stream}
        return Place(stream.attrib["destination"], found)

    def is_busy(self, status: int, answer: str) -> bool:
        return status == 200 and [each.tag for each in ET.fromstring(answer)] == ["Hangup"]

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        about = {"callId": call, "streamId": "s", "accountId": "1"}
        return [
            json.dumps({"eventType": "start", "metadata": about, "streamParams": dict(parameters)})
        ]

    def say(self, audio: bytes) -> str | bytes:
        payload = base64.b64encode(audio).decode()
        return json.dumps({"eventType": "media", "track": "inbound", "payload": payload})


# --- switches and services that open the socket unasked -------------------------------------------


class Asterisk(Peer):
    name = "asterisk"
    block = f"username: {USER}, password: {SECRET}"
    subprotocols = ("media",)
    socket_headers: Mapping[str, str] = {"Authorization": basic(USER, SECRET)}  # noqa: RUF012, RUF100

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        return [
            f"MEDIA_START connection_id:c channel:n channel_id:{call} format:ulaw "
            "optimal_frame_size:160 ptime:20"
        ]

    def say(self, audio: bytes) -> str | bytes:
        return audio

    def heard(self, message: str | bytes) -> bytes:
        return message if isinstance(message, bytes) else b""


class FreeSwitch(Asterisk):
    name = "freeswitch"
    subprotocols = ()

    def start(self, call: str, parameters: Mapping[str, str]) -> list[str | bytes]:
        return [json.dumps({"call_id": call, **parameters})]


PEERS = [
    Peer(), SignalWire(), Cloudonix(), Telnyx(), Exotel(), Plivo(), Vobiz(), Vonage(), Jambonz(),
    Bandwidth(),
]  # fmt: skip
SWITCHES = [Asterisk(), FreeSwitch()]
"""Their password is the handshake's."""


def _pairs(body: bytes) -> list[tuple[str, str]]:
    return parse_qsl(body.decode(), keep_blank_values=True)


@dataclass
class Rung:
    """What a webhook was answered."""

    status: int
    text: str


async def send(house: Doors, asked: Asked, headers: Mapping[str, str], path: str = "") -> Rung:
    """Send a webhook."""
    kind = {"Content-Type": asked.content_type} if asked.content_type else {}
    url = aiohttp.client.URL(house.url + (path or asked.path), encoded=True)
    async with house.client.request(
        asked.method, url, data=asked.body or None, headers={**kind, **headers}
    ) as response:
        return Rung(response.status, await response.text())


async def ring(house: Doors, peer: Peer, call: str, run_id: str = "", **more: str) -> Rung:
    """A webhook as it should be."""
    asked = peer.webhook(call, run_id, **more)
    return await send(house, asked, peer.sign(asked, house.public + asked.path, house.clock.now))


@dataclass
class Leg:
    """The carrier's end of a media socket."""

    peer: Peer
    socket: aiohttp.ClientWebSocketResponse

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def say(self, audio: bytes) -> None:
        await self.send(self.peer.say(audio))

    async def hears(self, size: int, *, within_s: float = 5.0) -> bytes:
        heard = b""
        async with asyncio.timeout(within_s):
            while len(heard) < size:
                message = await self.socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                heard += self.peer.heard(message.data)
        return heard

    async def closed(self, *, within_s: float = 5.0) -> int:
        async with asyncio.timeout(within_s):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code or 0


@asynccontextmanager
async def media(
    house: Doors,
    peer: Peer,
    call: str,
    place: Place,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> AsyncIterator[Leg]:
    """The media socket of a call, started."""
    given = peer.socket_headers if headers is None else headers
    async with house.client.ws_connect(
        house.url + place.path, headers=given, protocols=peer.subprotocols
    ) as socket:
        leg = Leg(peer, socket)
        for message in peer.start(call, {**place.parameters, **more}):
            await leg.send(message)
        yield leg
