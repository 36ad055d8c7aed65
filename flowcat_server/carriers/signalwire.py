"""SignalWire's compatibility (cXML) applications: Twilio's webhooks, documents and messages.

What differs: ``<Stream codec="L16@16000h">`` and its announcement as ``audio/x-L16``, keys that
can be sent, a signing key of its own, and an API under the space's host::

    {"event":"start","streamSid":"<uuid>","start":{"accountSid":"<uuid>","callSid":"<uuid>",
     "mediaFormat":{"encoding":"audio/x-L16","sampleRate":16000,"channels":1}}}
    {"event":"dtmf","streamSid":"<uuid>","dtmf":{"digit":"5","duration":100}}

https://developer.signalwire.com/compatibility-api/cxml/voice/stream/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowcat_server.carriers._json_stream import Dialect
from flowcat_server.carriers._twilio import TwilioLike
from flowcat_server.core.carrier import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalWire(TwilioLike):
    """Twilio's manner, with a codec to choose."""

    def stream_attributes(self, account: Account) -> Mapping[str, str]:
        """The codec, if it is not the usual one."""
        codec = account.options.get("codec", "")
        return {"codec": codec} if codec and codec != "PCMU@8000h" else {}


CARRIER = SignalWire(
    name="signalwire",
    title="SignalWire",
    wire="cXML `<Connect><Stream>`",
    audio="mu-law, 8 kHz; L16, 16 or 24 kHz",
    docs="https://developer.signalwire.com/compatibility-api/cxml/voice/stream/",
    paste="the number's or the cXML application's voice webhook (POST)",
    credential="signing_key",
    unverified="byte order of L16 (`byte_order`); whether `Twiml=` moves a live call",
    has_status=True,
    moves_calls=True,
    joins_calls="both",
    sends_keys="socket",
    dial_keys=("space", "project_id", "api_token"),
    detection="`MachineDetection` with `AsyncAmd`",
    dialect=Dialect(keys="digit"),
    signature_headers=("x-signalwire-signature", "x-twilio-signature"),
)
