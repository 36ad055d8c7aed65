"""Audio messages that overtake one another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.carriers._order import JUMP, WINDOW, Order
from flowcat_server.carriers.telnyx import CARRIER
from flowcat_server.core.carrier import Account, Ignored, Request, Started


def heard(*numbers: int, order: Order | None = None) -> list[int]:
    """Numbers as they come, in the order in which they are heard."""
    order = order or Order()
    return [byte for number in numbers for byte in order.take(number, bytes([number % 256]))]


def test_what_comes_in_order_is_heard_at_once() -> None:
    order = Order()
    for number in range(5, 60):
        assert order.take(number, b"x") == b"x"


def test_two_that_changed_places_are_put_back() -> None:
    assert heard(1, 3, 2, 4) == [1, 2, 3, 4]
    assert heard(1, 4, 3, 2, 5) == [1, 2, 3, 4, 5]


def test_one_that_never_comes_holds_up_the_others_for_a_moment() -> None:
    order = Order()
    assert heard(1, 3, 4, 5, order=order) == [1]
    assert heard(6, 7, order=order) == [3, 4, 5, 6, 7]


def test_one_that_comes_too_late_or_twice_is_dropped() -> None:
    assert heard(1, 3, 4, 5, 6, 2, 7) == [1, 3, 4, 5, 6, 7]
    assert heard(1, 2, 2, 3) == [1, 2, 3]


def test_a_count_that_begins_anew_is_followed() -> None:
    assert heard(JUMP + 10, JUMP + 11, 1, 2, 3) == [JUMP + 10, JUMP + 11, 1, 2, 3]


def test_without_numbers_nothing_is_held() -> None:
    assert heard(0, 0, 0) == [0, 0, 0]


def test_numbers_with_gaps_by_nature_are_given_up_on() -> None:
    order = Order()
    evens = range(2, 200, 2)
    assert heard(*evens, order=order) == [*evens]
    assert heard(5000, 4998, order=order) == [5000 % 256, 4998 % 256]


@given(st.permutations(range(WINDOW)), st.integers(1, 20))
def test_any_shuffle_within_the_window_is_undone(shuffle: list[int], rounds: int) -> None:
    numbers = [1] + [2 + turn * WINDOW + at for turn in range(rounds) for at in shuffle]
    assert heard(*numbers) == sorted(numbers)


@given(st.lists(st.integers(-5, 300), max_size=200))
def test_nothing_is_heard_twice_and_little_is_kept(numbers: list[int]) -> None:
    order = Order()
    out = 0
    for count, number in enumerate(numbers, 1):
        out += len(order.take(number, b"x"))
        assert out <= count
        assert len(order._held) <= WINDOW


def test_telnyx_puts_its_audio_in_order() -> None:
    stream = CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))
    started = stream.feed(
        b'{"event":"start","stream_id":"s","start":{"call_control_id":"v3:1",'
        b'"media_format":{"encoding":"PCMU","sample_rate":8000,"channels":1}}}'
    )
    assert isinstance(started, Started)

    def media(chunk: int, payload: bytes) -> object:
        return stream.feed(
            b'{"event":"media","stream_id":"s","media":{"track":"inbound","chunk":"%d",'
            b'"timestamp":"5","payload":"%s"}}' % (chunk, payload)
        )

    assert media(1, b"AAAA") == bytes(3)
    assert isinstance(media(3, b"AgIC"), Ignored)
    assert media(2, b"AQEB") == b"\1\1\1\2\2\2"
