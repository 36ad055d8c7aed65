"""A carrier's side of a call, in the same words for all carriers: the mirror of `core.carrier`.

A `FarSide` is data and functions of what is asked; what one media socket has said so far is kept
by the `FarStream` that it opens. Neither does I/O or reads a clock.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

from flowcat_server.core.audio import MULAW_8K, AudioFormat, swap_bytes
from flowcat_server.core.carrier import Account, Message
from flowcat_server.core.proof import basic

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
CALLER, CALLED = "+15550100", "+15550199"
"""Numbers that belong to nobody."""


class Unexpected(Exception):
    """What the server said is nothing that this carrier could use; the message says what it was."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A webhook, not yet signed and not yet sent."""

    method: str
    path: str
    """With its query."""
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to a webhook sends the call's audio."""

    url: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """That the answer wants with the handshake."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one message of the server's means."""

    audio: bytes = b""
    mark: str = ""
    """It wants to be told when everything before was played."""
    cleared: bool = False
    """What was not played is to be forgotten."""
    ending: bool = False
    """It wants to end the call."""
    answers: Sequence[Message] = ()
    """What the protocol demands at once."""


class FarStream:
    """One media socket of Twilio's manner; others say what differs."""

    def __init__(
        self, call: str, parameters: Mapping[str, str], account: Account | None = None
    ) -> None:
        """Begin.

        Args:
            call: The carrier's id of the call.
            parameters: What the answer to the webhook gave for the socket.
            account: The carrier's block of the agent file.
        """
        self.call = call
        self.parameters = dict(parameters)
        self.account = account or Account()
        self.sent = 0
        """Messages with audio."""

    @property
    def says(self) -> AudioFormat:
        """The caller's audio."""
        return MULAW_8K

    @property
    def hears(self) -> AudioFormat:
        """The agent's audio."""
        return self.says

    @property
    def big_endian(self) -> bool:
        """L16 travels in network byte order."""
        return self.account.options.get("byte_order") == "big"

    chunk_ms: ClassVar[int] = 20
    """Of the caller's audio in a message."""

    # --- what is sent -----------------------------------------------------------------------

    def start(self) -> list[Message]:
        """The first messages."""
        raise NotImplementedError

    def say(self, audio: bytes) -> Message:
        """The caller's audio, `chunk_ms` of it."""
        self.sent += 1
        return self.media(b64encode(self.swapped(audio, self.says)).decode())

    def media(self, payload: str) -> Message:
        """A message with audio in base64."""
        raise NotImplementedError

    def played(self, mark: str) -> Message | None:
        """Everything before a mark was played."""
        del mark
        return None

    def key(self, digit: str) -> Message | None:
        """The caller pressed a key; None: it does not come over this socket."""
        del digit
        return None

    def unknown(self, size: int) -> Message | None:
        """A message of about so many bytes that means nothing."""
        return json.dumps({"event": "doctor", "padding": "x" * size})

    def stop(self) -> list[Message]:
        """The caller hung up; empty: closing the socket says it."""
        return []

    # --- what comes -------------------------------------------------------------------------

    def hear(self, message: Message) -> Heard:
        """What a message means. Raises `Unexpected`."""
        return self.said(fields_of(message))

    def said(self, fields: Mapping[str, Any]) -> Heard:
        """What a JSON message means. Raises `Unexpected`."""
        raise NotImplementedError

    def audio(self, payload: object) -> Heard:
        """Audio in base64. Raises `Unexpected`."""
        try:
            audio = b64decode(str(payload), validate=True)
        except ValueError as error:
            raise Unexpected("audio that is no base64") from error
        return Heard(audio=self.swapped(audio, self.hears))

    def swapped(self, audio: bytes, kind: AudioFormat) -> bytes:
        """Audio as it travels, or back."""
        return swap_bytes(audio) if self.big_endian and kind.encoding == "pcm16" else audio


