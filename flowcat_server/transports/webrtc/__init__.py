"""Calls from browsers and apps over WebRTC.

`Offers.accept` answers an SDP offer and returns a `Transport`. Protocols: aiortc (DTLS-SRTP,
SCTP, SDP) and aioice (ICE), with the media path of `rtp`, `jitter` and `opus`.
"""

from flowcat_server.transports.webrtc.channel import Channel
from flowcat_server.transports.webrtc.offers import Answer, Offers, WebRtcSettings
from flowcat_server.transports.webrtc.sdp import BadOffer
from flowcat_server.transports.webrtc.transport import WebRtcTransport

__all__ = ["Answer", "BadOffer", "Channel", "Offers", "WebRtcSettings", "WebRtcTransport"]
