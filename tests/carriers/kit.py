"""Recorded calls as files, and how to write down what they mean.

A line of a corpus is what arrives (``message`` as JSON, ``text`` as it is, or ``binary`` as a byte
and how often) with what it ``means``, or what we ``do`` with what that ``sends``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flowcat_server import carriers
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.carrier import (
    Account,
    Carrier,
    CarrierStream,
    Digit,
    Fed,
    Flow,
    Ignored,
    MarkPlayed,
    Message,
    Refuse,
    Reply,
    Request,
    Sending,
    Started,
    Stopped,
)

CORPUS = Path(__file__).parents[1] / "corpus"


def carrier_named(name: str) -> Carrier:
    carrier = carriers.find(name)
    assert carrier is not None
    return carrier


def recordings() -> list[tuple[str, Path]]:
    return [
        (name, file)
        for name in carriers.names()
        for file in sorted((CORPUS / name).glob("*.jsonl"))
    ]


def payload(spec: Sequence[int] | str) -> bytes:
    if isinstance(spec, str):
        return bytes.fromhex(spec)
    byte, count = spec
    return bytes([byte]) * count


def said(row: dict[str, Any]) -> tuple[str | bytes, bool]:
    """What arrives: the message, and whether it is binary."""
    if "binary" in row:
        return payload(row["binary"]), True
    if "text" in row:
        return row["text"], False
    return json.dumps(row["message"]), False


def shown(message: Message | None) -> Any:
    """A message that we send, as the corpus writes it down."""
    if message is None:
        return None
    if isinstance(message, bytes):
        return {"binary": [message[0], len(message)] if len(set(message)) == 1 else message.hex()}
    return json.loads(message) if message.startswith("{") else message


def named(audio: AudioFormat | None) -> str | None:
    return None if audio is None else f"{audio.encoding} {audio.sample_rate}"


def as_row(fed: Fed | None) -> Any:
    """The corpus's way to write down an event."""
    match fed:
        case None:
            return None
        case bytes():
            return {"audio": [fed[0], len(fed)] if len(set(fed)) == 1 else fed.hex()}
        case Started():
            return {"started": _started(fed)}
        case MarkPlayed(name):
            return {"mark": name}
        case Digit(digit):
            return {"digit": digit}
        case Flow(paused):
            return {"flow": "pause" if paused else "resume"}
        case Stopped():
            return {"stopped": True}
        case Ignored(reason, fault):
            return {"fault" if fault else "ignored": reason}
        case Refuse(reason, code):
            return {"refuse": reason, "code": code}
        case Reply(message, event):
            return {"reply": shown(message)} | ({"and": as_row(event)} if event else {})


def _started(fed: Started) -> dict[str, Any]:
    row: dict[str, Any] = {
        "call_id": fed.call_id,
        "stream_id": fed.stream_id,
        "account_id": fed.account_id,
        "parameters": dict(fed.parameters),
        "in": named(fed.input_format),
    }
    if fed.output_format != fed.input_format:
        row["out"] = named(fed.output_format)
    if fed.from_number or fed.to_number:
        row |= {"from": fed.from_number, "to": fed.to_number}
    if fed.sending != Sending():
        usual = Sending()
        row["sending"] = {
            name: getattr(fed.sending, name)
            for name in Sending.__slots__
            if getattr(fed.sending, name) != getattr(usual, name)
        }
    return row


def did(stream: CarrierStream, row: dict[str, Any]) -> Any:
    """What we send, as the corpus writes it down."""
    match row["do"]:
        case "audio":
            return shown(stream.audio(payload(row["with"])))
        case "mark":
            return shown(stream.mark(row["with"]))
        case "clear":
            return shown(stream.clear())
        case "dtmf":
            return [shown(message) for message in stream.dtmf(row["with"])]
        case "accept":
            return [shown(message) for message in stream.accept()]
        case "end":
            return [shown(message) for message in stream.end(row.get("with", "agent.ended"))]
    raise AssertionError(row)


def opened(name: str, file: Path) -> CarrierStream:
    """The socket of a recording, with the options and the query that lie beside it."""
    beside = file.with_suffix(".json")
    options = json.loads(beside.read_text()) if beside.is_file() else {}
    query = list(options.pop("query", {}).items())
    handshake = Request("GET", "wss://a.example/ws", query=query)
    return carrier_named(name).open(Account(options=options), handshake)


def replay(name: str, file: Path) -> Iterator[tuple[str, Any, Any]]:
    """Each line, what came of it, and what should have."""
    stream = opened(name, file)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if "do" in row:
            yield line, did(stream, row), row["sends"]
        else:
            yield line, as_row(stream.feed(*said(row))), row["means"]


