"""Genesys Cloud AudioHook / Audio Connector, protocol version 2.

Theory of operation. There is no webhook; the handshake is signed (HTTP Message Signature). Text
messages carry a sequence: each side counts its own from 1 and says the last it saw of the other.
``open`` offers media, of which exactly one is taken in ``opened``; then audio is binary, both
ways. ``ping`` is answered at once. We end with ``disconnect`` and wait for ``close``, which is
answered with ``closed``; the client closes the socket::

    {"version":"2","id":"<session>","type":"open","seq":1,"serverseq":0,"position":"PT0S",
     "parameters":{"organizationId":"..","conversationId":"..","participant":{"ani":"..",
      "dnis":".."},"media":[{"type":"audio","format":"PCMU","channels":["external"],"rate":8000}]}}
    {"version":"2","id":"<session>","type":"dtmf","seq":2,"serverseq":1,"position":"PT1.2S",
     "parameters":{"digit":"5"}}
    {"version":"2","id":"<session>","type":"close","seq":3,"serverseq":1,"position":"PT3S",
     "parameters":{"reason":"end"}}

A conversation of zeros only is a probe of the connection: no agent is started for it. Small
messages are answered with 429, so speech goes out in at least 100 ms.
https://developer.genesys.cloud/devapps/audiohook/.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flowcat_server.carriers._http import url_candidates, wire_bytes
from flowcat_server.carriers._pcm_stream import PcmStream
from flowcat_server.carriers._values import (
    MAX_ID_CHARS,
    audio_format,
    encode_json,
    fault,
    key,
    number,
    obj,
    parameters,
    text,
)
from flowcat_server.core import ended
from flowcat_server.core.audio import MULAW_8K, AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Fed,
    Ignored,
    Message,
    Refuse,
    Reply,
    Request,
    Sending,
    Started,
    Stopped,
    Verdict,
)
from flowcat_server.core.proof import same

MAX_AGE_S = 10
MAX_AHEAD_S = 3
"""How old a signature may be, and how far our clock may lag behind theirs."""
MIN_NONCE_CHARS = 22
ACTION, TARGET = "flowcatAction", "flowcatTarget"
"""Output variables of the flow's action where a call is passed on: ``transfer``, and to whom."""
PROBE = "00000000-0000-0000-0000-000000000000"
COVERED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
_FAULTS = frozenset({ended.SERVER_ERROR, ended.PROVIDER_FAILED, ended.CARRIER_PROTOCOL})
_INPUT = re.compile(
    r'(?P<name>[a-z][a-z0-9_.*-]*)=(?P<params>\((?P<covered>(?:"[a-z0-9@-]+" ?)*)\)(?P<rest>.*))'
)
_PARAM = re.compile(r';(?P<name>[a-z]+)=(?:"(?P<text>[^"]*)"|(?P<number>\d{1,12}))')
_MAX_HEADER = 2048


