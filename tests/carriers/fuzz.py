"""A long run of damaged messages and webhooks: ``python -m tests.carriers.fuzz 200000``.

Recorded messages of every carrier are cut, spliced, flipped and filled with other values, so many
of them a carrier, and as many webhooks and handshakes: nonsense, and signed ones with something
changed. Anything raised, an empty piece of audio, a signature that is good by chance, or a message
that takes long ends the run with what did it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from flowcat_server import carriers
from flowcat_server.cli.far_side import SIDES
from flowcat_server.cli.far_side.model import FORM, JSON, FarSide
from flowcat_server.core.carrier import Account, CarrierStream, LiveCall, Request, Ringing
from tests.carriers.kit import (
    FIELDS,
    HEADER_VALUES,
    HEADERS,
    HOSTILE,
    carrier_named,
    recordings,
    said,
)

ODD: list[Any] = [
    None, True, 0, -1, 10**400, 1e308, "", "\x00", "\ud800", [], {}, [[]], {"a": {"b": []}},
    "9" * 300, "PCMU", "audio/l16;rate=16000", "start", "media", "dtmf", "mark", "A" * 5000,
]  # fmt: skip
ACCOUNT = Account(id="id", secret="secret", webhook_key="a2V5", options={"byte_order": "big"})
BASE, NOW = "https://a.example", 1_700_000_000
SLOW_S = 0.05
"""Of the processor's time, for one message or webhook: more is a fault."""


