"""Carriers that call the doors: the far side's wires, signed by the vendors' own libraries."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from plivo.utils import signature_v3 as plivo_signature
from twilio.request_validator import RequestValidator

from flowcat_server.cli.far_side import SIDES
from flowcat_server.cli.far_side.model import Asked, FarSide, FarStream, Place
from flowcat_server.core.proof import basic
from tests.fakes.doors import ECHO, PUBLIC, Doors

SECRET = "s" * 32
USER = "flowcat"
TELNYX_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
TELNYX_PUBLIC = base64.b64encode(TELNYX_KEY.public_key().public_bytes_raw()).decode()
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
OTHER_PUBLIC = base64.b64encode(OTHER_KEY.public_key().public_bytes_raw()).decode()
_numbers = itertools.count(1)


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

    @property
    def side(self) -> FarSide:
        return SIDES[self.name]

    @property
    def subprotocols(self) -> tuple[str, ...]:
        return self.side.subprotocols

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
        return self.side.fields(call)

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        return self.side.webhook(call, run_id, **more)

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del now
        pairs = dict(_pairs(asked.body))
        return {"X-Twilio-Signature": RequestValidator(SECRET).compute_signature(url, pairs)}

    def place(self, answer: str) -> Place:
        return self.side.place(answer)

    def is_busy(self, status: int, answer: str) -> bool:
        return self.side.is_busy(status, answer)

    # --- the socket -------------------------------------------------------------------------

    def stream(self, call: str, parameters: Mapping[str, str]) -> FarStream:
        """The socket's messages; it names `call` whatever the answer said."""
        return self.side.stream(call, parameters)


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


class Exotel(Cloudonix):
    name = "exotel"
    frame = bytes([0x11, 0x22, 0x33, 0x44]) * 400
    socket_headers: Mapping[str, str] = {"Authorization": basic(USER, SECRET)}  # noqa: RUF012, RUF100


class Plivo(Peer):
    name = "plivo"
    block = f"auth_token: {SECRET}"

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


class Vobiz(Plivo):
    """Signed over the address alone, which is the weaker of the two manners."""

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

    def stream(self, call: str, parameters: Mapping[str, str]) -> FarStream:
        return super().stream(call, {**parameters, "call_uuid": call})


class Jambonz(Peer):
    name = "jambonz"
    block = f"webhook_secret: {SECRET}"
    covers_url = False
    dated = True

    def sign(self, asked: Asked, url: str, now: float) -> dict[str, str]:
        del url
        signed = f"{int(now)}.".encode() + asked.body
        given = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        return {"Jambonz-Signature": f"t={int(now)},v1={'0' * 64},v1={given}"}


class Bandwidth(Cloudonix):
    name = "bandwidth"


# --- switches and services that open the socket unasked -------------------------------------------


class Asterisk(Peer):
    name = "asterisk"
    block = f"username: {USER}, password: {SECRET}"
    socket_headers: Mapping[str, str] = {"Authorization": basic(USER, SECRET)}  # noqa: RUF012, RUF100


class FreeSwitch(Asterisk):
    name = "freeswitch"

    def stream(self, call: str, parameters: Mapping[str, str]) -> FarStream:
        return super().stream(call, {**parameters, "call_id": call})


PEERS = [
    Peer(), SignalWire(), Cloudonix(), Telnyx(), Exotel(), Plivo(), Vobiz(), Vonage(), Jambonz(),
    Bandwidth(),
]  # fmt: skip
SWITCHES = [Asterisk(), FreeSwitch()]
"""Their password is the handshake's."""


def path_of(place: Place) -> str:
    """Where the socket is at the doors."""
    return place.url.removeprefix("wss://voice.example")


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

    stream: FarStream
    socket: aiohttp.ClientWebSocketResponse

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self.socket.send_str(message)
        else:
            await self.socket.send_bytes(message)

    async def say(self, audio: bytes) -> None:
        await self.send(self.stream.say(audio))

    async def hears(self, size: int, *, within_s: float = 5.0) -> bytes:
        heard = b""
        async with asyncio.timeout(within_s):
            while len(heard) < size:
                message = await self.socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                heard += self.stream.hear(message.data).audio
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
        house.url + path_of(place), headers=given, protocols=peer.subprotocols
    ) as socket:
        leg = Leg(peer.stream(call, {**place.parameters, **more}), socket)
        for message in leg.stream.start():
            await leg.send(message)
        yield leg
