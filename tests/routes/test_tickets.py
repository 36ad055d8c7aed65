"""Tickets: signed, of one carrier, for a time, and good for one use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.errors import AuthError
from flowcat_server.routes.tickets import LIFETIME_S, Tickets
from flowcat_server.routes.tokens import StreamTokens


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def tickets(secret: bytes = b"s") -> tuple[Tickets, Clock]:
    clock = Clock()
    return Tickets(StreamTokens(secret, clock), clock), clock


async def test_any_worker_with_the_secret_reads_a_ticket_and_it_is_good_once():
    one, two = tickets()[0], tickets()[0]
    wish = two.read(one.mint("twilio", {"do": "over", "call": "CA1"}), "twilio")
    assert (wish["do"], wish["call"]) == ("over", "CA1")
    await two.use(wish)
    with pytest.raises(AuthError, match="used before"):
        await two.use(wish)


def test_a_ticket_of_another_carrier_another_secret_or_another_time_is_refused():
    made, clock = tickets()
    ticket = made.mint("twilio", {"do": "dial"}, 60)
    with pytest.raises(AuthError, match="not a ticket"):
        made.read(ticket, "plivo")
    with pytest.raises(AuthError, match="not a ticket"):
        tickets(b"other")[0].read(ticket, "twilio")
    clock.now += 61
    with pytest.raises(AuthError, match="too old"):
        made.read(ticket, "twilio")


def test_what_a_dial_is_over_with_may_come_hours_later():
    made, clock = tickets()
    ticket = made.mint("twilio", {"do": "over"})
    clock.now += LIFETIME_S - 1
    assert made.read(ticket, "twilio")["do"] == "over"


def test_no_two_tickets_are_the_same():
    made, _ = tickets()
    assert len({made.mint("twilio", {"do": "dial"}) for _ in range(100)}) == 100


@given(st.text(max_size=60))
def test_what_we_have_not_written_is_refused(ticket: str):
    with pytest.raises(AuthError):
        tickets()[0].read(ticket, "twilio")


@given(st.integers(0, 300), st.characters(codec="ascii"))
def test_a_ticket_of_which_anything_was_changed_is_refused(place: int, other: str):
    made, _ = tickets()
    ticket = made.mint("twilio", {"do": "dial", "phone": "+15550123"})
    place %= len(ticket)
    changed = ticket[:place] + other + ticket[place + 1 :]
    if changed != ticket:
        with pytest.raises(AuthError):
            made.read(changed, "twilio")
