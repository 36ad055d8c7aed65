from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcat_server.transports.webrtc import BadOffer, Offers
from flowcat_server.transports.webrtc.sdp import complete_codecs, parse_candidate, parse_offer
from tests.transports.webrtc.peers import LOCAL

CHROME = "\r\n".join(
    [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1 2",
        "a=extmap-allow-mixed",
        "a=msid-semantic: WMS stream",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
        "c=IN IP4 0.0.0.0",
        "a=rtcp:9 IN IP4 0.0.0.0",
        "a=ice-ufrag:JpgJ",
        "a=ice-pwd:0123456789abcdefghijklmn",
        "a=ice-options:trickle",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "a=mid:0",
        "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=sendrecv",
        "a=msid:stream track",
        "a=rtcp-mux",
        "a=rtcp-rsize",
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:111 transport-cc",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=rtpmap:63 red/48000/2",
        "a=fmtp:63 111/111",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:13 CN/8000",
        "a=rtpmap:110 telephone-event/48000",
        "a=rtpmap:126 telephone-event/8000",
        "a=ssrc:1001 cname:c",
        "a=ssrc:1001 msid:stream track",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:JpgJ",
        "a=ice-pwd:0123456789abcdefghijklmn",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "a=mid:1",
        "a=recvonly",
        "a=rtcp-mux",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:JpgJ",
        "a=ice-pwd:0123456789abcdefghijklmn",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "a=mid:2",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        "",
    ]
)


def without(*starts: str) -> str:
    return "\r\n".join(line for line in CHROME.split("\r\n") if not line.startswith(starts))


async def test_a_browsers_offer_is_answered() -> None:
    offers = Offers(LOCAL)
    answer = await offers.accept(CHROME)
    await offers.close()
    audio, video, data = answer.sdp.split("\r\nm=")[1:]
    assert audio.startswith("audio ")
    assert " 111 0 8 110 126\r\n" in audio
    assert "a=fmtp:111 minptime=10;useinbandfec=1;stereo=0;maxaveragebitrate=32000" in audio
    assert "a=rtpmap:110 telephone-event/48000" in audio
    assert "a=fmtp:110 0-16" in audio
    assert "a=sendrecv" in audio
    assert "a=mid:0" in audio
    assert "a=inactive" in video
    assert "a=sctp-port:5000" in data
    assert "red/48000" not in answer.sdp


async def test_a_peer_without_microphone_is_answered() -> None:
    offers = Offers(LOCAL)
    answer = await offers.accept(CHROME.replace("a=sendrecv", "a=recvonly"))
    await offers.close()
    assert "a=sendonly" in answer.sdp


@pytest.mark.parametrize(
    ("sdp", "what"),
    [
        ("", "not SDP"),
        ("{}", "not SDP"),
        ("v=0\r\nm=audio", "cannot be read"),
        ("v=0\r\ns=-\r\nt=0 0\r\n", "no audio"),
        ("v=0" + "x" * 70_000, "larger"),
        (without("a=ice-ufrag"), "ICE"),
        (without("a=fingerprint"), "DTLS"),
        (without("a=setup"), "DTLS"),
        (without("a=rtcp-mux"), "rtcp-mux"),
        (without("a=sctp-port"), "sctp-port"),
        (CHROME.replace("a=mid:1", "a=mid:0"), "same mid"),
        (CHROME.replace("m=video", "m=text"), "unknown kind"),
        (CHROME + "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n" * 20, "16 media"),
    ],
)
async def test_an_offer_without_use_says_why(sdp: str, what: str) -> None:
    offers = Offers(LOCAL)
    with pytest.raises(BadOffer, match=what):
        await offers.accept(sdp)
    with pytest.raises(ValueError, match=what):
        await offers.accept(sdp)
    await offers.close()


async def test_no_common_codec_is_a_bad_offer() -> None:
    offers = Offers(LOCAL)
    sdp = CHROME.replace("opus/", "speex/").replace("PCMU/", "x/").replace("PCMA/", "y/")
    with pytest.raises(BadOffer, match="cannot be answered"):
        await offers.accept(sdp)
    assert offers.pending == 0
    await offers.close()


@pytest.mark.parametrize("mid", [None, "0"])
def test_a_candidate_is_read_in_every_spelling(mid: str | None) -> None:
    line = "candidate:1 1 udp 2113937151 192.0.2.9 50000 typ host generation 0 ufrag x"
    for text in (line, "a=" + line, line.removeprefix("candidate:")):
        candidate = parse_candidate(text, mid, None)
        assert candidate is not None
        assert (candidate.ip, candidate.port, candidate.sdpMid) == ("192.0.2.9", 50_000, mid)
        assert candidate.sdpMLineIndex == (0 if mid is None else None)
    assert parse_candidate("", mid, None) is None


def test_a_payload_type_is_not_given_twice() -> None:
    offer = parse_offer(CHROME)
    codecs = [RTCRtpCodecParameters("audio/opus", 48_000, 2, payloadType=110)]
    complete_codecs(codecs, offer)
    assert [codec.payloadType for codec in codecs] == [110, 126]


LINES = CHROME.split("\r\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_offer_breaks_the_door(data: st.DataObject) -> None:
    """A browser's offer with lines lost, doubled, moved and scribbled upon."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        deed = data.draw(st.sampled_from(["drop", "double", "cut", "scribble", "digits"]))
        if deed == "drop" and len(lines) > 1:
            del lines[at]
        elif deed == "double":
            lines.insert(data.draw(st.integers(0, len(lines))), lines[at])
        elif deed == "cut":
            lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
        elif deed == "digits":
            lines[at] = lines[at].replace("1", data.draw(st.sampled_from(["9" * 30, "-1", "é"])))
        else:
            lines[at] += data.draw(st.text(max_size=12))

    async def knock() -> None:
        offers = Offers(LOCAL)
        try:
            await offers.accept("\r\n".join(lines))
        except BadOffer:
            assert offers.pending == 0
        finally:
            await offers.close()

    asyncio.run(knock())


@given(st.text(max_size=80), st.integers(-5, 99))
def test_no_candidate_breaks_it(text: str, index: int) -> None:
    with contextlib.suppress(BadOffer):
        parse_candidate(text, None, index)


@pytest.mark.parametrize(
    ("parameter", "wanted"),
    [
        ("", None),
        (";maxaveragebitrate=24000", 24_000),
        (";maxaveragebitrate=5999", None),
        (";maxaveragebitrate=9999999", None),
        (";maxaveragebitrate=", None),
        (";maxaveragebitrate=many", None),
    ],
)
def test_a_peers_limit_on_the_bitrate_is_read(parameter: str, wanted: int | None) -> None:
    line = "a=fmtp:111 minptime=10;useinbandfec=1"
    assert parse_offer(CHROME.replace(line, line + parameter)).max_bitrate == wanted
