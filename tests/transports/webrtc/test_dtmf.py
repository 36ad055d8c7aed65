from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.transports.webrtc.dtmf import DIGITS, KeyPresses


def event(code: int, duration: int, *, end: bool = False) -> bytes:
    return struct.pack("!BBH", code, (0x80 if end else 0) | 10, duration)


def press(keys: KeyPresses, code: int, timestamp: int, *, packets: int = 5) -> str:
    got = "".join(keys.receive(timestamp, event(code, 960 * n)) for n in range(1, packets + 1))
    return got + "".join(
        keys.receive(timestamp, event(code, 960 * packets, end=True)) for _ in range(3)
    )


def test_each_press_is_one_key() -> None:
    keys = KeyPresses()
    got = [press(keys, code, 1_000 + 9_600 * code) for code in range(16)]
    assert got == list(DIGITS)


def test_the_same_key_twice_is_two_presses() -> None:
    keys = KeyPresses()
    assert press(keys, 5, 1_000) + press(keys, 5, 12_000) == "55"


@pytest.mark.parametrize("only", [0, 3, 6])
def test_any_one_packet_of_a_press_is_enough(only: int) -> None:
    keys = KeyPresses()
    assert keys.receive(7, event(1, 960 * only, end=only > 5)) == "1"


def test_a_packet_of_the_press_before_that_comes_late_is_no_press() -> None:
    keys = KeyPresses()
    got = press(keys, 1, 1_000) + press(keys, 2, 20_000)
    assert got + keys.receive(1_000, event(1, 4_800, end=True)) == "12"


def test_a_key_held_for_seconds_is_one_press() -> None:
    """RFC 4733 section 2.5.1.3: segments, each beginning where the one before ended."""
    keys = KeyPresses()
    got = ""
    for segment in range(3):
        start = 1_000 + segment * 0xFFFF
        got += "".join(keys.receive(start, event(9, 960 * n)) for n in range(1, 69))
    got += keys.receive(1_000 + 2 * 0xFFFF, event(9, 60_000, end=True))
    assert got == "9"


def test_the_timestamp_wraps() -> None:
    keys = KeyPresses()
    assert press(keys, 1, 2**32 - 100) + press(keys, 2, 9_000) == "12"


def test_what_is_no_key_is_ignored() -> None:
    keys = KeyPresses()
    assert keys.receive(5, event(16, 960)) == ""
    assert keys.receive(6, b"\x01") == ""


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=8))))
def test_no_packets_break_it(packets: list[tuple[int, bytes]]) -> None:
    keys = KeyPresses()
    got = "".join(keys.receive(timestamp, payload) for timestamp, payload in packets)
    assert set(got) <= set(DIGITS)
    assert len(got) <= len(packets)
