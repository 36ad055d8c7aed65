"""A telephone: speaks Twilio's wire to a server, paces its audio, plays what it hears.

The far end of a carrier call, written against the documented messages only. It answers the
webhook's document by opening the media socket with the given parameters, sends 20 ms of mu-law
every 20 ms by absolute time, plays what it is sent at the rate at which a phone would, returns
marks when the audio before them has been played, and forgets unplayed audio on clear.
"""

from __future__ import annotations

import asyncio
import audioop
import contextlib
import json
import time
import xml.etree.ElementTree as ET
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

FRAME_BYTES = 160
FRAME_S = 0.02
SILENCE = b"\xff" * FRAME_BYTES
AUDIBLE_RMS = 200


class Hangup(Exception):
    """The server closed the media socket."""


@dataclass
class Heard:
    """What came out of the earpiece: 20 ms frames, one for each 20 ms of the call."""

    frames: list[bytes] = field(default_factory=list)

    def pcm(self, start: int = 0, end: int | None = None) -> bytes:
        """PCM16 8 kHz of frames `start` to `end`."""
        return audioop.ulaw2lin(b"".join(self.frames[start:end]), 2)

    def audible(self, index: int) -> bool:
        """Whether a frame holds sound."""
        return audioop.rms(audioop.ulaw2lin(self.frames[index], 2), 2) > AUDIBLE_RMS


