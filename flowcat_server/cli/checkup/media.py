"""The media socket: its handshake, and what a refusal means."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from flowcat_server.cli.checkup.beliefs import addresses, offsets
from flowcat_server.cli.checkup.plan import Plan, Told, Wrong
from flowcat_server.cli.checkup.refused import (
    believes,
    refusal,
    signature_refused,
    skewed,
    wrong_key,
)
from flowcat_server.cli.checkup.web import Answered, send
from flowcat_server.cli.checkup.wires import MAX_MESSAGE_BYTES, TcpWire, WebSocketWire, Wire
from flowcat_server.cli.far_side.model import Asked, Place

_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "Zmxvd2NhdCBkb2N0b3IhIQ==",
}
_NO_UPGRADE = "No WebSocket UPGRADE hdr"
"""How aiohttp answers a plain request where a WebSocket is served."""


@dataclass(slots=True)
class Doorway:
    """Opens the media socket."""

    plan: Plan
    web: aiohttp.ClientSession

    def place(self) -> Place:
        """Where the socket is, if no webhook says it."""
        plan = self.plan
        url = "ws" + plan.public.removeprefix("http") + plan.side.path(plan.call)
        return Place(url)

    async def open(self, place: Place) -> tuple[Told, Wire]:
        """A media socket, not yet started. Raises `Wrong`."""
        plan = self.plan
        if plan.line.carrier.over == "tcp":
            return await self._tcp()
        begun = time.monotonic()
        socket = await self._try(place, "")
        if isinstance(socket, aiohttp.ClientWebSocketResponse):
            if plan.side.subprotocols and socket.protocol not in plan.side.subprotocols:
                await socket.close()
                raise Wrong(
                    f"the handshake lost its subprotocol {plan.side.subprotocols[0]!r}",
                    "have the proxy pass on Sec-WebSocket-Protocol, both ways",
                )
            taken = int((time.monotonic() - begun) * 1000)
            path = urlsplit(place.url).path.partition("/token/")[0]
            return Told(f"{path} is open after {taken} ms"), WebSocketWire(socket)
        if socket is None:
            raise await self._refusal(place)
        raise Wrong(socket, "have the proxy pass WebSockets on unchanged")

    async def _tcp(self) -> tuple[Told, Wire]:
        parts = urlsplit(self.plan.url)
        try:
            async with asyncio.timeout(self.plan.connect_s):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except (OSError, TimeoutError) as error:
            raise Wrong(
                f"nothing listens at {parts.netloc}",
                "set carriers.audiosocket.bind, start the server, and open the port to the switch",
            ) from error
        return Told(f"{parts.netloc} is connected"), TcpWire(reader, writer)

    async def _try(
        self, place: Place, public: str, ahead_s: int = 0
    ) -> aiohttp.ClientWebSocketResponse | str | None:
        """Open it, signed for an address: the socket, what is wrong with it, or None: refused."""
        plan = self.plan
        try:
            async with asyncio.timeout(plan.connect_s):
                return await self.web.ws_connect(
                    self._address(place),
                    headers=self._headers(place, public, ahead_s, plan.unique),
                    protocols=plan.side.subprotocols,
                    autoping=False,
                    autoclose=False,
                    max_msg_size=MAX_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=plan.close_s),
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 101:
                return f"something on the way answers the upgrade itself: {error.message}"
            return None
        except TimeoutError:
            return f"the media socket's handshake is not answered within {plan.connect_s:.0f} s"
        except (aiohttp.ClientError, OSError):
            return "the connection was closed in the media socket's handshake"

    def _address(self, place: Place) -> URL:
        """Where the socket is to be had from here."""
        plan = self.plan
        _, _, rest = place.url.partition("/telephony/ws/")
        base = plan.url if plan.past_proxy else "http" + place.url.partition("/telephony/")[0][2:]
        return URL(f"{base}/telephony/ws/{rest}", encoded=True)

    def _headers(self, place: Place, public: str, ahead_s: int, unique: str) -> dict[str, str]:
        """Of a handshake; with another `unique` it is no repetition of one that was good."""
        plan = self.plan
        _, _, rest = place.url.partition("/telephony/ws/")
        base = "ws" + (public or plan.public).removeprefix("http")
        signed = plan.side.handshake(
            f"{base}/telephony/ws/{rest}",
            plan.line.account,
            int(time.time()) + ahead_s,
            unique,
        )
        return {**signed, **place.headers}

    async def _refusal(self, place: Place) -> Wrong:
        """What the answer to a handshake means that opened no socket."""
        plan = self.plan
        address = self._address(place)
        asked = Asked("GET", address.raw_path_qs.removeprefix(urlsplit(plan.url).path))
        answered = await send(
            plan, self.web, asked, {**_UPGRADE, **self._headers(place, "", 0, plan.unique[::-1])}
        )
        text = answered.text.strip()
        if answered.status in (400, 426) and _NO_UPGRADE in text:
            return Wrong(
                "the proxy drops the Upgrade header: the media socket arrives as a plain request",
                "pass WebSockets on (nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
                '$http_upgrade; proxy_set_header Connection "upgrade")',
            )
        if signature_refused(answered):
            return await self._signature(place, answered)
        if answered.status == 404:
            return Wrong(
                "the proxy passes on /telephony/answer/ but not /telephony/ws/"
                if plan.side.asks
                else f"{answered.server or 'what is before the server'} does not pass on "
                "/telephony/ws/",
                "have it pass on all of /telephony/, with its path as it is",
            )
        return refusal(plan, answered, "the media socket")

    async def _signature(self, place: Place, refused: Answered) -> Wrong:
        """Which handshake would be accepted."""
        plan = self.plan
        if plan.side.dated:
            steps = [*(sign * each for each in range(2, 60, 4) for sign in (1, -1))]
            for ahead_s in [*offsets(refused.skew_s)[:1], *steps]:
                if await self._opens(place, "", ahead_s):
                    return skewed(ahead_s)
        for public in addresses(plan.public, plan.config):
            if await self._opens(place, public):
                return believes(plan, public)
        return wrong_key(plan, "handshake")

    async def _opens(self, place: Place, public: str, ahead_s: int = 0) -> bool:
        socket = await self._try(place, public, ahead_s)
        if not isinstance(socket, aiohttp.ClientWebSocketResponse):
            return False
        await socket.close()
        return True
