"""Deepgram's streaming recognition: Nova (``v1/listen``) and Flux (``v2/listen``).

The carrier's mu-law goes to the vendor untouched. One socket per call. When it breaks in the
middle of a call, it is opened again and given the audio since the last fixed segment, at most ten
seconds of it; the caller's words survive. A first connection that fails is not tried again here:
whoever opened the stream may have another provider.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal
from urllib.parse import urlencode

import aiohttp
import structlog
from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import (
    Audio,
    EndOfTurn,
    Pause,
    Resume,
    SttCaps,
    SttInbox,
    SttInput,
    Transcript,
)
from flowcat_server.errors import ProviderError, ProviderUnavailable
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.stt._deepgram import NAME, FluxReader, NovaReader, Reader
from flowcat_server.providers.websocket import closed_error, connect, to_json, websocket_url

BASE_URL = "wss://api.deepgram.com"
CHUNK_MS = 80
RECONNECT_AFTER_MS = (0, 250, 1000)
"""Waits before the attempts to open a broken stream again."""
ENCODINGS: Mapping[str, str] = {"mulaw": "mulaw", "alaw": "alaw", "pcm16": "linear16"}

log = structlog.get_logger()

QueryValue = str | int | float | bool


class DeepgramSttOptions(Options):
    """Options of Deepgram's recognition. What is not set is left to the vendor."""

    keyterm: tuple[str, ...] = ()
    """Words to listen for: names, products."""
    punctuate: bool = True
    """Nova only; Flux always does."""
    smart_format: bool = False
    """Nova only. Writes dates, amounts and numbers as people do."""
    numerals: bool | None = None
    """Write numbers as digits."""
    profanity_filter: bool | None = None
    interim_results: bool = True
    """Nova only. Transcripts while the caller speaks; needed for interruptions by words."""
    endpointing: int | Literal[False] = Field(default=25, ge=0)
    """Nova only. Milliseconds of silence after which the vendor fixes a segment; the end of a turn
    is decided elsewhere."""
    utterance_end_ms: int | None = Field(default=None, ge=1000)
    """Nova only."""
    eot_threshold: float | None = Field(default=None, ge=0.5, le=1.0)
    """Flux only. Confidence at which the vendor ends a turn; 1 leaves it to us alone."""
    eager_eot_threshold: float | None = Field(default=None, ge=0.3, le=0.9)
    """Flux only. Confidence at which the vendor tells that a turn may be ending."""
    eot_timeout_ms: int | None = Field(default=None, ge=500, le=60_000)
    """Flux only."""
    region: Literal["", "eu", "au", "in"] = ""
    """Where the vendor computes; empty: its default, the United States."""
    mip_opt_out: bool | None = None
    """Keep the data out of the vendor's model improvement programme."""
    tag: tuple[str, ...] = ()
    extra: Mapping[str, QueryValue | tuple[QueryValue, ...]] = Field(default_factory=dict)
    """Added to the query, untouched; a list repeats its name."""


