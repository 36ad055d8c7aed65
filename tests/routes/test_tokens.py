from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.errors import AuthError
from flowcat_server.routes.tokens import LIFETIME_S, Once, StreamTokens
from tests.fakes.doors import Clock


def tokens(clock: Clock | None = None, secret: bytes = b"s" * 32) -> StreamTokens:
    return StreamTokens(secret, clock or Clock())


async def test_a_token_is_accepted_once():
    issuer = tokens()
    token = issuer.mint("twilio", "CA1")
    await issuer.consume(token, "twilio", "CA1")
    with pytest.raises(AuthError, match="used before"):
        await issuer.consume(token, "twilio", "CA1")


async def test_tokens_of_one_call_differ():
    issuer = tokens()
    first, second = issuer.mint("twilio", "CA1"), issuer.mint("twilio", "CA1")
    await issuer.consume(second, "twilio", "CA1")
    await issuer.consume(first, "twilio", "CA1")


async def test_another_worker_with_the_same_secret_accepts_it_and_one_with_another_does_not():
    token = tokens().mint("twilio", "CA1")
    await tokens().consume(token, "twilio", "CA1")
    with pytest.raises(AuthError):
        await tokens(secret=b"other").consume(token, "twilio", "CA1")


@pytest.mark.parametrize(
    ("carrier", "call_id"),
    [("telnyx", "CA1"), ("twilio", "CA2"), ("twilio", ""), ("", "CA1"), ("twilio\x00CA1", "")],
)
async def test_a_token_is_bound_to_carrier_and_call_and_not_used_up_by_others(
    carrier: str, call_id: str
):
    issuer = tokens()
    token = issuer.mint("twilio", "CA1")
    with pytest.raises(AuthError):
        await issuer.consume(token, carrier, call_id)
    await issuer.consume(token, "twilio", "CA1")


async def test_a_blank_call_never_gets_in():
    issuer = tokens()
    with pytest.raises(AuthError, match="malformed"):
        await issuer.consume(issuer.mint("twilio", ""), "twilio", "")


async def test_a_token_lives_for_a_minute():
    clock = Clock()
    issuer = tokens(clock)
    early, late = issuer.mint("twilio", "CA1"), issuer.mint("twilio", "CA1")
    clock.now += LIFETIME_S - 1
    await issuer.consume(early, "twilio", "CA1")
    clock.now += 2
    with pytest.raises(AuthError, match="expired"):
        await issuer.consume(late, "twilio", "CA1")


async def test_its_life_cannot_be_made_longer():
    clock = Clock()
    issuer = tokens(clock)
    expires, nonce, signature = issuer.mint("twilio", "CA1").split(".")
    for forged in (f"{int(expires) + 60}.{nonce}.{signature}", f"9{expires}.{nonce}.{signature}"):
        with pytest.raises(AuthError, match="not for this call"):
            await issuer.consume(forged, "twilio", "CA1")


@given(st.text(max_size=80) | st.from_regex(r"[0-9]{1,30}\.[^.]{0,5}\..{0,70}", fullmatch=True))
def test_nothing_made_up_is_accepted(token: str):
    with pytest.raises(AuthError):
        asyncio.run(tokens().consume(token, "twilio", "CA1"))


# --- the memory -----------------------------------------------------------------------------------


async def test_what_was_seen_is_forgotten_after_its_time():
    clock = Clock()
    once = Once(10, clock)
    assert await once.first("a")
    clock.now += 9
    assert not await once.first("a")
    clock.now += 2
    assert await once.first("a")


async def test_a_full_memory_of_tokens_accepts_nothing_new_until_something_is_too_old():
    clock = Clock()
    once = Once(10, clock, limit=3)
    assert [await once.first(key) for key in "abcd"] == [True, True, True, False]
    assert not await once.first("a")
    clock.now += 11
    assert await once.first("d")
    assert await once.first("a")


async def test_a_full_memory_of_webhooks_forgets_the_oldest():
    once = Once(10, Clock(), limit=3, forget_oldest=True)
    assert all([await once.first(key) for key in "abcd"])
    assert not await once.first("d")
    assert not await once.first("c")


async def test_a_thousand_entries_cost_a_thousand_entries():
    clock = Clock()
    once = Once(10, clock)
    for n in range(5000):
        clock.now += 1
        assert await once.first(str(n))
    assert len(once._seen) <= 11