def damaged(message: str | bytes, rng: random.Random) -> bytes:
    """A recorded message with something wrong."""
    data = bytearray(
        message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
    )
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                del data[at : at + rng.randint(1, 20)]
            case 1:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case 2 if at < len(data):
                data[at] = rng.randrange(256)
            case 3:
                data[at:at] = data[: rng.randint(0, 40)]
            case _:
                data[at:at] = rng.choice([b"{", b"}", b"[", b'"', b",", b"\\u0000", b"1e999"])
    return bytes(data)


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it exchanged."""
    if rng.random() < 0.15:
        return rng.choice(ODD)
    if isinstance(value, dict):
        return {
            (rng.choice(FIELDS) if rng.random() < 0.05 else key): changed(inner, rng)
            for key, inner in value.items()
            if rng.random() > 0.05
        }
    return [changed(inner, rng) for inner in value] if isinstance(value, list) else value


def variant(row: dict[str, Any], rng: random.Random) -> tuple[str | bytes, bool]:
    """A message like a recorded one."""
    message, binary = said(row)
    if "message" in row and rng.random() < 0.6:
        return json.dumps(changed(row["message"], rng)), binary
    if rng.random() < 0.1:
        binary = not binary
    return damaged(message, rng), binary


def request(rows: list[dict[str, Any]], rng: random.Random) -> Request:
    """A webhook like none that was ever sent."""
    words = [*FIELDS, *map(str, ODD), *HEADER_VALUES]
    pairs = [(rng.choice(words), rng.choice(words)) for _ in range(rng.randint(0, 5))]
    body = json.dumps(changed(rng.choice(rows).get("message", dict(pairs)), rng)).encode()
    if rng.random() < 0.5:
        body = json.dumps(dict(pairs)).encode()
    return Request(
        rng.choice(["GET", "POST"]),
        rng.choice(["https://a.example/x?y=1", "wss://a.example:443/", "", "https://[", "\ud800"]),
        {rng.choice(HEADERS): rng.choice(words) for _ in range(rng.randint(0, 8))},
        damaged(body, rng) if rng.random() < 0.3 else body,
        pairs,
        pairs if rng.random() < 0.3 else None,
    )


def nearly(side: FarSide, rng: random.Random) -> Request:
    """A webhook, report or handshake as the carrier sends it, with something exchanged."""
    call = side.new_call(f"{rng.getrandbits(128):032x}")
    others = replace(ACCOUNT, webhook_key="b3RoZXI=")  # so that no change makes it good
    if not side.asks or rng.random() < 0.3:
        url = f"{BASE.replace('https', 'wss')}{side.path(call)}"
        headers = side.handshake(url, others, NOW, call.replace("-", "").ljust(32, "0"))
        return Request("GET", url, _headers(headers, rng), query=_pairs(url.partition("?")[2], rng))
    told = side.reports and rng.random() < 0.4
    asked = side.status(call) if told else side.webhook(call, **{rng.choice(FIELDS): "x"})
    url = BASE + asked.path
    headers = _headers(side.sign(asked, url, others, NOW), rng)
    form = _pairs(asked.body.decode(), rng) if asked.content_type == FORM else None
    body = asked.body
    if asked.content_type == JSON and rng.random() < 0.8:
        body = json.dumps(changed(json.loads(body), rng)).encode()
    elif rng.random() < 0.5:
        body = damaged(body, rng)
    return Request(
        asked.method, url, headers, body, _pairs(asked.path.partition("?")[2], rng), form
    )


def _headers(headers: dict[str, str], rng: random.Random) -> dict[str, str]:
    return {
        name.lower(): damaged(value, rng).decode("latin-1") if rng.random() < 0.5 else value
        for name, value in headers.items()
    }


def _pairs(encoded: str, rng: random.Random) -> list[tuple[str, str]]:
    """A query or a form, with some of its values exchanged."""
    return [
        (name, str(rng.choice([*ODD, *HOSTILE])) if rng.random() < 0.2 else value)
        for name, value in parse_qsl(encoded, keep_blank_values=True)
    ]


def one_message(stream: CarrierStream, row: dict[str, Any], rng: random.Random) -> float:
    """Feed one; returns how long it took in seconds."""
    message, binary = variant(row, rng)
    begun = time.thread_time()
    try:
        fed = stream.feed(message, binary)
    except BaseException:
        sys.stderr.write(f"{type(stream)}: {message!r}, binary={binary}\n")
        raise
    taken = time.thread_time() - begun
    assert fed != b"", message
    assert taken < SLOW_S, (taken, message)
    return taken


def one_webhook(name: str, asked: Request, rng: random.Random) -> float:
    """Read one in every way; returns how long it took in seconds."""
    carrier = carrier_named(name)
    begun = time.thread_time()
    try:
        if carrier.has_webhook:
            call = carrier.read_call(asked) or Ringing("call", *rng.sample(HOSTILE, 3))
            live = LiveCall(call.call_id, call.account_id, call.from_number)
            for written in (
                carrier.answer(ACCOUNT, call, "wss://a.example", {"token": "t"}),
                carrier.busy(ACCOUNT, call),
            ):
                written.body.encode()
            carrier.hang_up(ACCOUNT, live, NOW)
            carrier.transfer(ACCOUNT, live, "+1555", NOW)
        carrier.read_status(asked)
        carrier.is_report(asked)
        carrier.open(ACCOUNT, asked)
        for verdict in (
            carrier.verify(asked, ACCOUNT, NOW),
            carrier.verify_handshake(asked, ACCOUNT, NOW),
        ):
            assert verdict is None or not verdict.proven
        taken = time.thread_time() - begun
        assert taken < SLOW_S, taken
    except BaseException:
        sys.stderr.write(f"{name}: {asked!r}\n")
        raise
    return taken


def main() -> None:
    """Run so many of each for every carrier."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    for name in carriers.names():
        rows = [
            row
            for owner, file in recordings()
            if owner == name
            for row in map(json.loads, file.read_text().splitlines())
            if "do" not in row
        ]
        slowest = webhook = 0.0
        side = SIDES[name]
        stream = carrier_named(name).open(ACCOUNT, Request("GET", "wss://a.example"))
        for number in range(count):
            if number % 20 == 0:
                stream = carrier_named(name).open(ACCOUNT, Request("GET", "wss://a.example"))
                if rng.random() < 0.7:
                    for row in rows[:3]:
                        stream.feed(*said(row))
            slowest = max(slowest, one_message(stream, rng.choice(rows), rng))
            asked = nearly(side, rng) if number % 2 else request(rows, rng)
            webhook = max(webhook, one_webhook(name, asked, rng))
        print(
            f"{name}: {count} messages, slowest {slowest * 1e3:.1f} ms; "
            f"{count} webhooks and handshakes, slowest {webhook * 1e3:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
