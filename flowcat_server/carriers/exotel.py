"""Exotel AgentStream (Voicebot applet, bidirectional).

No webhook has to be asked: the applet holds the socket's address, with user and password in it,
or an ``https`` address that answers ``{"url":"wss://.."}``. In, about ten times a second::

    {"event":"connected"}
    {"event":"start","sequence_number":"1","stream_sid":"..","start":{"stream_sid":"..",
     "call_sid":"..","account_sid":"..","from":"..","to":"..","custom_parameters":{},
     "media_format":{"encoding":"audio/x-raw","sample_rate":"8000","bit_rate":"16"}}}
    {"event":"media","stream_sid":"..","media":{"chunk":"2","timestamp":"200",
     "payload":"<base64 s16le>"}}
    {"event":"dtmf","stream_sid":"..","dtmf":{"digit":"5","duration":"100"}}
    {"event":"mark","stream_sid":"..","mark":{"name":"m1"}}
    {"event":"stop","stream_sid":"..","stop":{"call_sid":"..","reason":".."}}

Out: ``media`` (a multiple of 320 bytes, 3200 at least, 100 kB at most), ``mark`` and ``clear``;
the vendor's pages and samples spell the id in two ways, so it is sent in both.
https://developer.exotel.com/docs/agentstream/websocket-protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowcat_server.carriers._http import fields_of, ringing
from flowcat_server.carriers._json_stream import Dialect, JsonStream, Settings
from flowcat_server.carriers._values import encode_json, first
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Document,
    Request,
    Ringing,
    Sending,
)

UNIT = 320
LEAST = 3200
MOST = 96_000
"""Bytes of a message of L16; more than 100 kB may time out."""
DIALECT = Dialect(ids=("stream_sid", "streamSid"), unannounced=PCM_8K)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exotel(Carrier):
    """A socket of JSON, an optional webhook that only names it."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        del account, handshake
        return JsonStream(Settings(dialect=DIALECT, sending=_sending))

    def read_call(self, request: Request) -> Ringing | None:
        """The call for which the applet asks an address."""
        fields = fields_of(request)
        return ringing(
            request,
            first(fields, ("CallSid", "call_sid")),
            first(fields, ("CallFrom", "From", "from")),
            first(fields, ("CallTo", "To", "to")),
            first(fields, ("AccountSid", "account_sid")),
        )

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """The socket's address."""
        del account, call, parameters
        return Document(encode_json({"url": url}), "application/json")

    def busy(self, account: Account, call: Ringing) -> Document:
        """No address: the flow goes on with what follows the applet."""
        del account, call
        return Document('{"error":"busy"}', "application/json", status=503)


def _sending(audio: AudioFormat) -> Sending:
    if audio.encoding != "pcm16":  # the newer Legs API streams mu-law, of which nothing is said
        return Sending(unit=audio.bytes_for(20), least=audio.bytes_for(100))
    return Sending(
        unit=UNIT, least=LEAST, most=MOST, chunk_ms=200, first_ms=max(100, audio.duration_ms(LEAST))
    )


CARRIER = Exotel(
    name="exotel",
    title="Exotel",
    wire="AgentStream (Voicebot applet)",
    audio="L16, 8, 16 or 24 kHz",
    docs="https://developer.exotel.com/docs/agentstream/websocket-protocol",
    paste="the Voicebot applet's URL (or the same with wss:// and /telephony/ws/, and "
    "user:password@ before the host)",
    credential="password",
    unverified="which spelling of the stream's id it reads; fields of `stop`",
    ticket_in="path",
    handshake_suffices=True,
    basic_on_socket=True,
)
