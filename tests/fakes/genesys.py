"""Genesys' end of AudioHook: signed handshakes, and its side of the protocol."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import aiohttp

from tests.fakes.doors import ECHO, PUBLIC

SECRET = base64.b64encode(b"the client secret of the tests").decode()
PATH = "/telephony/ws/genesys"
ORGANIZATION = "d7934305-0972-4844-938e-9060eef73d05"
SESSION = "e160e428-53e2-487c-977d-96989bf5c99d"
CALL = "090eaa2f-72fa-480a-83e0-8667ff89c0ec"
YAML = (
    f"{ECHO}carriers: {{genesys: {{client_secret: '{SECRET}', api_key: KEY}}}}\n"
    f"server: {{public_url: '{PUBLIC}'}}\n"
)
COVERED = (
    "@request-target", "@authority", "audiohook-organization-id", "audiohook-session-id",
    "audiohook-correlation-id", "x-api-key",
)  # fmt: skip


def signed(
    now: float,
    *,
    nonce: str = "VGhpc0lzQVVuaXF1ZU5vbmNl",
    host: str = "voice.example",
    key: str = "KEY",
    covered: tuple[str, ...] = COVERED,
    secret: str = SECRET,
    expires: int = 30,
    path: str = PATH,
) -> dict[str, str]:
    """The handshake's headers, built from the text of the draft and not by our code."""
    headers = {
        "audiohook-organization-id": ORGANIZATION,
        "audiohook-session-id": SESSION,
        "audiohook-correlation-id": "c1",
        "x-api-key": key,
    }
    values = {"@request-target": path, "@authority": host, **headers}
    listed = " ".join(f'"{name}"' for name in covered)
    params = (
        f'({listed});keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={int(now)}'
        f";expires={int(now) + expires}"
    )
    lines = [f'"{name}": {values[name]}' for name in covered]
    base = "\n".join([*lines, f'"@signature-params": {params}'])
    given = hmac.new(base64.b64decode(secret), base.encode(), hashlib.sha256).digest()
    return {
        **headers,
        "Signature-Input": f"sig1={params}",
        "Signature": f"sig1=:{base64.b64encode(given).decode()}:",
    }


class Client:
    """Genesys' end of the socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seq = 0
        self.seen = 0
        self.audio = b""

    async def send(self, kind: str, **parameters: Any) -> None:
        self.seq += 1
        await self.socket.send_json(
            {
                "version": "2", "id": SESSION, "type": kind, "seq": self.seq,
                "serverseq": self.seen, "position": "PT0S", "parameters": parameters,
            }
        )  # fmt: skip

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message of the protocol; its sequence has to be right."""
        while True:
            message = await self.socket.receive(timeout=5)
            if message.type is aiohttp.WSMsgType.BINARY:
                self.audio += message.data
                continue
            assert message.type is aiohttp.WSMsgType.TEXT, message
            fields: dict[str, Any] = json.loads(message.data)
            self.seen += 1
            assert (fields["seq"], fields["id"], fields["version"]) == (self.seen, SESSION, "2")
            assert fields["clientseq"] <= self.seq
            assert fields["type"] == kind, fields
            return fields

    async def open(
        self, conversation: str = CALL, organization: str = ORGANIZATION, **more: Any
    ) -> None:
        media = [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}]
        await self.send(
            "open",
            organizationId=organization,
            conversationId=conversation,
            participant={"id": "p", "ani": "tel:+15550100", "dnis": "+15550199"},
            media=media,
            **more,
        )
