"""Twilio Media Streams, bidirectional (``<Connect><Stream>``), and Twilio's webhooks.

In, as text frames::

    {"event":"connected","protocol":"Call","version":"1.0.0"}
    {"event":"start","streamSid":"MZ..","start":{"accountSid":"AC..","callSid":"CA..",
     "tracks":["inbound"],"customParameters":{"k":"v"},
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}
    {"event":"media","streamSid":"MZ..","media":{"track":"inbound","chunk":"1","timestamp":"5",
     "payload":"<base64 mu-law>"}}
    {"event":"dtmf","streamSid":"MZ..","dtmf":{"track":"inbound_track","digit":"1"}}
    {"event":"mark","streamSid":"MZ..","mark":{"name":"m1"}}
    {"event":"stop","streamSid":"MZ..","stop":{"accountSid":"AC..","callSid":"CA.."}}

Out: ``media``, ``mark`` and ``clear`` with the ``streamSid``. Messages and limits:
https://www.twilio.com/docs/voice/media-streams/websocket-messages.
"""

from __future__ import annotations

from flowcat_server.carriers._twilio import TwilioLike

CARRIER = TwilioLike(
    name="twilio",
    title="Twilio",
    wire="Media Streams, bidirectional (`<Connect><Stream>`)",
    audio="mu-law, 8 kHz",
    docs="https://www.twilio.com/docs/voice/media-streams",
    paste="the number's voice webhook (POST)",
    credential="auth_token",
    unverified="whether a `clear` returns the marks that were waiting",
    has_status=True,
    moves_calls=True,
    joins_calls="both",
    dial_keys=("account_sid", "auth_token"),
    detection="`MachineDetection` with `AsyncAmd`",
    signature_headers=("x-twilio-signature",),
    api="https://api.twilio.com/2010-04-01",
)