class DeepgramStt:
    """Hears with Deepgram."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_flux = settings.model.startswith("flux")
        options: DeepgramSttOptions = settings.options
        self.caps = SttCaps(
            formats=(sound.MULAW_8K, sound.ALAW_8K, sound.PCM_16K, sound.PCM_8K, sound.PCM_24K,
                     sound.PCM_48K),
            chunk_ms=CHUNK_MS,
            keeps_partials=self.is_flux or options.interim_results,
        )  # fmt: skip

    async def start(self) -> None:
        """Nothing to load; the key is tried by the first call."""

    async def close(self) -> None:
        """Streams end with their calls."""

    def url(self, audio: AudioFormat) -> str:
        """Where a stream of this format goes."""
        settings = self._settings
        options: DeepgramSttOptions = settings.options
        base = settings.base_url
        if options.region and base == BASE_URL:
            base = base.replace("//api.", f"//api.{options.region}.")
        query: dict[str, QueryValue | Sequence[QueryValue] | None] = {
            "model": settings.model,
            "encoding": ENCODINGS[audio.encoding],
            "sample_rate": audio.sample_rate,
            "keyterm": options.keyterm,
            "numerals": options.numerals,
            "profanity_filter": options.profanity_filter,
            "mip_opt_out": options.mip_opt_out,
            "tag": options.tag,
        }
        query |= self._flux_query(options) if self.is_flux else self._nova_query(options)
        query.update(options.extra)
        path = "/v2/listen?" if self.is_flux else "/v1/listen?"
        return websocket_url(base, path + _encode(query))

    def _nova_query(
        self, options: DeepgramSttOptions
    ) -> dict[str, QueryValue | Sequence[QueryValue] | None]:
        return {
            "channels": 1,
            "language": self._settings.language or None,
            "interim_results": options.interim_results,
            "punctuate": options.punctuate,
            "smart_format": options.smart_format,
            "endpointing": options.endpointing,
            "utterance_end_ms": options.utterance_end_ms,
        }

    def _flux_query(
        self, options: DeepgramSttOptions
    ) -> dict[str, QueryValue | Sequence[QueryValue] | None]:
        hint = self._settings.language if self._settings.model.endswith("-multi") else ""
        return {
            "language_hint": hint.split("-")[0] or None,
            "eot_threshold": options.eot_threshold,
            "eager_eot_threshold": options.eager_eot_threshold,
            "eot_timeout_ms": options.eot_timeout_ms,
        }

    async def connect(self, audio: AudioFormat) -> aiohttp.ClientWebSocketResponse:
        """Open a stream."""
        key = self._settings.api_key.get_secret_value()
        return await connect(
            self._settings.http,
            NAME,
            self.url(audio),
            {"Authorization": f"Token {key}"},
            said_in="dg-error",
        )

    async def transcribe(
        self, inbox: SttInbox, audio: AudioFormat
    ) -> AsyncGenerator[Transcript, None]:
        """One call's stream."""
        stream = _Stream(self, audio)
        reading = asyncio.ensure_future(inbox.get())
        try:
            await stream.open()
            while True:
                await asyncio.wait(
                    (reading, stream.receiving),
                    timeout=stream.wait_s(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stream.receiving.done():
                    for transcript in await stream.take():
                        yield transcript
                if reading.done():
                    items = reading.result()
                    if not items:
                        return
                    for item in items:
                        await stream.feed(item)
                    reading = asyncio.ensure_future(inbox.get())
                settled = await stream.tick()
                if settled is not None:
                    yield settled
        finally:
            reading.cancel()
            await stream.close()


class _Stream:
    """One call's connection, and the next if it breaks."""

    receiving: asyncio.Future[aiohttp.WSMessage]

    def __init__(self, stt: DeepgramStt, audio: AudioFormat) -> None:
        self._stt, self._audio = stt, audio
        self._reader: Reader = FluxReader(audio) if stt.is_flux else NovaReader(audio)
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._attempts = 0
        self._sent_at_ms = 0

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    async def open(self) -> None:
        ws = self._ws = await self._stt.connect(self._audio)
        self.receiving = asyncio.ensure_future(ws.receive())
        self._sent_at_ms = self._now_ms()
        log.info("stt_connected", provider=NAME)
        for message in self._reader.connected():
            await self._send(message)

    async def _send(self, message: bytes | str) -> None:
        ws = self._ws
        if ws is None:
            return
        # A connection that is gone is noticed, and replaced, where it is read.
        with contextlib.suppress(aiohttp.ClientError, OSError):
            if isinstance(message, bytes):
                await ws.send_bytes(message)
            else:
                await ws.send_str(message)

    def wait_s(self) -> float:
        """Seconds until `tick` has something to do."""
        now_ms, pending = self._now_ms(), self._reader.pending
        due = self._sent_at_ms + self._reader.idle_ms
        if pending is not None and pending.settle_at_ms > now_ms:
            due = min(due, pending.settle_at_ms)
        return max(0, due - now_ms) / 1000

    async def tick(self) -> Transcript | None:
        """What time alone brings: keeping alive, and settling a pause."""
        now_ms = self._now_ms()
        if now_ms - self._sent_at_ms >= self._reader.idle_ms:
            self._sent_at_ms = now_ms
            message = self._reader.keep_alive()
            if isinstance(message, bytes):
                self._reader.ring.append(message)
            await self._send(message)
        return self._reader.settle(now_ms)

    async def feed(self, item: SttInput) -> None:
        reader = self._reader
        messages: Sequence[bytes | str] = ()
        if isinstance(item, Audio):
            reader.ring.append(item.payload)
            self._sent_at_ms = self._now_ms()
            messages = (item.payload,)
        elif isinstance(item, Pause):
            messages = reader.pause(item.number, self._now_ms())
        elif isinstance(item, Resume):
            reader.resume()
        elif isinstance(item, EndOfTurn):
            messages = reader.end_turn()
        for message in messages:
            await self._send(message)

    async def take(self) -> Sequence[Transcript]:
        """Handle what was received; opens the connection again if it broke."""
        ws = self._ws
        if ws is None:
            return ()
        try:
            message = self.receiving.result()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                raise closed_error(NAME, ws, message)
            transcripts = self._reader.parse(message.data, self._now_ms())
        except ProviderUnavailable as error:
            await self._reopen(error)
            return ()
        if transcripts:
            self._attempts = 0
        self.receiving = asyncio.ensure_future(ws.receive())
        return transcripts

    async def _reopen(self, error: ProviderError) -> None:
        while True:
            await self._drop()
            if self._attempts >= len(RECONNECT_AFTER_MS):
                raise error
            log.warning("stt_reconnecting", provider=NAME, attempt=self._attempts + 1)
            await asyncio.sleep(RECONNECT_AFTER_MS[self._attempts] / 1000)
            self._attempts += 1
            try:
                await self.open()
            except ProviderError as failure:
                if not failure.retryable:
                    raise
                error = failure
            else:
                return

    async def _drop(self) -> None:
        ws, self._ws = self._ws, None
        if ws is None:
            return
        self.receiving.cancel()
        await asyncio.wait((self.receiving,))
        await ws.close()

    async def close(self) -> None:
        """Leave politely; what is still being recognized is of no interest."""
        await self._send(to_json({"type": "CloseStream"}))
        await self._drop()


def _encode(query: Mapping[str, QueryValue | Sequence[QueryValue] | None]) -> str:
    pairs: list[tuple[str, str]] = []
    for key, value in query.items():
        values = value if isinstance(value, (list, tuple)) else (value,)
        pairs.extend((key, _text(each)) for each in values if each is not None)
    return urlencode(pairs)


def _text(value: QueryValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def create(settings: Settings) -> DeepgramStt:
    """Create the provider."""
    return DeepgramStt(settings)


PROVIDER = Provider(
    create=create,
    options=DeepgramSttOptions,
    env=("DEEPGRAM_API_KEY",),
    base_url=BASE_URL,
    default_model="nova-3",
    title="Deepgram Nova and Flux, streaming.",
)
