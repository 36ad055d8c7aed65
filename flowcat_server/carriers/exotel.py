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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowcat_server.carriers._http import (
    call_status,
    dialled,
    fields_of,
    path_part,
    ringing,
    with_password,
)
from flowcat_server.carriers._json_stream import Dialect, JsonStream, Settings
from flowcat_server.carriers._values import encode_json, first
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.carrier import (
    Account,
    CallStatus,
    Carrier,
    CarrierStream,
    Dial,
    Document,
    Request,
    RestRequest,
    Ringing,
    Sending,
    Status,
)
from flowcat_server.core.proof import basic

UNIT = 320
LEAST = 3200
MOST = 96_000
"""Bytes of a message of L16; more than 100 kB may time out."""
MOST_S = 14_400
STATUSES: Mapping[str, Status] = {
    "queued": "initiated",
    "ringing": "ringing",
    "in-progress": "answered",
    "answered": "answered",
    "completed": "completed",
    "busy": "busy",
    "no-answer": "no-answer",
    "failed": "failed",
    "canceled": "canceled",
}
DIALECT = Dialect(ids=("stream_sid", "streamSid"), unannounced=PCM_8K)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exotel(Carrier):
    """A socket of JSON, an optional webhook that only names it."""

    api: str = "https://api.exotel.com/v1"

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

    def read_status(self, request: Request) -> CallStatus | None:
        """``Status``; of the events before the end, ``EventType``."""
        fields = fields_of(request)
        call = first(fields, ("CallSid", "call_sid"))
        told = call_status(call, first(fields, ("Status", "status")), STATUSES)
        return told or call_status(call, first(fields, ("EventType", "event_type")), STATUSES)

    # --- the API ----------------------------------------------------------------------------

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call that opens our socket when it is answered: no webhook is asked."""
        del now_s
        owner = account.options.get("account_sid", "")
        if not (account.secret and account.id and owner):
            return None
        form: dict[str, str | Sequence[str]] = {
            "From": call.to,
            "CallerId": call.from_number,
            "StreamUrl": with_password(call.socket_url, account),
            "StreamType": "bidirectional",
            "TimeLimit": str(min(call.limit_s, MOST_S)),
            "TimeOut": str(call.ring_s),
            "StatusCallback": with_password(call.status_url, account),
            "StatusCallbackEvents[]": ("ringing", "answered", "terminal"),
            "StatusCallbackContentType": "application/json",
        }
        url = f"{account.api or self.api}/Accounts/{path_part(owner)}/Calls/connect.json"
        return RestRequest("POST", url, basic(account.id, account.secret), form=form)

    def read_dialled(self, answer: bytes) -> str:
        """``Sid`` of the call."""
        return dialled(answer, "Call", "Sid")


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
    unverified="which spelling of the stream's id it reads; fields of `stop`; names in status "
    "callbacks; that `connect.json` answers in JSON",
    has_status=True,
    dial_keys=("account_sid", "api_key", "api_token"),
    returns_to_flow=True,
    ticket_in="path",
    handshake_suffices=True,
    basic_on_socket=True,
)
