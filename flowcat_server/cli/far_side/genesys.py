"""Genesys Cloud's AudioHook client: a signed handshake, a protocol with a sequence."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flowcat_server.carriers.genesys import COVERED
from flowcat_server.cli.far_side.model import (
    CALLED,
    CALLER,
    FarSide,
    Heard,
    RawStream,
    Unexpected,
)
from flowcat_server.core.carrier import Account, Message

ORGANIZATION = "00000000-0000-4000-8000-00000000d0c7"
LIFETIME_S = 10


class GenesysStream(RawStream):
    """AudioHook, version 2."""

    def __init__(
        self, call: str, parameters: Mapping[str, str], account: Account | None = None
    ) -> None:
        super().__init__(call, parameters, account)
        self.seq = 0
        self.seen = 0
        """The last of the server's messages."""

    def start(self) -> list[Message]:
        """``open``."""
        media = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
        return [
            self.message(
                "open",
                organizationId=organization(self.account),
                conversationId=self.call,
                participant={"ani": f"tel:{CALLER}", "dnis": f"tel:{CALLED}"},
                media=[media],
                inputVariables=self.parameters,
            )
        ]

    def message(self, kind: str, **parameters: Any) -> str:
        """A message of the protocol."""
        self.seq += 1
        return json.dumps(
            {
                "version": "2",
                "id": self.call,
                "type": kind,
                "seq": self.seq,
                "serverseq": self.seen,
                "position": f"PT{self.sent * self.chunk_ms / 1000:.2f}S",
                "parameters": parameters,
            }
        )

    def key(self, digit: str) -> Message | None:
        """A key."""
        return self.message("dtmf", digit=digit)

    def unknown(self, size: int) -> Message | None:
        """A message that means nothing."""
        return self.message("doctor", padding="x" * size)

    def stop(self) -> list[Message]:
        """``close``."""
        return [self.message("close", reason="end")]

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``opened``, ``event``, ``disconnect``, ``closed``."""
        if fields.get("seq") != self.seen + 1 or fields.get("id") != self.call:
            raise Unexpected("a message out of its order")
        self.seen += 1
        match fields:
            case {"type": "opened", "parameters": {"media": [_]}} | {"type": "pong"}:
                return Heard()
            case {"type": "closed"}:
                return Heard(ending=True)
            case {"type": "event", "parameters": {"entities": [{"type": "barge_in"}]}}:
                return Heard(cleared=True)
            case {"type": "disconnect"}:
                return Heard(ending=True, answers=self.stop())
        raise Unexpected(f"a message that is not known: {fields.get('type')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesysSide(FarSide):
    """An HTTP Message Signature on the handshake."""

    def new_call(self, unique: str) -> str:
        """A UUID."""
        return "-".join((unique[:8], unique[8:12], unique[12:16], unique[16:20], unique[20:32]))

    def handshake(self, url: str, account: Account, now_s: int, unique: str) -> dict[str, str]:
        """All that has to be covered, with ``hmac-sha256``."""
        api_key = account.options.get("api_key", "")
        headers = {
            "audiohook-organization-id": organization(account),
            "audiohook-session-id": self.new_call(unique),
            "audiohook-correlation-id": self.new_call(unique),
            "x-api-key": api_key,
        }
        if not account.webhook_key:
            return headers
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        values = {"@request-target": target, "@authority": parts.netloc.lower(), **headers}
        names = " ".join(f'"{name}"' for name in COVERED)
        nonce = hashlib.sha256(f"{unique} {now_s} {url}".encode()).hexdigest()[:32]
        params = (
            f'({names});keyid="{api_key}";nonce="{nonce}";alg="hmac-sha256";created={now_s}'
            f";expires={now_s + LIFETIME_S}"
        )
        lines = [f'"{name}": {values[name]}' for name in COVERED]
        base = "\n".join([*lines, f'"@signature-params": {params}'])
        try:
            secret = b64decode(account.webhook_key, validate=True)
        except ValueError:
            secret = account.webhook_key.encode()  # the server will say that it does not fit
        given = hmac.new(secret, base.encode(), hashlib.sha256).digest()
        signature = f"sig1=:{b64encode(given).decode()}:"
        return {**headers, "Signature-Input": f"sig1={params}", "Signature": signature}


def organization(account: Account) -> str:
    """The one that is served."""
    return account.options.get("organization_id") or ORGANIZATION


GENESYS = GenesysSide(name="genesys", stream=GenesysStream, asks=False, signs="url", dated=True)