class Stream(PcmStream):
    """One media socket."""

    __slots__ = ("_media", "_organization", "_probe", "_seen", "_sent", "_session")

    def __init__(self, organization: str = "", session: str = "") -> None:
        """Begin.

        Args:
            organization: The one that the handshake named; empty: any.
            session: The same of the session.
        """
        super().__init__()
        self._organization = organization
        self._session = session
        self._seen = 0
        """The last of their messages."""
        self._sent = 0
        """The last of ours."""
        self._media: Mapping[str, Any] = {}
        self._probe = False

    # --- what comes in ----------------------------------------------------------------------

    def feed(self, message: str | bytes, binary: bool = False) -> Fed:  # noqa: FBT001, FBT002, RUF100 - one call a frame
        """What one message means. Never raises."""
        if binary and not self._started:
            return Refuse("audio before opened")
        return PcmStream.feed(self, message, binary)

    def _control(self, fields: Mapping[str, Any]) -> Fed:
        kind, seq, session = fields.get("type"), fields.get("seq"), text(fields.get("id"))
        if not isinstance(kind, str) or not isinstance(seq, int):
            return fault("no message of the protocol")
        problem = self._out_of_order(session, seq, fields.get("serverseq"))
        if problem:
            return Refuse(problem)
        self._seen = seq
        self._session = session
        about = obj(fields.get("parameters"))
        match kind:
            case "open":
                return self._open(about)
            case "ping":
                return Reply(self._message("pong"))
            case "close":
                return Reply(self._message("closed"), Stopped())
            case "dtmf":
                return key(about.get("digit"))
            case "error":
                return fault("the carrier reports an error")
            case _:
                return Ignored(f"{kind if kind in _KNOWN else 'unknown type'}")

    def _out_of_order(self, session: str, seq: int, serverseq: object) -> str:
        if not session or len(session) > MAX_ID_CHARS or session != (self._session or session):
            return "another session's message"
        if seq != self._seen + 1:
            return "sequence broken"
        if isinstance(serverseq, int) and serverseq > self._sent:
            return "what we never sent was seen"
        return ""

    def _open(self, about: Mapping[str, Any]) -> Fed:
        if self._started or self._probe:
            return Refuse("opened twice")
        organization = text(about.get("organizationId"))
        if self._organization and not same(self._organization, organization):
            return Refuse("another organization's call", 1008)
        conversation = text(about.get("conversationId"))
        if conversation == PROBE:
            self._probe = True
            return Reply(self._message("opened", {"startPaused": False, "media": []}))
        chosen, audio = _choose(about.get("media"))
        if audio is None:
            return Refuse("no mono PCMU or L16 is offered", 1008)
        if not conversation or len(conversation) > MAX_ID_CHARS:
            return Refuse("open without a conversation", 1008)
        self._started = True
        self._media = chosen
        participant = obj(about.get("participant"))
        custom = obj(about.get("inputVariables"))
        return Started(
            call_id=conversation,
            stream_id=self._session,
            account_id=organization[:MAX_ID_CHARS],
            parameters=parameters(custom),
            input_format=audio,
            output_format=audio,
            sending=_sending(audio),
            from_number=_number(participant.get("ani")),
            to_number=_number(participant.get("dnis")),
        )

    # --- what goes out ----------------------------------------------------------------------

    def accept(self) -> Sequence[Message]:
        """Which of the offered media is taken."""
        return [self._message("opened", {"startPaused": False, "media": [dict(self._media)]})]

    def clear(self) -> str:
        """The caller speaks over the agent: playback is dropped."""
        barge_in = {"type": "barge_in", "data": {}}
        return self._message("event", {"entities": [barge_in]})

    def end(self, reason: str, target: str = "") -> Sequence[Message]:
        """Asks for the end; ``close`` follows.

        The flow that called us finds in `ACTION` and `TARGET` that the call is to go on.
        """
        if not self._session:
            return ()
        why = "error" if reason in _FAULTS else "completed"
        about: dict[str, Any] = {"reason": why}
        if target:
            about["outputVariables"] = {ACTION: "transfer", TARGET: target}
        return [self._message("disconnect", about)]

    def _message(self, kind: str, about: Mapping[str, Any] | None = None) -> str:
        self._sent += 1
        return encode_json(
            {
                "version": "2",
                "id": self._session,
                "type": kind,
                "seq": self._sent,
                "clientseq": self._seen,
                "parameters": dict(about or {}),
            }
        )


_KNOWN = frozenset(
    {"update", "paused", "resumed", "discarded", "playback_started", "playback_completed"}
)


def _choose(offered: object) -> tuple[Mapping[str, Any], AudioFormat | None]:
    """The offered medium that we take: mono, mu-law before L16."""
    media = [obj(each) for each in offered[:16]] if isinstance(offered, list) else []
    found = [
        (each, audio)
        for each in media
        if isinstance(each.get("channels"), list)
        and each["channels"] in (["external"], ["internal"])
        if (audio := audio_format(text(each.get("format")), text(each.get("rate")))) is not None
    ]
    found.sort(key=lambda pair: (pair[1] != MULAW_8K, pair[0]["channels"] != ["external"]))
    return found[0] if found else ({}, None)


