"""Addresses of ours that a carrier is given while a call goes on: signed, and good for one use.

A ticket is the last part of such an address and says, to us, what is wanted there. Any worker of a
deployment can read it. Nobody else can make one, and nothing of it can be changed.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping

from flowcat_server.errors import AuthError
from flowcat_server.routes.tokens import Once, StreamTokens

_MARK = re.compile(r"\Aat-[0-9]+-")
"""Whose ticket it is, where there are several workers; see `StreamTokens.mark`."""
LIFETIME_S = 24 * 3600
"""The longest of conversations that a call is passed on to: its end is told at such an address."""


class Tickets:
    """Makes and takes tickets."""

    def __init__(self, tokens: StreamTokens, clock: Callable[[], float] = time.time) -> None:
        """Create a maker of tickets.

        Args:
            tokens: Signs them.
            clock: Seconds since 1970.
        """
        self._tokens = tokens
        self._clock = clock
        self._used = Once(LIFETIME_S, clock, forget_oldest=True)

    def mint(self, carrier: str, wish: Mapping[str, str], lifetime_s: int = 0) -> str:
        """A ticket for one request of a carrier; 0: it may take hours."""
        until = int(self._clock()) + (lifetime_s or LIFETIME_S)
        about = {**wish, "until": str(until), "n": secrets.token_hex(6)}
        said = urlsafe_b64encode(json.dumps(about).encode()).decode().rstrip("=")
        return f"{self._tokens.mark}{said}.{self._tokens.sign('ticket', carrier, said)}"

    def read(self, ticket: str, carrier: str) -> Mapping[str, str]:
        """What a ticket says.

        Raises:
            AuthError: Not one of ours, of another carrier, or too old.
        """
        said, _, signature = _MARK.sub("", ticket).partition(".")
        expected = self._tokens.sign("ticket", carrier, said)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise AuthError("not a ticket of ours")
        wish: Mapping[str, str] = json.loads(urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        if int(wish["until"]) < self._clock():
            raise AuthError("the ticket is too old")
        return wish

    async def use(self, wish: Mapping[str, str]) -> None:
        """Use a ticket up.

        Raises:
            AuthError: It was used before.
        """
        if not await self._used.first(wish["n"]):
            raise AuthError("the ticket was used before")
