"""Vonage: signed JSON webhooks, a socket with bare audio."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowcat_server.carriers._values import audio_format
from flowcat_server.cli.far_side.model import (
    CALLED,
    CALLER,
    JSON,
    Asked,
    FarSide,
    Heard,
    Place,
    RawStream,
    Unexpected,
    listed,
)
from flowcat_server.core.audio import PCM_16K, AudioFormat
from flowcat_server.core.carrier import Account, Message


class VonageStream(RawStream):
    """Vonage's messages."""

    @property
    def says(self) -> AudioFormat:
        """As the answer asked for."""
        rate = self.account.options.get("sample_rate", "16000")
        return audio_format("audio/l16", rate) or PCM_16K

    def start(self) -> list[Message]:
        """The first message, with the answer's headers in it."""
        first = {
            "event": "websocket:connected",
            "content-type": f"audio/l16;rate={self.says.sample_rate}",
        }
        return [json.dumps({**first, **self.parameters})]

    def played(self, mark: str) -> Message | None:
        """A notice comes back when it was reached."""
        return json.dumps({"event": "websocket:notify", "payload": {"mark": mark}})

    def key(self, digit: str) -> Message | None:
        """A key."""
        return json.dumps({"event": "websocket:dtmf", "digit": digit, "duration": 260})

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``notify`` and ``clear``."""
        match fields:
            case {"action": "notify", "payload": {"mark": str() as name}}:
                return Heard(mark=name)
            case {"action": "clear"}:
                return Heard(cleared=True, answers=['{"event":"websocket:cleared"}'])
        raise Unexpected(f"a message that is not known: {fields.get('action')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VonageSide(FarSide):
    """Webhooks with a JWT that covers the body."""

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        """A call comes in."""
        numbers = {"from": CALLER.lstrip("+"), "to": CALLED.lstrip("+")}
        about = {"uuid": call, "conversation_uuid": f"CON-{call}", **numbers, **more}
        return Asked("POST", self.answer_path(run_id), json.dumps(about).encode(), JSON)

    def status(self, call: str) -> Asked:
        """The call is over."""
        about = {"uuid": call, "status": "completed", "direction": "inbound"}
        return Asked("POST", self.status_path, json.dumps(about).encode(), JSON)

    def sign(self, asked: Asked, url: str, account: Account, now_s: int) -> dict[str, str]:
        """A JWT (RFC 7519) with HS256."""
        del url
        if not account.webhook_key:
            return {}
        digest = hashlib.sha256(asked.body).hexdigest()
        claims = {"iat": now_s, "jti": digest[:32], "iss": "Vonage", "payload_hash": digest}
        for name, value in (
            ("api_key", account.options.get("api_key")),
            ("application_id", account.id),
        ):
            claims |= {name: value} if value else {}
        return {"Authorization": f"Bearer {_jwt(claims, account.webhook_key)}"}

    def place(self, answer: str) -> Place:
        """The endpoint of ``connect``, and its headers."""
        match listed(answer):
            case [{"action": "connect", "endpoint": [{"uri": str() as uri, "headers": about}]}]:
                return Place(uri, dict(about))
        raise Unexpected("an NCCO that does not connect to a WebSocket")

    def is_busy(self, status: int, answer: str) -> bool:
        """Nothing but ``talk``."""
        try:
            return status == 200 and [each.get("action") for each in listed(answer)] == ["talk"]
        except Unexpected:
            return False


def _jwt(claims: Mapping[str, Any], secret: str) -> str:
    head, body = (_encoded(json.dumps(part).encode())
                  for part in ({"typ": "JWT", "alg": "HS256"}, claims))  # fmt: skip
    digest = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{_encoded(digest)}"


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


VONAGE = VonageSide(name="vonage", stream=VonageStream, reports=True, signs="body", dated=True)
