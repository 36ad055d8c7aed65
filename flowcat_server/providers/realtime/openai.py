"""OpenAI Realtime: one model that hears, thinks and speaks over a WebSocket.

https://developers.openai.com/api/docs/guides/realtime-websocket. The caller's G.711 goes through
untouched in both directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Literal

import aiohttp
import msgspec
import structlog
from pydantic import Field
from yarl import URL

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K
from flowcat_server.core.interfaces import RealtimeEvent, RealtimeInbox, RealtimeSetup
from flowcat_server.errors import (
    ConfigError,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
)
from flowcat_server.providers import registry
from flowcat_server.providers.http import translate
from flowcat_server.providers.llm._chat import deep_merge
from flowcat_server.providers.realtime._openai import Conversation
from flowcat_server.providers.registry import Provider, Settings
from flowcat_server.providers.warm import warm

SETUP_TIMEOUT_S = 10.0
"""From the handshake to the vendor's word that it took the settings."""

HEARTBEAT_S = 20.0
CLOSE_TIMEOUT_S = 1.0
MAX_MESSAGE_BYTES = 1 << 24

log = structlog.get_logger()


class TurnDetection(registry.Options):
    """Who decides that the caller has finished: the vendor."""

    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float | None = Field(None, ge=0, le=1)
    """`server_vad` only; the vendor's default is 0.5."""
    prefix_padding_ms: int | None = Field(None, ge=0)
    """`server_vad` only; the vendor's default is 300."""
    silence_duration_ms: int | None = Field(None, ge=0)
    """`server_vad` only; the vendor's default is 500."""
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    """`semantic_vad` only."""


class Options(registry.Options):
    """Options of `openai` speech-to-speech. What is not set is not sent."""

    turn_detection: TurnDetection = Field(default_factory=lambda: TurnDetection.model_validate({}))
    transcription_model: str | None = "gpt-transcribe"
    """Writes down what the caller said; null: nothing is written down."""
    noise_reduction: Literal["near_field", "far_field"] | None = None
    speed: float | None = Field(None, ge=0.25, le=1.5)
    reasoning_effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=4096)
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Additional headers of the handshake."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Merged over the session's settings, untouched."""


def session_settings(settings: Settings) -> dict[str, Any]:
    """What the options say about the session, without instructions, tools and formats."""
    options: Options = settings.options
    heard: dict[str, Any] = {
        "turn_detection": options.turn_detection.model_dump(exclude_none=True),
    }
    if options.transcription_model:
        heard["transcription"] = {"model": options.transcription_model}
        if settings.language:
            # ISO 639-1 is wanted, not a regional tag.
            heard["transcription"]["language"] = settings.language.partition("-")[0].lower()
    if options.noise_reduction:
        heard["noise_reduction"] = {"type": options.noise_reduction}
    spoken: dict[str, Any] = {"voice": settings.voice}
    if options.speed is not None:
        spoken["speed"] = options.speed
    session: dict[str, Any] = {
        "output_modalities": ["audio"],
        "audio": {"input": heard, "output": spoken},
    }
    if options.reasoning_effort:
        session["reasoning"] = {"effort": options.reasoning_effort}
    if options.max_output_tokens:
        session["max_output_tokens"] = options.max_output_tokens
    return deep_merge(session, options.extra)


