"""Offers and answers as text: what is accepted, and what aiortc's answers lack (RFC 8866)."""

from __future__ import annotations

from dataclasses import dataclass

from aiortc import RTCIceCandidate
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.sdp import MediaDescription, SessionDescription, candidate_from_sdp

from flowcat_server.errors import TransportError

MAX_OFFER = 65_536
"""Bytes. A browser's offer with audio, video and data has about 8,000."""
MAX_SECTIONS = 16

OPUS_PARAMETERS: dict[str, int | str | None] = {
    "minptime": 10,
    # Without this a browser sends no forward error correction (RFC 7587 section 6.1).
    "useinbandfec": 1,
    "stereo": 0,
    "maxaveragebitrate": 32_000,
}

# What a parser written with bare indexing and assertions raises on text it did not expect.
PARSE_ERRORS = (
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
    StopIteration,
)


class BadOffer(TransportError, ValueError):
    """The offer cannot be answered; the message may be shown to the client."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A checked offer."""

    sdp: str
    ice_ufrag: str
    """Changes exactly when the client restarts ICE (RFC 8839 section 5.4)."""
    events: tuple[RTCRtpCodecParameters, ...]
    """The telephone-event formats of the first audio section (RFC 4733)."""
    max_bitrate: int | None = None
    """Bits a second of Opus that the peer wants to get at most (RFC 7587 section 6.1)."""


def parse_offer(text: str) -> Offer:
    """Check an offer.

    Raises:
        BadOffer: Too large, not SDP, or nothing a voice call can use.
    """
    if len(text) > MAX_OFFER or len(text.encode("utf-8", "replace")) > MAX_OFFER:
        raise BadOffer(f"the offer is larger than {MAX_OFFER} bytes")
    if not text.startswith("v=0"):
        raise BadOffer("this is not SDP: it does not begin with v=0")
    try:
        session = SessionDescription.parse(text)
    except PARSE_ERRORS as error:
        raise BadOffer(f"the SDP cannot be read: {error!s:.200}") from error
    if len(session.media) > MAX_SECTIONS:
        raise BadOffer(f"more than {MAX_SECTIONS} media sections")
    audio = next((media for media in session.media if media.kind == "audio"), None)
    if audio is None:
        raise BadOffer("the offer has no audio section")
    for media in session.media:
        _check_section(media)
    mids = [media.rtp.muxId for media in session.media]
    if len(set(mids)) != len(mids):
        raise BadOffer("two media sections have the same mid")
    events = tuple(codec for codec in audio.rtp.codecs if codec.name.lower() == "telephone-event")
    ufrag = (audio.ice and audio.ice.usernameFragment) or ""
    return Offer(text, ufrag, events[:4], _max_bitrate(audio.rtp.codecs))


def _max_bitrate(codecs: list[RTCRtpCodecParameters]) -> int | None:
    for codec in codecs:
        if codec.name.lower() == "opus":
            text = str(codec.parameters.get("maxaveragebitrate"))
            wanted = int(text) if text.isdecimal() and len(text) <= 6 else 0
            # What the RFC does not allow says nothing.
            return wanted if 6_000 <= wanted <= 510_000 else None
    return None


def _check_section(media: MediaDescription) -> None:
    if media.kind not in ("audio", "video", "application"):
        raise BadOffer(f"media section of unknown kind {media.kind[:20]!r}")
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise BadOffer("ICE credentials are missing")
    if media.dtls is None or not media.dtls.fingerprints:
        raise BadOffer("the DTLS fingerprint or setup attribute is missing")
    if media.kind != "application" and not media.rtcp_mux:
        raise BadOffer("rtcp-mux is missing")
    if media.kind == "application" and media.profile != "DTLS/SCTP" and not media.sctp_port:
        raise BadOffer("the data section has no sctp-port")


def complete_codecs(codecs: list[RTCRtpCodecParameters], offer: Offer) -> None:
    """Add to the negotiated codecs of an answer what aiortc leaves out, in place."""
    for codec in codecs:
        if codec.name.lower() == "opus":
            codec.parameters = dict(OPUS_PARAMETERS)
    taken = {codec.payloadType for codec in codecs}
    codecs.extend(
        RTCRtpCodecParameters(
            mimeType="audio/telephone-event",
            clockRate=event.clockRate,
            channels=1,
            payloadType=event.payloadType,
            parameters={"0-16": None},
        )
        for event in offer.events
        if event.payloadType not in taken
    )


def parse_candidate(
    candidate: str, mid: str | None, mline_index: int | None
) -> RTCIceCandidate | None:
    """One trickled candidate (RFC 8839 section 5.1); None for the end of candidates.

    Raises:
        BadOffer: Not a candidate.
    """
    text = candidate.strip().removeprefix("a=").removeprefix("candidate:")
    if not text:
        return None
    if len(text) > 1_000:
        raise BadOffer("candidate too long")
    try:
        parsed = candidate_from_sdp(text)
    except PARSE_ERRORS as error:
        raise BadOffer("not an ICE candidate") from error
    parsed.sdpMid, parsed.sdpMLineIndex = mid, mline_index
    if mid is None and mline_index is None:
        parsed.sdpMLineIndex = 0
    return parsed
