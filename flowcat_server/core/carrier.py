"""What a carrier is: its wire, its webhooks and its API, in the same words for all of them.

A `Carrier` is data and functions of what arrives; it is shared by all calls and keeps nothing.
What one media socket has said so far is kept by the `CarrierStream` that it opens. Neither does
I/O, reads a clock, or raises on what the wire brings. Sockets, pacing, limits, tokens and replay
live in `transports` and `routes`, once for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flowcat_server.core.audio import AudioFormat

# --- what arrives on a media socket -------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Sending:
    """How a carrier takes speech. Bytes are bytes of the stream's output format."""

    ahead_ms: int = 400
    """How far ahead of the caller's ear it is sent. Small where the carrier does not buffer: then
    it is sent at the pace at which it sounds."""
    chunk_ms: int = 100
    """Length of a message, where there is that much to say."""
    first_ms: int = 40
    """The first message of a reply is small, so that it leaves at once."""
    unit: int = 1
    """The length of a message is a multiple of this; the last one is padded with silence."""
    least: int = 0
    """Bytes of the shortest message."""
    most: int = 32_000
    """Bytes of the longest message."""
    marks: bool = True
    """It says what it has played."""
    forgets: bool = True
    """It can be told to forget what it has not played."""
    fills: bool = False
    """It wants to hear something all the time, silence if nothing is said."""
    lingers: bool = False
    """At the end it is waited for: the carrier closes."""
    delay_ms: int = 60
    """From our socket to the caller's ear, until marks correct it."""


@dataclass(slots=True, frozen=True)
class Started:
    """The media stream began. Ids and parameters come from the wire: treat them as hostile."""

    call_id: str
    stream_id: str
    account_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    input_format: AudioFormat | None = None
    """None: the announced format is not one we can read."""
    output_format: AudioFormat | None = None
    sending: Sending = field(default_factory=Sending)
    from_number: str = ""
    to_number: str = ""


@dataclass(slots=True, frozen=True)
class Digit:
    """One DTMF key."""

    digit: str


@dataclass(slots=True, frozen=True)
class MarkPlayed:
    """Everything sent before this mark was played (or cleared)."""

    name: str


@dataclass(slots=True, frozen=True)
class Flow:
    """The carrier's buffer is full (`paused`), or takes audio again."""

    paused: bool


@dataclass(slots=True, frozen=True)
class Stopped:
    """The carrier ends the stream."""


@dataclass(slots=True, frozen=True)
class Ignored:
    """Nothing to do. `fault` is true if the message should not have been sent."""

    reason: str
    fault: bool = False


@dataclass(slots=True, frozen=True)
class Refuse:
    """The peer broke the protocol in a way that ends the stream."""

    reason: str
    close_code: int = 1002


@dataclass(slots=True, frozen=True)
class Reply:
    """The protocol demands an answer; `event` is what the message meant besides."""

    message: Message
    event: Event | None = None


Message = str | bytes
"""What is sent on a media socket: a text message or a binary one."""
Event = Started | Digit | MarkPlayed | Flow | Stopped | Ignored | Refuse | Reply
Fed = bytes | Event
"""Audio comes back as bare bytes: it is most of the traffic."""


class CarrierStream(Protocol):
    """One media socket's messages. No I/O, no clock; never raises on what the wire brings."""

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means. `binary` tells a binary message from a text in bytes."""

    def accept(self) -> Sequence[Message]:
        """What to send when the call is accepted."""

    def audio(self, payload: bytes) -> Message:
        """The message that plays `payload`, whose length `Started.sending` allows."""

    def mark(self, name: str) -> Message | None:
        """The message that asks to be told when everything before it was played."""

    def clear(self) -> Message | None:
        """The message that drops what was sent and not yet played."""

    def dtmf(self, digits: str) -> Sequence[Message]:
        """What sends keys to the far end; empty: it cannot be done on the socket."""

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """What to send before we close the socket; `target`: to whom the call was passed on."""


# --- webhooks -----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Request:
    """An HTTP request of a carrier, read to its end."""

    method: str
    url: str
    """As the carrier sees it: our public address and the exact path and query that arrived."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""
    query: Sequence[tuple[str, str]] = ()
    """Decoded, blanks kept."""
    form: Sequence[tuple[str, str]] | None = None
    """Decoded, blanks kept; None: the body is no form."""

    @property
    def fields(self) -> dict[str, str]:
        """What the request says in its form or query."""
        return dict(self.query if self.form is None else self.form)


