"""Telephone events in RTP: the keys of a phone (RFC 4733)."""

from __future__ import annotations

from flowcat_server.transports.webrtc.jitter import signed

DIGITS = "0123456789*#ABCD"
"""By event code (RFC 4733 section 3.2); what lies beyond (flash, tones) is no key."""


class KeyPresses:
    """Turns the packets of one stream into keys, each press once.

    A press is many packets with the timestamp of its beginning: updates, and three copies of
    the last one, of which any may be lost or come in another order. A press too long for the
    16-bit duration goes on in a new segment (section 2.5.1.3).
    """

    def __init__(self) -> None:
        self._event = -1
        self._began = 0
        self._ended = True
        self._any = False

    def receive(self, timestamp: int, payload: bytes) -> str:
        """The key if this packet is the first of its press, else an empty string."""
        if len(payload) < 4:
            return ""
        event, end = payload[0], bool(payload[1] & 0x80)
        since = signed(timestamp - self._began, 32)
        if self._any and since <= 0:
            if since == 0:
                self._ended |= end
            return ""
        # A segment begins where the one before ended; packets of 20 ms may be missing between.
        goes_on = event == self._event and not self._ended and 0xFF00 <= since <= 0x1FFFF
        self._any, self._event, self._began = True, event, timestamp & 0xFFFFFFFF
        self._ended = end
        if goes_on:
            return ""
        return DIGITS[event] if event < len(DIGITS) else ""
