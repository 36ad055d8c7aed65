"""Carriers whose live calls are moved by having them fetch another document of ours."""

from __future__ import annotations

from dataclasses import dataclass

from flowcat_server.core.carrier import NOWHERE, Account, Carrier, Handing, LiveCall, RestRequest


@dataclass(slots=True, frozen=True, kw_only=True)
class RedirectingCarrier(Carrier):
    """What the document says, `fetched` and `joined` know; here it is only asked for."""

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Has the call fetch the document that dials the number."""
        del phone, now_s
        return self._redirect(account, call, handing)

    def join(
        self,
        account: Account,
        call: LiveCall,
        other: LiveCall,
        room: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Has the call fetch the document that connects it to the other."""
        del other, room, now_s
        return self._redirect(account, call, handing) if self.joins_calls else None

    def _redirect(self, account: Account, call: LiveCall, handing: Handing) -> RestRequest | None:
        """Has a live call fetch `handing.document_url`; None: it cannot be done."""
        raise NotImplementedError