@dataclass(slots=True, frozen=True)
class Verdict:
    """What became of checking a signature."""

    proven: bool
    reason: str = ""
    key: str = ""
    """The same for a repetition of this request, and for no other; empty: cannot be told."""


@dataclass(slots=True, frozen=True)
class Ringing:
    """A call that a webhook announces. From the wire: treat it as hostile."""

    call_id: str
    from_number: str = ""
    to_number: str = ""
    account_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What came with it: SIP headers by their names, and the webhook's other fields."""


@dataclass(slots=True, frozen=True)
class Document:
    """The answer to a webhook."""

    body: str
    content_type: str = "text/xml"
    status: int = 200
    rest: RestRequest | None = None
    """To be sent as well, where the answer to the webhook alone does nothing."""


Status = Literal[
    "initiated", "ringing", "answered", "completed", "busy", "no-answer", "failed", "canceled"
]
OVER: frozenset[Status] = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})
"""Statuses after which nothing comes."""


RANK: Mapping[Status, int] = {
    "initiated": 0, "ringing": 1, "answered": 2,
    "completed": 3, "busy": 3, "no-answer": 3, "failed": 3, "canceled": 3,
}  # fmt: skip
"""Callbacks repeat and come out of order: a call never goes back to a lower rank."""


@dataclass(slots=True, frozen=True)
class CallStatus:
    """What a status callback says of a call."""

    call_id: str
    status: Status
    detail: str = ""
    """The carrier's own word for why, for people. From the wire: treat it as hostile."""


Answerer = Literal["human", "machine", "fax", "unknown"]


@dataclass(slots=True, frozen=True)
class Detected:
    """What a carrier's machine detection says of who answered."""

    call_id: str
    answerer: Answerer
    greeting_over: bool = False
    """The machine has finished its greeting: it records now."""


E164 = re.compile(r"\+[1-9][0-9]{6,14}")
"""A telephone number (ITU-T E.164), with a plus."""

# --- the carrier's API --------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class RestRequest:
    """A request to the carrier's API, described but not sent."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    url: str
    authorization: str = ""
    """Value of the header."""
    form: Mapping[str, str | Sequence[str]] | None = None
    """A field with several values is written several times."""
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: RestRequest | None = None
    """To be sent first: the ``access_token`` it is answered with authorizes this one (RFC 6749
    section 5.1)."""
    gone_status: tuple[int, ...] = (404,)
    """Statuses that mean: the call is already over."""


@dataclass(slots=True, frozen=True)
class Account:
    """One carrier's block of the agent file, in the words that all carriers share."""

    id: str = ""
    """Who we are at the carrier's API: account SID, auth ID, application, ..."""
    secret: str = field(default="", repr=False)
    """What proves it at the carrier's API."""
    webhook_key: str = field(default="", repr=False)
    """What the carrier signs its requests with, or the public half of it."""
    user: str = ""
    password: str = field(default="", repr=False)
    """Asked of the carrier at our doors (RFC 7617), where it signs nothing."""
    allow_from: tuple[str, ...] = ()
    """The only addresses and networks that may use the carrier's doors."""
    api: str = ""
    """The carrier's API; empty: the usual one."""
    from_number: str = ""
    """What people see who are called, in E.164."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What only this carrier has."""

    @property
    def guarded(self) -> bool:
        """Something proves who is asking; if nothing does, only this machine may ask."""
        return bool(self.webhook_key or self.password or self.allow_from)