# --- anything at all ------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def words(name: str) -> list[str]:
    """Every key and word that a carrier's recordings hold: what fuzzing is to know of them."""
    found: dict[str, None] = {}

    def walk(value: Any) -> None:
        match value:
            case dict():
                for key, inner in value.items():
                    found[key] = None
                    walk(inner)
            case list():
                for inner in value:
                    walk(inner)
            case str() if len(value) < 40:
                found[value] = None

    for owner, file in recordings():
        if owner == name:
            for line in file.read_text().splitlines():
                row = json.loads(line)
                walk(row.get("message"))
                if "text" in row:
                    found[row["text"]] = None
    return sorted(found)


def messages(name: str) -> st.SearchStrategy[tuple[str | bytes, bool]]:
    """Messages of all kinds: recorded, nearly right, and nonsense."""
    known = st.sampled_from(words(name) or ["event"])
    recorded = [
        said(json.loads(line))
        for owner, file in recordings()
        if owner == name
        for line in file.read_text().splitlines()
        if "do" not in json.loads(line)
    ]
    nearly = st.recursive(
        scalars | known,
        lambda inner: st.dictionaries(known, inner, max_size=4) | st.lists(inner, max_size=2),
        max_leaves=8,
    )
    odd = st.dictionaries(known, nearly | values, max_size=5).map(json.dumps)
    plain = st.lists(known | st.text(max_size=8), max_size=5).map(" ".join)
    return (
        st.sampled_from(recorded)
        | st.tuples(odd | plain | st.text() | st.binary(), st.just(False))
        | st.tuples(st.binary(max_size=700), st.just(True))
    )


def requests(name: str) -> st.SearchStrategy[Request]:
    """Webhooks of all kinds."""
    fields = [*FIELDS, *words(name)[:40]]
    known = st.sampled_from(fields)
    pairs = st.lists(st.tuples(known, st.text(max_size=12) | known), max_size=6)
    nearly = st.recursive(
        scalars | known, lambda inner: st.dictionaries(known, inner, max_size=4), max_leaves=8
    )
    body = (st.dictionaries(known, nearly, max_size=5) | st.lists(nearly, max_size=2)).map(
        lambda value: json.dumps(value).encode()
    ) | st.binary(max_size=60)
    headers = st.dictionaries(
        st.sampled_from(HEADERS), st.text(max_size=60) | st.sampled_from(HEADER_VALUES), max_size=6
    )
    urls = st.sampled_from(
        ["https://a.example/x", "wss://a.example:443/y?z=1", "x", "", "https://["]
    )
    return st.builds(
        Request,
        method=st.sampled_from(["GET", "POST"]),
        url=urls | st.text(max_size=30),
        headers=headers,
        body=body,
        query=pairs,
        form=st.none() | pairs,
    )


FIELDS = [
    "CallSid", "CallUUID", "From", "To", "CallStatus", "data", "payload", "uuid", "call_sid",
    "status", "event_type", "call_control_id", "direction", "from", "to", "session", "token",
    "disposition", "Event", "HangupCause", "hangup_cause", "Authorization", "call_status",
    "callId", "eventType", "conversationId", "state",
]  # fmt: skip
HEADERS = [
    "authorization", "x-twilio-signature", "x-signalwire-signature", "telnyx-timestamp",
    "telnyx-signature-ed25519", "x-plivo-signature-v3", "x-plivo-signature-v3-nonce",
    "x-plivo-signature-ma-v3", "x-plivo-signature-v2", "x-plivo-signature-v2-nonce",
    "x-vobiz-signature-v3", "x-vobiz-signature-v3-nonce", "jambonz-signature", "signature",
    "signature-input", "x-api-key", "audiohook-organization-id", "audiohook-session-id",
    "audiohook-correlation-id", "host", "x-telnyx-streaming-auth-token",
    "x-twilio-webhooks-signature-settings",
]  # fmt: skip
HEADER_VALUES = [
    "Bearer a.b.c", "Bearer e30.e30.e30", "Basic YTpi", "1700000000", "t=1,v1=00", "t=x,v1=",
    'sig1=("@request-target");created=1;keyid="a"', "sig1=:AAAA:", "algorithm=HMAC_SHA256",
    "eyJhbGciOiJub25lIn0", "AAAA,BBBB",
]  # fmt: skip
HOSTILE = [
    "<Hangup/>", '"/><Dial>+1900</Dial>', "]]>", "&x;", "${HOME}", "{{token}}", "../../etc/passwd",
    "a\r\nX-Evil: 1", "\x1b[31mred", "\x00", "\u202e", "'; DROP TABLE calls; --", "%0d%0a",
    "a" * 5000,
    "\ud800",
]  # fmt: skip
"""Values that mean something in markup, templates, paths, headers, terminals, SQL."""
