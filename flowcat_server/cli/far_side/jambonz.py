"""jambonz: signed JSON webhooks, the verb ``listen``."""

from __future__ import annotations

import hashlib
import hmac
import json
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
    password,
)
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import Account, Message
from flowcat_server.core.proof import basic


class JambonzStream(RawStream):
    """jambonz' messages."""

    @property
    def says(self) -> AudioFormat:
        """As the answer asked for."""
        return audio_format("audio/l16", self.account.options.get("sample_rate", "")) or PCM_8K

    def start(self) -> list[Message]:
        """The call's attributes, and our metadata among them."""
        about = {
            "callSid": self.call,
            "from": CALLER,
            "to": CALLED,
            "sampleRate": self.says.sample_rate,
            "mixType": "mono",
        }
        return [json.dumps({**about, **self.parameters})]

    def played(self, mark: str) -> Message | None:
        """A mark was reached."""
        return json.dumps({"type": "mark", "data": {"name": mark, "event": "playout"}})

    def key(self, digit: str) -> Message | None:
        """A key."""
        return json.dumps({"event": "dtmf", "dtmf": digit, "duration": "1600"})

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """``mark``, ``killAudio``, ``disconnect``."""
        match fields:
            case {"type": "mark", "data": {"name": str() as name}}:
                return Heard(mark=name)
            case {"type": "killAudio"}:
                return Heard(cleared=True)
            case {"type": "disconnect"}:
                return Heard(ending=True)
        raise Unexpected(f"a message that is not known: {fields.get('type')!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JambonzSide(FarSide):
    """Webhooks signed over the time and the body."""

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        """A call comes in."""
        about = {"call_sid": call, "from": CALLER, "to": CALLED, "direction": "inbound", **more}
        return Asked("POST", self.answer_path(run_id), _compact(about), JSON)

    def status(self, call: str) -> Asked:
        """The call is over."""
        about = {"call_sid": call, "call_status": "completed", "direction": "inbound"}
        return Asked("POST", self.status_path, _compact(about), JSON)

    def sign(self, asked: Asked, url: str, account: Account, now_s: int) -> dict[str, str]:
        """``t=<seconds>,v1=<hex>``, and the password where there is one."""
        del url
        headers = password(account)
        if account.webhook_key:
            signed = f"{now_s}.".encode() + asked.body
            given = hmac.new(account.webhook_key.encode(), signed, hashlib.sha256).hexdigest()
            headers["Jambonz-Signature"] = f"t={now_s},v1={given}"
        return headers

    def place(self, answer: str) -> Place:
        """The first verb."""
        match listed(answer):
            case [{"verb": "listen", "url": str() as url} as verb, *_]:
                given = verb.get("wsAuth")
                headers = (
                    {"Authorization": basic(str(given["username"]), str(given["password"]))}
                    if given
                    else {}
                )
                return Place(url, dict(verb.get("metadata", {})), headers)
        raise Unexpected("an application that does not listen")

    def is_busy(self, status: int, answer: str) -> bool:
        """``sip:decline``."""
        try:
            return status == 200 and listed(answer)[0].get("verb") == "sip:decline"
        except (Unexpected, IndexError):
            return False


def _compact(about: Mapping[str, str]) -> bytes:
    return json.dumps(about, separators=(",", ":")).encode()


JAMBONZ = JambonzSide(
    name="jambonz",
    stream=JambonzStream,
    reports=True,
    signs="body",
    dated=True,
    subprotocols=("audio.jambonz.org",),
    socket_password=True,
)
