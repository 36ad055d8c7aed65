"""Plivo audio streaming (``<Stream bidirectional="true">``).

In, as text frames; counters are numbers, and nothing says that the stream ends but its closing::

    {"event":"start","sequenceNumber":1,"start":{"callId":"<uuid>","streamId":"<uuid>",
     "accountId":"MA..","tracks":["inbound"],
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}},"extra_headers":"k=v;k2=v2"}
    {"event":"media","streamId":"<uuid>","media":{"track":"inbound","chunk":1,
     "timestamp":"1705312200000","payload":"<base64>"}}
    {"event":"dtmf","streamId":"<uuid>","dtmf":{"track":"inbound","digit":"5"}}
    {"event":"playedStream","streamId":"<uuid>","name":"m1"}
    {"event":"clearedAudio","streamId":"<uuid>"}

Out: ``playAudio`` (which names its format), ``checkpoint``, ``clearAudio``, ``sendDTMF``. After a
``clearAudio`` a checkpoint never comes back.
https://www.plivo.com/docs/voice/audio-streaming/.
"""

from __future__ import annotations

from flowcat_server.carriers._json_stream import Dialect
from flowcat_server.carriers._plivo import PlivoLike

CARRIER = PlivoLike(
    name="plivo",
    title="Plivo",
    wire='`<Stream bidirectional="true">`',
    audio="mu-law, 8 kHz; L16, 8 or 16 kHz",
    docs="https://www.plivo.com/docs/voice/audio-streaming/",
    paste="the application's answer URL (POST or GET)",
    credential="auth_token",
    unverified="byte order of L16 (`byte_order`); the handshake's signature, which is not asked "
    "for; `sendDTMF`",
    has_status=True,
    moves_calls=True,
    joins_calls="both",
    sends_keys="socket",
    dial_keys=("auth_id", "auth_token"),
    detection="`machine_detection`",
    ticket_in="query",
    dialect=Dialect(
        ids=("streamId",),
        media="playAudio",
        mark="checkpoint",
        clear="clearAudio",
        flat_mark=True,
        names_format=True,
        id_on_media=False,
        keys="string",
    ),
    header="x-plivo-signature",
    api="https://api.plivo.com/v1",
)