@dataclass(slots=True, frozen=True)
class LiveCall:
    """A call, as far as the carrier's API needs to know it."""

    call_id: str
    account_id: str = ""
    from_number: str = ""
    """Our own number in it: what a person who is called next may be shown."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Dial:
    """A call to be made. Numbers are in E.164."""

    to: str
    from_number: str
    answer_url: str
    """The webhook that is asked what to do when somebody answers."""
    status_url: str
    """Where the call is reported to."""
    socket_url: str = ""
    """Our media socket, for a carrier that asks no webhook."""
    ring_s: int
    """Seconds after which nobody will answer any more."""
    limit_s: int
    """Longest call in seconds; a second line of defence behind our own."""
    detect: bool = False
    """The carrier is to say who answered."""
    await_greeting: bool = False
    """The carrier is also to say when a machine has finished its greeting."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Handing:
    """What a carrier is told that passes a live call on."""

    document_url: str = ""
    """Answers once with the document that `Carrier.fetched` makes; empty: it cannot be reached."""
    over_url: str = ""
    """Asked when the person who was dialled has hung up or has not answered (`read_dial`)."""
    ring_s: int = 30
    """Seconds after which nobody will answer any more."""


NOWHERE = Handing()


@dataclass(slots=True, frozen=True)
class DialOver:
    """What became of a number that a carrier has dialled for a live call."""

    answered: bool
    why: str = ""
    """The carrier's own word for it. From the wire: treat it as hostile."""
    call_id: str = ""
    """The call that was passed on, where the report does not come to an address of its own."""


Report = CallStatus | Detected | DialOver
"""What a carrier says of a call, unasked."""


# --- the carrier --------------------------------------------------------------------------------

FIXTURE_TESTED = "fixture-tested"
Place = Literal["parameter", "path", "query"]


