"""Cloudonix voice applications (CXML): Twilio's documents and messages, unsigned webhooks.

The stream says more about the call than Twilio's::

    {"event":"start","streamSid":"..","start":{"accountSid":"<domain>","callSid":"..",
     "session":"<token>","from":"+1..","to":"+1..","tracks":["inbound"],
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}

Status callbacks are JSON, an object or a list of one, with the record's ``disposition``. Webhooks
are not signed: user and password in their address, or the addresses they come from, have to do.
https://developers.cloudonix.com/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowcat_server.carriers._http import (
    call_status,
    dialled,
    fields_of,
    path_part,
    ringing,
    with_password,
)
from flowcat_server.carriers._twilio import STATUSES, TwilioLike, dial
from flowcat_server.carriers._values import first
from flowcat_server.core.carrier import (
    NOWHERE,
    Account,
    CallStatus,
    Dial,
    Handing,
    LiveCall,
    Request,
    RestRequest,
    Ringing,
    Status,
)

DISPOSITIONS: Mapping[str, Status] = {
    "answer": "completed",
    "busy": "busy",
    "cancel": "canceled",
    "failed": "failed",
    "congestion": "failed",
    "noanswer": "no-answer",
}
_CALL = ("CallSid", "callSid", "Session", "session", "token", "call-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloudonix(TwilioLike):
    """Twilio's manner on the wire, an API of its own."""

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces."""
        fields = fields_of(request)
        return ringing(
            request,
            first(fields, _CALL),
            first(fields, ("From", "from", "caller-id")),
            first(fields, ("To", "to", "destination")),
            first(fields, ("AccountSid", "Domain", "domain")),
        )

    def read_status(self, request: Request) -> CallStatus | None:
        """The disposition of a call's record, or ``CallStatus``."""
        fields = fields_of(request)
        call = first(fields, _CALL)
        told = call_status(call, fields.get("disposition"), DISPOSITIONS)
        return told or call_status(call, first(fields, ("CallStatus", "status")), STATUSES)

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call whose document is asked of us."""
        del now_s
        if not (account.secret and account.id):
            return None
        url = f"{account.api or self.api}/calls/{path_part(account.id)}/application"
        body = {
            "destination": call.to,
            "caller-id": call.from_number,
            "url": with_password(call.answer_url, account),
            "callback": with_password(call.status_url, account),
            "timeout": call.ring_s,
        }
        return RestRequest("POST", url, f"Bearer {account.secret}", json=body)

    def read_dialled(self, answer: bytes) -> str:
        """``token``, by which the session is known."""
        return dialled(answer, "token")

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends the session."""
        del now_s
        owner = account.id or call.account_id
        if not (account.secret and owner):
            return None
        url = (
            f"{account.api or self.api}/customers/self/domains/{path_part(owner)}"
            f"/sessions/{path_part(call.call_id)}"
        )
        return RestRequest("DELETE", url, f"Bearer {account.secret}")

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Gives the session a new document."""
        del now_s
        owner = account.id or call.account_id
        if not (account.secret and owner):
            return None
        url = (
            f"{account.api or self.api}/calls/{path_part(owner)}"
            f"/sessions/{path_part(call.call_id)}/application"
        )
        document = dial(phone, call.from_number, handing)
        return RestRequest("POST", url, f"Bearer {account.secret}", json={"cxml": document})


CARRIER = Cloudonix(
    name="cloudonix",
    title="Cloudonix",
    wire="CXML `<Connect><Stream>`",
    audio="mu-law, 8 kHz",
    docs="https://developers.cloudonix.com/",
    paste="the voice application's URL",
    credential="password",
    unverified="names in webhooks and callbacks, and the API: they rest on other projects' code",
    has_status=True,
    moves_calls=True,
    dial_keys=("domain", "api_token"),
    api="https://api.cloudonix.io",
)
