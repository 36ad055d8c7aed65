from __future__ import annotations

import inspect
from types import ModuleType

import aioice.ice
import aiortc.rtcdtlstransport
import aiortc.rtcicetransport
import aiortc.rtcpeerconnection
import aiortc.rtcrtpreceiver
import aiortc.rtcrtpsender
import aiortc.rtcrtptransceiver
import pytest
from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.transports.webrtc.rtp import PRIVATE_NAMES, parse_rtp

HOMES: dict[str, ModuleType] = {
    "RTCRtpReceiver": aiortc.rtcrtpreceiver,
    "RTCRtpSender": aiortc.rtcrtpsender,
    "RTCDtlsTransport": aiortc.rtcdtlstransport,
    "RTCIceTransport": aiortc.rtcicetransport,
    "RTCIceGatherer": aiortc.rtcicetransport,
    "RTCPeerConnection": aiortc.rtcpeerconnection,
    "RTCRtpTransceiver": aiortc.rtcrtptransceiver,
    "Connection": aioice.ice,
    "StunProtocol": aioice.ice,
}


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in PRIVATE_NAMES.items() for name in names]
)
def test_the_private_names_we_build_on_exist(owner: str, name: str) -> None:
    """A new aiortc or aioice that renames one must fail here and not in a call."""
    cls = getattr(HOMES[owner], owner)
    plain = name.removeprefix(f"_{owner}")
    source = inspect.getsource(cls)
    annotated = name in getattr(cls, "__annotations__", {})
    assert hasattr(cls, name) or annotated or f"self.{plain}" in source or f"self.{name}" in source


@given(
    st.integers(0, 127).filter(lambda pt: not 64 <= pt <= 95),
    st.integers(0, 65_535),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=60),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
    st.integers(0, 20),
)
def test_headers_are_read_as_aiortc_writes_them(
    kind: int, seq: int, timestamp: int, ssrc: int, payload: bytes, csrc: list[int], padding: int
) -> None:
    packet = RtpPacket(kind, 1, seq, timestamp, ssrc, payload)
    packet.csrc, packet.padding_size = csrc, padding
    assert parse_rtp(packet.serialize()) == (kind, seq, timestamp, ssrc, payload)


def test_header_extensions_are_passed_over() -> None:
    plain = RtpPacket(111, 0, 5, 6, 7, b"payload").serialize()
    extended = bytes([plain[0] | 0x10]) + plain[1:12] + b"\xbe\xde\0\2" + bytes(8) + plain[12:]
    assert parse_rtp(extended) == (111, 5, 6, 7, b"payload")


@given(st.binary(max_size=80))
def test_no_bytes_break_it(data: bytes) -> None:
    parsed = parse_rtp(data)
    assert parsed is None or len(parsed[4]) <= len(data) - 12
