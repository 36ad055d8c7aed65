"""Telling somebody that a call has ended: one signed POST for each call, until it is taken.

What is still to be delivered is a column of the calls table, so that neither a restart nor a
receiver that is down for hours loses a report. The receiver may see a report twice (when its
answer got lost); ``X-Flowcat-Delivery`` is the call's id.

The signature is ``X-Flowcat-Signature: t=<unix seconds>,v1=<hex>`` with the HMAC-SHA256
(RFC 2104) of ``<t>.<body>`` under the shared secret; `verify` checks one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import structlog
from sqlalchemy.exc import SQLAlchemyError

from flowcat_server.records.models import CallRecord, iso
from flowcat_server.records.store import Store

log = structlog.get_logger()

SIGNATURE: Final = "X-Flowcat-Signature"
DELIVERY: Final = "X-Flowcat-Delivery"
TIMEOUT_MS: Final = 10_000
RETRY_MS: Final = (1_000, 5_000, 30_000, 120_000, 600_000)
"""Waits after failures in a row; the last one repeats."""
GIVE_UP_MS: Final = 24 * 3_600_000
"""A report that could not be delivered for this long after the call is marked failed."""
TROUBLE: Final = 3
"""Errors in a row that are the receiver's, and not those of one report."""
LOOK_MS: Final = 30_000
"""How often the database is asked when nobody said that a call ended."""
_TRY_LATER: Final = frozenset({408, 425, 429})
"""Refusals that are about now, not about the report (RFC 9110, RFC 6585, RFC 8470)."""

DELIVERED, FAILED, LATER, AWAY = "delivered", "failed", "later", "away"


def sign(secret: str, body: bytes, now: int) -> str:
    """The signature header for `body` at `now` (seconds since 1970)."""
    digest = hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256).hexdigest()
    return f"t={now},v1={digest}"


def verify(secret: str, header: str, body: bytes, now: int, tolerance_s: int = 300) -> bool:
    """Whether `header` is the signature of `body`, made within `tolerance_s` of `now`."""
    fields = dict(part.strip().partition("=")[::2] for part in header.split(","))
    made = fields.get("t", "")
    if not (made.isascii() and made.isdecimal() and len(made) < 16):
        return False
    if abs(now - int(made)) > tolerance_s:
        return False
    expected = sign(secret, body, int(made)).partition("v1=")[2]
    return hmac.compare_digest(expected.encode(), fields.get("v1", "").encode())


def report(call: CallRecord) -> dict[str, Any]:
    """What is sent: the call's record without its event stream."""
    record = call.to_dict()
    del record["events"]
    ended_at = call.summary.ended_at
    return {
        "type": "call.ended",
        "id": call.summary.id,
        "created_at": None if ended_at is None else iso(ended_at),
        "call": record,
    }


class Webhook:
    """Delivers the reports of a store that was opened with ``webhook=True``.

    Args:
        store: Knows what is due.
        session: Makes the requests; stays the caller's.
        url: Where to.
        secret: Signs the body; empty: unsigned.
        timeout_ms: Longest wait for an answer.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        session: aiohttp.ClientSession,
        url: str,
        secret: str = "",
        *,
        timeout_ms: int = TIMEOUT_MS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._session = session
        self._url = url
        self._secret = secret
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._clock = clock
        self._wanted = asyncio.Event()

    def call_ended(self) -> None:
        """There may be something to deliver: look now."""
        self._wanted.set()

    async def run(self) -> None:
        """Deliver what is due, until cancelled. One task of the server."""
        failures = 0
        while True:
            self._wanted.clear()
            try:
                everything = await self.deliver_due()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("webhook_store_failed", error=" ".join(str(error).split()))
                everything = False
            if everything:
                failures = 0
                await self._wait(LOOK_MS)
            else:
                await asyncio.sleep(RETRY_MS[min(failures, len(RETRY_MS) - 1)] / 1000)
                failures += 1

    async def _wait(self, ms: int) -> None:
        try:
            async with asyncio.timeout(ms / 1000):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def deliver_due(self) -> bool:
        """Try everything that is due, oldest first; False when some of it is due later again.

        Who cannot be reached, or asks for time, is not tried with the rest. A report that is
        answered with an error of the server holds up no other, but several in a row do.
        """
        everything, in_a_row = True, 0
        for call_id in await self._store.webhooks_due():
            call = await self._store.get_call(call_id)
            if call is None:
                continue
            state = await self.deliver(call)
            if state in (LATER, AWAY):
                age_ms = self._clock() * 1000 - (call.summary.ended_at or 0)
                if age_ms < GIVE_UP_MS:
                    everything, in_a_row = False, in_a_row + 1
                    if state == AWAY or in_a_row >= TROUBLE:
                        return False
                    continue
                log.error("webhook_given_up", call_id=call_id)
                state = FAILED
            in_a_row = 0
            await self._store.webhook_done(call_id, state)
        return everything

    async def deliver(self, call: CallRecord) -> str:
        """Send one report once.

        Returns ``delivered``, ``failed`` (refused), ``later`` (an error of the server) or ``away``
        (no answer, or one that asks for time).
        """
        body = json.dumps(report(call), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", DELIVERY: call.summary.id}
        if self._secret:
            headers[SIGNATURE] = sign(self._secret, body, int(self._clock()))
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("webhook_failed", call_id=call.summary.id, error=type(error).__name__)
            return AWAY
        if 200 <= status < 300:
            return DELIVERED
        log.warning("webhook_refused", call_id=call.summary.id, status=status)
        if status in _TRY_LATER:
            return AWAY
        return LATER if status >= 500 else FAILED