class OpenAiRealtime:
    """OpenAI's speech-to-speech models."""

    formats = (MULAW_8K, ALAW_8K, PCM_24K)
    chunk_ms = 40

    def __init__(self, settings: Settings) -> None:
        self._name = settings.name
        self._http = settings.http
        self._session = session_settings(settings)
        try:
            base = URL(settings.base_url)
        except ValueError as error:
            raise ConfigError(f"{self._name}: base_url is not a URL") from error
        if base.scheme not in ("ws", "wss", "http", "https") or not base.host:
            raise ConfigError(f"{self._name}: base_url must be a wss or ws URL")
        path = base.path.rstrip("/") + "/realtime"
        query = {**base.query, "model": settings.model}
        self._url = base.with_path(path).with_query(query)
        self._key = settings.api_key.get_secret_value().strip()
        self._headers = dict(settings.options.headers)
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    async def start(self) -> None:
        """Have the host's name looked up ahead; never fails."""
        scheme = {"ws": "http", "wss": "https"}.get(self._url.scheme, self._url.scheme)
        await warm(self._http, self._name, self._url.with_scheme(scheme))

    async def close(self) -> None:
        """Nothing of one's own to close: the HTTP client is shared."""

    async def converse(
        self, setup: RealtimeSetup, inbox: RealtimeInbox
    ) -> AsyncGenerator[RealtimeEvent, None]:
        """One session. The vendor must accept the settings within `SETUP_TIMEOUT_S`.

        When the vendor is slow to take the input, the inbox fills up and drops the oldest audio.
        """
        conversation = Conversation(self._name, self._key, self._session, setup)
        with translate(self._name):
            ws = await self._connect()
            sender = _Sender(ws, conversation, inbox)
            try:
                await self._set_up(ws, conversation)
                sender.start()
                while (event := await self._next(ws)) is not None:
                    for out in self._read(conversation, event):
                        yield out
                    await _write(ws, conversation.take())
                if not sender.over():
                    raise ProviderUnavailable(self._name, f"closed with code {ws.close_code}")
            finally:
                await sender.stop()
                await ws.close()

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            return await self._http.session.ws_connect(
                self._url,
                headers=self._headers,
                heartbeat=HEARTBEAT_S,
                max_msg_size=MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
            )

    async def _set_up(
        self, ws: aiohttp.ClientWebSocketResponse, conversation: Conversation
    ) -> None:
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await _write(ws, [conversation.opening()])
                while not conversation.ready:
                    event = await self._next(ws)
                    if event is None:
                        raise ProviderUnavailable(self._name, f"closed with code {ws.close_code}")
                    self._read(conversation, event)
                await _write(ws, conversation.take())
        except TimeoutError as error:
            raise ProviderTimeout(self._name, "the session was not set up in time") from error

    def _read(self, conversation: Conversation, event: dict[str, Any]) -> list[RealtimeEvent]:
        try:
            return list(conversation.receive(event))
        except AttributeError as error:
            kind = event["type"]
            raise ProviderProtocol(self._name, f"{kind} of another shape: {error}") from error

    async def _next(self, ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any] | None:
        """The next event; None at the end of the socket."""
        message = await ws.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            event = msgspec.json.decode(message.data)
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise ProviderProtocol(self._name, "a message without a type")
            return event
        if message.type is aiohttp.WSMsgType.BINARY:
            raise ProviderProtocol(self._name, "a binary message")
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ProviderUnavailable(self._name, str(message.data)) from ws.exception()
        return None


class _Sender:
    """The half of a session that takes input; a task beside the generator that reads."""

    def __init__(
        self,
        ws: aiohttp.ClientWebSocketResponse,
        conversation: Conversation,
        inbox: RealtimeInbox,
    ) -> None:
        self._ws, self._conversation, self._inbox = ws, conversation, inbox
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._error: BaseException | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="openai-realtime-send")

    def over(self) -> bool:
        """The call is over: that is why the socket was closed. Raises what the sender raised."""
        if self._error is not None:
            raise self._error
        return self._ended

    async def stop(self) -> None:
        """Stop sending; what went wrong there was told by `over`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while items := await self._inbox.get():
                await _write(self._ws, self._conversation.send(items))
            self._ended = True
        except BaseException as error:
            self._error = error
            raise
        finally:
            # Wakes the reader, whose loop ends with the socket.
            await self._ws.close()


async def _write(ws: aiohttp.ClientWebSocketResponse, messages: list[dict[str, Any]]) -> None:
    for message in messages:
        # A socket that closes while we write is reported by the reader, with its reason.
        with suppress(aiohttp.ClientConnectionResetError):
            await ws.send_str(msgspec.json.encode(message).decode())


PROVIDER = Provider(
    create=OpenAiRealtime,
    options=Options,
    env=("OPENAI_API_KEY",),
    base_url="wss://api.openai.com/v1",
    default_model="gpt-realtime-2.1",
    default_voice="marin",
    title="OpenAI Realtime",
    # https://developers.openai.com/api/docs/deprecations
    retired=dict.fromkeys(("gpt-realtime", "gpt-realtime-mini"), "2027-01-20"),
)