class RawStream(FarStream):
    """A socket with bare audio in binary messages."""

    def say(self, audio: bytes) -> Message:
        """Bare audio."""
        self.sent += 1
        return audio

    def hear(self, message: Message) -> Heard:
        """What a message means. Raises `Unexpected`."""
        return Heard(audio=message) if isinstance(message, bytes) else super().hear(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class FarSide:
    """A carrier as the server sees it."""

    name: str
    stream: type[FarStream]
    asks: bool = True
    """It asks a webhook what to do with a call; else it opens the socket unasked."""
    reports: bool = False
    """It reports how a call goes."""
    signs: Literal["", "url", "body"] = ""
    """What its webhooks' signature covers: ``url`` or ``body``; empty: it signs none."""
    can_sign: bool = True
    """With what the agent file holds; else only the carrier has the key."""
    dated: bool = False
    """Signatures say when they were made."""
    subprotocols: tuple[str, ...] = ()
    socket_password: bool = False
    """User and password come with the handshake."""

    # --- webhooks ---------------------------------------------------------------------------

    def answer_path(self, run_id: str) -> str:
        """Where webhooks are sent."""
        return f"/telephony/answer/{self.name}" + (f"/{run_id}" if run_id else "")

    @property
    def status_path(self) -> str:
        """Where reports are sent."""
        return f"/telephony/status/{self.name}"

    def fields(self, call: str) -> dict[str, str]:
        """What a webhook says of a call."""
        raise NotImplementedError

    def webhook(self, call: str, run_id: str = "", **more: str) -> Asked:
        """A call comes in."""
        body = urlencode({**self.fields(call), **more}).encode()
        return Asked("POST", self.answer_path(run_id), body, FORM)

    def status(self, call: str) -> Asked:
        """The call is over."""
        raise NotImplementedError

    def sign(self, asked: Asked, url: str, account: Account, now_s: int) -> dict[str, str]:
        """What proves who asks; `url` is the whole address as the server is asked."""
        del asked, url, now_s
        return password(account)

    def place(self, answer: str) -> Place:
        """Where an answer sends the call's audio. Raises `Unexpected`."""
        raise NotImplementedError

    def is_busy(self, status: int, answer: str) -> bool:
        """Whether an answer turns the call away."""
        raise NotImplementedError

    # --- the media socket -------------------------------------------------------------------

    def new_call(self, unique: str) -> str:
        """An id of a call as this carrier makes them; `unique` is 32 hexadecimal digits."""
        return f"doctor-{unique}"

    def path(self, call: str) -> str:
        """Of the media socket, where no webhook names it."""
        del call
        return f"/telephony/ws/{self.name}"

    def handshake(self, url: str, account: Account, now_s: int, unique: str) -> dict[str, str]:
        """Headers of the media socket's handshake; `url` begins with ``wss``."""
        del url, now_s, unique
        return password(account) if self.socket_password else {}


def password(account: Account) -> dict[str, str]:
    """User and password, where they are configured."""
    return {"Authorization": basic(account.user, account.password)} if account.password else {}


def fields_of(message: Message | str) -> Mapping[str, Any]:
    """A JSON object. Raises `Unexpected`."""
    try:
        fields = json.loads(message)
    except ValueError as error:
        raise Unexpected(f"no JSON: {shown(message)}") from error
    if not isinstance(fields, dict):
        raise Unexpected(f"no object: {shown(message)}")
    return fields


def listed(answer: str) -> list[Mapping[str, Any]]:
    """A JSON array of objects. Raises `Unexpected`."""
    try:
        found = json.loads(answer)
    except ValueError as error:
        raise Unexpected(f"no JSON: {shown(answer)}") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Unexpected(f"no list of objects: {shown(answer)}")
    return found


def document(answer: str) -> ET.Element:
    """An XML document. Raises `Unexpected`."""
    try:
        return ET.fromstring(answer)  # noqa: S314 - our own server's answer
    except ET.ParseError as error:
        raise Unexpected(f"no XML: {shown(answer)}") from error


def child(root: ET.Element, path: str) -> ET.Element:
    """An element of a document. Raises `Unexpected`."""
    found = root.find(path)
    if found is None:
        raise Unexpected(f"a document without {path.removeprefix('./')}")
    return found


def verbs(answer: str) -> list[str]:
    """The names of a document's verbs; none if it is no document."""
    try:
        return [each.tag for each in document(answer)]
    except Unexpected:
        return []


def shown(said: Message) -> str:
    """The beginning of something that was said, fit for a terminal."""
    text = said if isinstance(said, str) else said.decode("utf-8", "replace")
    line = " ".join(text[:400].split())
    return repr(line[:100] + ("..." if len(line) > 100 else ""))
