"""FreeSWITCH: ``uuid_audio_stream`` (mod_audio_stream) or ``uuid_audio_fork`` (mod_audio_fork).

In: the metadata that the command was given, verbatim, if any, then binary L16, little-endian::

    uuid_audio_stream <uuid> start wss://host/telephony/ws/freeswitch?rate=8000 mono 8k <metadata>
    {"call_id":"<uuid>","from":"+1..","to":"+1..","k":"v"}

The rate is not on the wire: it stands in our address (``?rate=``), or in the agent file, and has
to be the command's; the call's id, and whatever else there is to say, stands in the metadata or in
the address (``?call_id=``). Out:
binary L16, which only the modules with full-duplex playback play, and ``killAudio``. Neither
marks nor keys. https://github.com/amigniter/mod_audio_stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowcat_server.carriers._http import CALL_ID
from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._values import (
    audio_format,
    fault,
    first,
    number,
    parameters,
    text,
)
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Fed,
    Ignored,
    Message,
    Request,
    Sending,
    Started,
)

_CALL = ("call_id", "callId", "uuid", "call_uuid")


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ("_audio", "_query")

    def __init__(self, audio: AudioFormat | None, query: Mapping[str, str]) -> None:
        super().__init__()
        self._audio = audio
        self._query = query

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means. Never raises."""
        if binary and not self._started:
            return self._start({})  # no metadata was given
        return PcmStream.feed(self, message, binary)

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        return Ignored("unknown message") if self._started else self._start(fields)

    def _start(self, fields: Mapping[str, Any]) -> Fed:
        call_id = text(first(fields, _CALL)) or text(first(self._query, _CALL))
        if not CALL_ID.fullmatch(call_id):
            return fault("start without usable ids")
        self._started = True
        return Started(
            call_id=call_id,
            stream_id=call_id,
            parameters=parameters({**self._query, **fields}),
            input_format=self._audio,
            output_format=self._audio,
            sending=Sending(unit=2, ahead_ms=60, chunk_ms=20, first_ms=40, marks=False),
            from_number=number(fields.get("from") or self._query.get("from")),
            to_number=number(fields.get("to") or self._query.get("to")),
        )

    def clear(self) -> str:
        """Drops what was not played."""
        return '{"type":"killAudio"}'

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Ends the stream."""
        del reason, target
        return ['{"type":"disconnect"}'] if self._started else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSwitch(Carrier):
    """A switch of one's own that opens the socket unasked."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket."""
        query = dict(handshake.query)
        rate = query.get("rate", "") or account.options.get("sample_rate", "8000")
        return Stream(audio_format("audio/l16", rate), query)


CARRIER = FreeSwitch(
    name="freeswitch",
    title="FreeSWITCH",
    wire="mod_audio_stream, mod_audio_fork",
    audio="L16, at the rate of the command",
    docs="https://github.com/amigniter/mod_audio_stream",
    paste="the address of uuid_audio_stream, with ?rate= and a call_id in the metadata",
    credential="password",
    unverified="playback of binary audio: only modules with full-duplex playback do it",
    has_webhook=False,
    tells_keys=False,
    handshake_suffices=True,
    basic_on_socket=True,
)