class Phone:
    """One call. Use as an async context manager; times are seconds of the call."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        call_sid: str = "CA" + "0" * 32,
        webhook: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._session = session
        self._base = base_url
        self._call_sid = call_sid
        self._webhook = webhook
        self._headers = dict(headers or {})
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._stream_sid = "MZ" + call_sid[2:]
        self._to_say: deque[bytes] = deque()
        self._all_said = asyncio.Event()
        self._jitter: deque[bytes | tuple[str, str]] = deque()
        self._partial = b""
        self._tasks: list[asyncio.Task[None]] = []
        self._frame = 0
        self.heard = Heard()
        self.hung_up = asyncio.Event()
        self.hung_up_at: float | None = None
        self.sent = bytearray()
        """Everything that went into the microphone."""
        self.marks: list[str] = []
        self.arrived: list[int] = []
        """Frame numbers at which audio arrived, one for each message."""
        self.clears: list[int] = []
        """Frame numbers at which a clear arrived."""
        self.said_until = 0
        """Frame number after the last voiced frame of what was said."""
        self.late_sends = 0
        self.underruns = 0

    async def __aenter__(self) -> Phone:
        parameters, url = await self._ring() if self._webhook else ({}, self._media_url())
        self._socket = await self._session.ws_connect(url, max_msg_size=1 << 22)
        await self._send({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await self._send(
            {
                "event": "start",
                "sequenceNumber": "1",
                "streamSid": self._stream_sid,
                "start": {
                    "streamSid": self._stream_sid,
                    "accountSid": "AC" + "0" * 32,
                    "callSid": self._call_sid,
                    "tracks": ["inbound"],
                    "customParameters": parameters,
                    "mediaFormat": {
                        "encoding": "audio/x-mulaw",
                        "sampleRate": 8000,
                        "channels": 1,
                    },
                },
            }
        )
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._talk())]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None and not self._socket.closed:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self._send({"event": "stop", "streamSid": self._stream_sid})
            await self._socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what a caller does -----------------------------------------------------------------

    def say(self, pcm: bytes) -> None:
        """Queue PCM16 8 kHz speech; returns at once."""
        self.say_mulaw(audioop.lin2ulaw(pcm, 2))

    def say_mulaw(self, mulaw: bytes) -> None:
        """The same, given as it goes over the wire."""
        if self.hung_up.is_set():
            raise Hangup
        for start in range(0, len(mulaw), FRAME_BYTES):
            self._all_said.clear()
            self._to_say.append(mulaw[start : start + FRAME_BYTES].ljust(FRAME_BYTES, b"\xff"))

    async def said(self) -> None:
        """Wait until everything queued has been said."""
        await self._all_said.wait()

    async def press(self, digit: str) -> None:
        """A key."""
        await self._send(
            {
                "event": "dtmf",
                "streamSid": self._stream_sid,
                "dtmf": {"track": "inbound_track", "digit": digit},
            }
        )

    async def hears(self, *, quiet_ms: int = 700, timeout_s: float = 15.0) -> tuple[int, int]:
        """Wait for the agent to speak and to be quiet again; frame numbers of its speech.

        Speech already heard is passed over: the search begins where the last call of this method
        or the caller's own last words ended.
        """
        start = await self.hears_something(timeout_s=timeout_s)
        end = start
        index = start
        limit = time.monotonic() + timeout_s + 30
        while time.monotonic() < limit:
            while index < len(self.heard.frames):
                if self.heard.audible(index):
                    end = index
                index += 1
            if (index - end) * 20 >= quiet_ms or self.hung_up.is_set():
                break
            await asyncio.sleep(FRAME_S)
        self._heard_until = end + 1
        return start, end + 1

    _heard_until = 0

    async def hears_something(self, *, timeout_s: float = 15.0) -> int:
        """Wait for the first audible frame after what was heard before; its number."""
        index = max(self._heard_until, self.said_until)
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            while index < len(self.heard.frames):
                if self.heard.audible(index):
                    return index
                index += 1
            if self.hung_up.is_set():
                raise Hangup
            await asyncio.sleep(FRAME_S / 2)
        raise TimeoutError("the agent said nothing")

    def skip(self) -> None:
        """What was heard so far is of no interest any more."""
        self._heard_until = len(self.heard.frames)

    # --- the wire -----------------------------------------------------------------------------

    async def _ring(self) -> tuple[dict[str, str], str]:
        async with self._session.post(
            f"{self._base}/telephony/answer/twilio",
            data={"CallSid": self._call_sid, "From": "+15550100", "To": "+15550199"},
            headers=self._headers,
        ) as response:
            response.raise_for_status()
            document = ET.fromstring(await response.text())
        stream = document.find("./Connect/Stream")
        if stream is None:
            raise Hangup("the call was rejected")
        parameters = {p.attrib["name"]: p.attrib["value"] for p in stream.findall("Parameter")}
        return parameters, stream.attrib["url"]

    def _media_url(self) -> str:
        return "ws" + self._base.removeprefix("http") + "/telephony/ws/twilio"

    async def _send(self, message: dict[str, object]) -> None:
        assert self._socket is not None
        await self._socket.send_str(json.dumps(message))

    async def _listen(self) -> None:
        assert self._socket is not None
        async for raw in self._socket:
            if raw.type is not aiohttp.WSMsgType.TEXT:
                continue
            message = json.loads(raw.data)
            assert message["streamSid"] == self._stream_sid
            match message["event"]:
                case "media":
                    self.arrived.append(self._frame)
                    self._enqueue(b64decode(message["media"]["payload"], validate=True))
                case "mark":
                    self._jitter.append(("mark", message["mark"]["name"]))
                case "clear":
                    self.clears.append(self._frame)
                    waiting = [item for item in self._jitter if isinstance(item, tuple)]
                    self._jitter.clear()
                    self._partial = b""
                    for _, name in waiting:  # Twilio returns pending marks on clear
                        await self._return_mark(name)
                case other:
                    raise AssertionError(f"unexpected message {other}")
        self.hung_up_at = self._frame * FRAME_S
        self.hung_up.set()
        self._all_said.set()

    def _enqueue(self, audio: bytes) -> None:
        audio = self._partial + audio
        whole = len(audio) - len(audio) % FRAME_BYTES
        for start in range(0, whole, FRAME_BYTES):
            self._jitter.append(audio[start : start + FRAME_BYTES])
        self._partial = audio[whole:]

    async def _return_mark(self, name: str) -> None:
        self.marks.append(name)
        with contextlib.suppress(ConnectionError, RuntimeError, aiohttp.ClientError):
            await self._send(
                {"event": "mark", "streamSid": self._stream_sid, "mark": {"name": name}}
            )

    async def _talk(self) -> None:
        start = time.monotonic()
        while not self.hung_up.is_set():
            due = start + self._frame * FRAME_S
            delay = due - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            elif delay < -FRAME_S:
                self.late_sends += 1
            await self._play_one()
            if self._to_say:
                payload = self._to_say.popleft()
                if audioop.rms(audioop.ulaw2lin(payload, 2), 2) > AUDIBLE_RMS:
                    self.said_until = self._frame + 1
            else:
                payload = SILENCE
                self._all_said.set()
            self._frame += 1
            self.sent += payload
            try:
                await self._send(
                    {
                        "event": "media",
                        "sequenceNumber": str(self._frame + 1),
                        "streamSid": self._stream_sid,
                        "media": {
                            "track": "inbound",
                            "chunk": str(self._frame),
                            "timestamp": str(self._frame * 20),
                            "payload": b64encode(payload).decode(),
                        },
                    }
                )
            except (ConnectionError, RuntimeError, aiohttp.ClientError):
                return

    async def _play_one(self) -> None:
        """20 ms of the earpiece: what is queued, or silence; marks that are reached go back."""
        played: bytes | None = None
        while self._jitter:
            item = self._jitter[0]
            if isinstance(item, tuple):
                self._jitter.popleft()
                await self._return_mark(item[1])
                continue
            if played is not None:
                break
            played = item
            self._jitter.popleft()
        if played is None:
            if self._partial:
                played, self._partial = self._partial.ljust(FRAME_BYTES, b"\xff"), b""
            else:
                played = SILENCE
        self.heard.frames.append(played)