def _sending(audio: AudioFormat) -> Sending:
    return Sending(
        unit=audio.sample_bytes,
        least=audio.bytes_for(100),
        most=64_000,
        first_ms=100,
        chunk_ms=200,
        marks=False,
        lingers=True,
    )


def _number(value: object) -> str:
    return number(value).removeprefix("tel:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesys(Carrier):
    """A signed handshake, a protocol with a state."""

    def open(self, account: Account, handshake: Request) -> CarrierStream:
        """A new media socket, bound to what its handshake named."""
        del account
        headers = handshake.headers
        return Stream(
            headers.get("audiohook-organization-id", ""), headers.get("audiohook-session-id", "")
        )

    def verify_handshake(self, request: Request, account: Account, now_s: int) -> Verdict | None:
        """An HTTP Message Signature with the client secret over all that matters."""
        given = request.headers.get("signature-input", "")
        match = _INPUT.fullmatch(given) if len(given) <= _MAX_HEADER else None
        if match is None:
            return Verdict(proven=False, reason="not signed")
        covered = re.findall(r'"([^"]+)"', match["covered"])
        said = {found["name"]: found["text"] or found["number"] or "" for found in
                _PARAM.finditer(match["rest"])}  # fmt: skip
        problem = _problem(covered, said, request, account, now_s)
        if problem:
            return Verdict(proven=False, reason=problem)
        offered = request.headers.get("signature", "")
        for base in _bases(request, covered, match["params"]):
            expected = _sign(account.webhook_key, base)
            if expected and same(f"{match['name']}=:{expected}:", offered):
                return Verdict(proven=True, key=f"{said['nonce']} {offered}")
        return Verdict(proven=False, reason="signature")


def _problem(
    covered: Sequence[str],
    said: Mapping[str, str],
    request: Request,
    account: Account,
    now_s: int,
) -> str:
    """What is wrong with a signature, whether or not it is good."""
    if not set(COVERED) <= set(covered):
        return "not everything is covered"
    api_key = request.headers.get("x-api-key", "")
    ours = account.options.get("api_key", "")
    if not same(said.get("keyid", ""), api_key) or (ours and not same(ours, api_key)):
        return "API key"
    organization = account.options.get("organization_id", "")
    if organization and not same(
        organization, request.headers.get("audiohook-organization-id", "")
    ):
        return "organization"
    if said.get("alg", "hmac-sha256") != "hmac-sha256":
        return "algorithm"
    if len(said.get("nonce", "")) < MIN_NONCE_CHARS:
        return "nonce"
    created, expires = said.get("created", ""), said.get("expires", "")
    if not created.isdigit() or not -MAX_AHEAD_S <= now_s - int(created) <= MAX_AGE_S:
        return "signature too old"
    if expires and (not expires.isdigit() or int(expires) < now_s):
        return "signature expired"
    return ""


def _bases(request: Request, covered: Sequence[str], params: str) -> Iterator[str]:
    """What may have been signed: our address with its port and without."""
    for url in url_candidates(request.url):
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        derived = {"@request-target": target, "@authority": parts.netloc.lower()}
        lines = [
            f'"{name}": {derived.get(name) or request.headers.get(name, "").strip()}'
            for name in covered
        ]
        yield "\n".join([*lines, f'"@signature-params": {params}'])


def _sign(secret: str, base: str) -> str:
    try:
        key_bytes = b64decode(secret, validate=True)
    except ValueError:
        return ""
    digest = hmac.new(key_bytes, wire_bytes(base), hashlib.sha256)
    return b64encode(digest.digest()).decode()


CARRIER = Genesys(
    name="genesys",
    title="Genesys Cloud",
    wire="AudioHook / Audio Connector, version 2",
    audio="mu-law, 8 kHz (L16 if nothing else is offered)",
    docs="https://developer.genesys.cloud/devapps/audiohook/",
    paste="the Audio Connector integration's base connection URI",
    credential="client_secret",
    unverified="byte order of L16; when a client answers 429",
    has_webhook=False,
    returns_to_flow=True,
    handshake_suffices=True,
)
