"""A real call without a network: a carrier's messages in and out, on virtual time."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.wire.ours import EchoLine
from flowcat_server.carriers import twilio
from flowcat_server.core.carrier import Account, CarrierStream, Request, Started
from flowcat_server.pipeline import CallLine
from flowcat_server.processors.record import Recorder
from flowcat_server.session import Session
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import WebSocketTransport
from tests.callscript import loaded, parts

ECHO = Path(__file__).parents[1] / "wire" / "echo.yaml"
START = json.dumps({"event": "start", "streamSid": "MZ1", "start": {"callSid": "CA1"}}).encode()


def message(payload: bytes, number: int = 0) -> bytes:
    """As a carrier sends it."""
    media = {
        "track": "inbound",
        "chunk": str(number + 1),
        "timestamp": str(number * 20),
        "payload": b64encode(payload).decode(),
    }
    fields = {"event": "media", "sequenceNumber": str(number + 2), "media": media}
    return json.dumps({**fields, "streamSid": "MZ1"}, separators=(",", ":")).encode()


def opened() -> tuple[CarrierStream, Started]:
    """A carrier's stream that has begun."""
    stream = twilio.CARRIER.open(Account(), Request("GET", "wss://a.example/ws"))
    started = stream.feed(START)
    assert isinstance(started, Started)
    return stream, started


class Counter:
    """A socket that takes everything at once."""

    def __init__(self) -> None:
        self.messages = 0

    def post(self, message: str | bytes) -> int:
        self.messages += 1
        return 0

    def unsent(self) -> int:
        return 0

    async def close(self, *, code: int) -> None:
        pass


class Line:
    """One call and how to give it a frame."""

    def __init__(self, transport: WebSocketTransport, socket: Counter, session: Session) -> None:
        self.take: Callable[[bytes], None] = partial(transport._received, binary=False)
        self.socket, self.session, self.transport = socket, session, transport


@asynccontextmanager
async def line(
    *, echo: bool = True, yaml: str = "", recorder: Recorder | None = None
) -> AsyncIterator[Line]:
    """A call that has begun, on a loop of `tests.virtual`."""
    chosen = await parts(loaded(ECHO.read_text(encoding="utf-8") + yaml))
    stream, started = opened()
    socket = Counter()
    transport = WebSocketTransport(socket, stream, started, Pacer())  # type: ignore[arg-type]
    build: Any = EchoLine if echo else CallLine
    session = Session(
        "bench",
        transport,
        lambda session: build(session, chosen, transport, recorder, {}),
        agent_name="bench",
        channel="twilio",
        max_call_ms=10**9,
        media_timeout_ms=10**9,
    )
    task = asyncio.create_task(session.run())
    await asyncio.sleep(0.05)
    try:
        yield Line(transport, socket, session)
    finally:
        session.end("server.drained")
        await asyncio.wait([task])
