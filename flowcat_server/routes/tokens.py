"""Single-use tokens for media sockets: minted in the answer to a verified webhook.

A token is signed, so that any worker with the same secret can check it; it is bound to carrier
and call id, lives at most a minute, and is consumed only by a socket that named its call.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

from flowcat_server.errors import AuthError

LIFETIME_S = 60
MAX_REMEMBERED = 100_000
"""Used tokens and seen webhooks that are remembered; each for as long as it could be replayed."""


class Memory(Protocol):
    """Remembers what has been seen: in this process (`Once`), or for several of them."""

    async def first(self, key: str) -> bool:
        """True the first time.

        Raises:
            SharedStateError: Nobody can say, because the memory is out of reach.
        """


class Once:
    """Remembers what has been seen, for a limited time and in limited number."""

    def __init__(
        self,
        lifetime_s: float,
        clock: Callable[[], float] = time.time,
        *,
        limit: int = MAX_REMEMBERED,
        forget_oldest: bool = False,
    ) -> None:
        """Create an empty memory.

        Args:
            lifetime_s: How long something is remembered.
            clock: Seconds.
            limit: How many things are remembered.
            forget_oldest: What happens at the limit: the oldest is forgotten, else nothing new
                is accepted until something is too old.
        """
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._limit = limit
        self._forget_oldest = forget_oldest
        self._seen: OrderedDict[str, float] = OrderedDict()

    async def first(self, key: str) -> bool:
        """True the first time."""
        now = self._clock()
        while self._seen:
            oldest, until = next(iter(self._seen.items()))
            if until > now and not (self._forget_oldest and len(self._seen) >= self._limit):
                break
            del self._seen[oldest]
        if key in self._seen or len(self._seen) >= self._limit:
            return False
        self._seen[key] = now + self._lifetime_s
        return True


class StreamTokens:
    """Mints and checks tokens of one deployment."""

    def __init__(
        self,
        secret: bytes,
        clock: Callable[[], float] = time.time,
        used: Memory | None = None,
        mark: str = "",
    ) -> None:
        """Create the mint.

        Args:
            secret: Signs; the same for all that accept each other's tokens.
            clock: Seconds since 1970.
            used: Remembers used tokens for all of them; absent: this process alone.
            mark: Begins whatever part of an address of ours has to be served by this process, as
                it does a run id or a ticket; empty: there is no other.
        """
        self.mark = mark
        self._secret = secret
        self._clock = clock
        self._used = used or Once(LIFETIME_S, clock)

    def mint(self, carrier: str, call_id: str) -> str:
        """A token for one media socket of this call."""
        expires = int(self._clock()) + LIFETIME_S
        nonce = secrets.token_urlsafe(9)
        return f"{expires}.{nonce}.{self._sign(carrier, call_id, str(expires), nonce)}"

    async def consume(self, token: str, carrier: str, call_id: str) -> None:
        """Check a token and use it up.

        Raises:
            AuthError: Malformed, expired, used before, or minted for another call or carrier.
            SharedStateError: Whether it was used before cannot be found out.
        """
        expires, _, rest = token.partition(".")
        nonce, _, signature = rest.partition(".")
        if not call_id or not nonce or not expires.isascii() or not expires.isdigit():
            raise AuthError("malformed stream token")
        expected = self._sign(carrier, call_id, expires, nonce)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise AuthError("stream token is not for this call")
        if int(expires[:12]) < self._clock():
            raise AuthError("stream token expired")
        if not await self._used.first(nonce):
            raise AuthError("stream token used before")

    def sign(self, *parts: str) -> str:
        """What proves that this deployment has written some words."""
        return self._sign("signed", *parts)

    def _sign(self, *parts: str) -> str:
        text = "\x00".join(parts).encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, text, sha256).hexdigest()