@dataclass(slots=True, frozen=True, kw_only=True)
class Carrier:
    """A phone company or a switch. What a carrier does not have keeps its default here."""

    name: str
    """In URLs, in the agent file, in records."""
    title: str
    """As people write it."""
    wire: str
    """What the carrier calls its media socket."""
    audio: str
    """Formats, for people."""
    docs: str
    """The vendor's page."""
    paste: str = ""
    """Where the address that the start screen shows is to be pasted."""
    credential: str = ""
    """The key of the agent file without which only this machine is served."""
    status: str = FIXTURE_TESTED
    unverified: str = ""
    """What only a live account can show."""
    over: Literal["websocket", "tcp"] = "websocket"
    """What its media socket is. TCP has a listener of its own."""
    has_webhook: bool = True
    """It asks `/telephony/answer` what to do with a call; else it opens the socket unasked."""
    has_status: bool = False
    """It reports to `/telephony/status`."""
    moves_calls: bool = False
    """A live call can be passed on to another number."""
    joins_calls: Literal["", "both", "caller"] = ""
    """Two live calls can be connected to each other, after which we leave: each by a request of
    its own, or both by the caller's."""
    returns_to_flow: bool = False
    """A call that is passed on goes back to the carrier's flow, which knows where to."""
    reports_dials: bool = False
    """Our socket stays open while another number is dialled for the call, and we are told."""
    tells_keys: bool = True
    """It tells of the keys that a caller presses; where it does not, they are heard."""
    sends_keys: Literal["", "socket", "api"] = ""
    """How it sends keys to the far end; empty: they are sent as sound."""
    dial_keys: tuple[str, ...] = ()
    """The keys of its block without which it makes no calls; none: it cannot make any."""
    detection: str = ""
    """What it calls its answering-machine detection; empty: it has none that we ask for."""
    outlives_socket: bool = False
    """The call goes on when we close the socket: it has to be ended through the API."""
    subprotocols: tuple[str, ...] = ()
    """Of the WebSocket (RFC 6455 section 1.9)."""
    ticket_in: Place = "parameter"
    """Where the media socket's token travels."""
    handshake_suffices: bool = False
    """The socket needs no token if its handshake proved who opens it."""
    basic_on_socket: bool = False
    """A user and password that are configured have to be sent with the handshake too."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket, and the request that opened it."""
        raise NotImplementedError

    def read_call(self, request: Request) -> Ringing | None:
        """The call that a webhook announces; None if it does not."""
        raise NotImplementedError

    def is_report(self, request: Request) -> bool:
        """Whether a webhook that announces no call tells of one, and wants no answer.

        Some carriers have one address for everything.
        """
        return False

    def answer(
        self, account: Account, call: Ringing, url: str, parameters: Mapping[str, str]
    ) -> Document:
        """Connects the call to our media socket at `url`."""
        raise NotImplementedError

    def busy(self, account: Account, call: Ringing) -> Document:
        """Turns the call away: the server is full or draining."""
        raise NotImplementedError

    def drop(self, account: Account, call: Ringing) -> Document:
        """Ends a call that we made and that was answered too late."""
        return self.busy(account, call)

    def say(self, account: Account, call: Ringing, text: str, language: str) -> Document | None:
        """Says a text in the carrier's own voice and ends the call; None: it cannot.

        Args:
            account: Ours.
            call: Which call.
            text: The words.
            language: Code such as de-DE; empty: the carrier's usual one.
        """
        return None

    def verify(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """Whether the carrier signed a webhook; None: it signs none."""
        return None

    def verify_handshake(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """Whether the carrier signed the media socket's handshake; None: it did not try to."""
        return None

    def read_status(self, request: Request) -> CallStatus | None:
        """What a status callback says; None: nothing that we know."""
        return None

    def dial(self, account: Account, call: Dial, now_s: int) -> RestRequest | None:
        """Makes a call; None: it cannot, or lacks one of `dial_keys`."""
        return None

    def read_dialled(self, answer: bytes) -> str:
        """The carrier's id of the call, from what it answered to `dial`; empty: not told yet."""
        return ""

    def read_detection(self, request: Request) -> Detected | None:
        """Who answered, by a status callback; None: it does not say."""
        return None

    def cancel(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a call that nobody has answered yet; None: it cannot be done."""
        return self.hang_up(account, call, now_s)

    def outlives(self, account_id: str) -> bool:
        """Whether this call goes on when we close its socket."""
        del account_id
        return self.outlives_socket

    def hang_up(self, account: Account, call: LiveCall, now_s: int) -> RestRequest | None:
        """Ends a live call; None: closing the socket does."""
        return None

    def transfer(
        self,
        account: Account,
        call: LiveCall,
        phone: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Passes a live call on to another number; None: it cannot be done."""
        return None

    def fetched(
        self, account: Account, call: LiveCall, phone: str, handing: Handing
    ) -> Document | None:
        """The document that dials a number, for a carrier that fetches it."""
        return None

    def read_dial(self, request: Request) -> DialOver | None:
        """What became of a number that was dialled for a live call; None: it does not say."""
        return None

    def join(
        self,
        account: Account,
        call: LiveCall,
        other: LiveCall,
        room: str,
        now_s: int,
        handing: Handing = NOWHERE,
    ) -> RestRequest | None:
        """Connects a live call to another one; `room` is a name for the two of them.

        None: it cannot be done.
        """
        return None

    def joined(self, other: LiveCall, room: str) -> Document | None:
        """The document that connects a call to another, for a carrier that fetches it."""
        return None

    def hung_up(self) -> Document:
        """The document that ends a call."""
        raise NotImplementedError

    def send_keys(
        self, account: Account, call: LiveCall, keys: str, now_s: int
    ) -> RestRequest | None:
        """Sends keys to the far end; None: it cannot, or lacks credentials."""
        return None
