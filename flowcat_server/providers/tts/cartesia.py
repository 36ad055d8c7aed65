"""Cartesia Sonic over WebSocket, with word times.

https://docs.cartesia.ai/api-reference/tts/websocket: requests and answers carry a ``context_id``,
and one socket carries dozens of contexts. Every sentence is a context of its own. Cancelling does
not stop what is already being generated
(https://docs.cartesia.ai/use-the-api/tts-websocket/contexts), so late audio of a cancelled context
is to be expected and is dropped.

``voice`` is a voice id. Where only ``model`` is given and does not name a Sonic model, it is the
voice, as in Flowcat's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import ProviderError, ProviderProtocol
from flowcat_server.providers.http import status_error
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.sockets import Chunk, Done, Endpoint, Event, Failed
from flowcat_server.providers.tts._streaming import SocketTts, decode_audio, model_and_voice
from flowcat_server.providers.websocket import (
    parse_object,
    reason_error,
    to_json,
    websocket_url,
)

NAME = "cartesia"
API_VERSION = "2026-08-14"
DEFAULT_MODEL = "sonic-3.5"
DEFAULT_VOICE = "f786b574-daa5-4673-aa0c-cbe3e8534c02"
"""Katie, which the vendor recommends for agents."""
CONTEXTS = 20
"""The vendor speaks of dozens a socket; fewer means less waiting behind each other."""
ENCODINGS: Mapping[str, str] = {"mulaw": "pcm_mulaw", "alaw": "pcm_alaw", "pcm16": "pcm_s16le"}


class CartesiaTtsOptions(Options):
    """Options of Cartesia's voices."""

    max_buffer_delay_ms: int = Field(default=0, ge=0, le=5000)
    """How long the vendor may wait for more text. It is given whole sentences: 0."""
    speed: float | None = Field(default=None, ge=0.6, le=1.5)
    volume: float | None = Field(default=None, ge=0.5, le=2.0)
    emotion: str | None = None
    pronunciation_dict_id: str | None = None
    api_version: str = API_VERSION
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Merged over each request, untouched."""


class CartesiaTts(SocketTts):
    """Speaks with Cartesia Sonic."""

    formats = (sound.PCM_24K, sound.PCM_48K, sound.PCM_16K, sound.MULAW_8K, sound.ALAW_8K,
               sound.PCM_8K)  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.http)
        self._settings = settings
        model, voice = model_and_voice(settings, r"sonic", DEFAULT_MODEL, DEFAULT_VOICE)
        options: CartesiaTtsOptions = settings.options
        self._request: dict[str, Any] = {
            "model_id": model,
            "voice": {"mode": "id", "id": voice},
            "add_timestamps": True,
            "max_buffer_delay_ms": options.max_buffer_delay_ms,
            "continue": False,
        }
        if settings.language:
            self._request["language"] = settings.language.split("-")[0]
        generation = {
            key: value
            for key in ("speed", "volume", "emotion")
            if (value := getattr(options, key)) is not None
        }
        if generation:
            self._request["generation_config"] = generation
        if options.pronunciation_dict_id:
            self._request["pronunciation_dict_id"] = options.pronunciation_dict_id
        self._request.update(options.extra)

    def endpoint(self, audio: AudioFormat) -> Endpoint:
        """The socket of one format; the voice goes with each request."""
        version = self._settings.options.api_version
        request = self._request | {
            "output_format": {
                "container": "raw",
                "encoding": ENCODINGS[audio.encoding],
                "sample_rate": audio.sample_rate,
            }
        }
        path = "/tts/websocket?" + urlencode({"cartesia_version": version})
        return Endpoint(
            provider=NAME,
            audio=audio,
            url=websocket_url(self._settings.base_url, path),
            headers=(
                ("Authorization", f"Bearer {self._settings.api_key.get_secret_value()}"),
                ("Cartesia-Version", version),
            ),
            wire=lambda: SonicWire(request),
            contexts=CONTEXTS,
            idle_s=240.0,  # the vendor hangs up after five minutes
        )


class SonicWire:
    """Cartesia's messages."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request

    def begin(self, context: str, text: str) -> Sequence[str]:
        """Generate a whole text in a context."""
        return (to_json({**self._request, "transcript": text, "context_id": context}),)

    def cancel(self, context: str) -> Sequence[str]:
        """Cancel a context."""
        return (to_json({"context_id": context, "cancel": True}),)

    def goodbye(self) -> Sequence[str]:
        """The vendor knows no farewell."""
        return ()

    def parse(self, message: str | bytes) -> Sequence[tuple[str | None, Event]]:
        """Understand one message."""
        parsed = parse_object(NAME, message)
        context = parsed.get("context_id")
        if context is not None and not isinstance(context, str):
            raise ProviderProtocol(NAME, "a context id is not text")
        kind = parsed.get("type")
        if kind == "error":
            # An error without a context id may concern any of them.
            return ((context, Failed(_error(parsed))),)
        if context is None:
            return ()
        if kind == "chunk":
            return ((context, Chunk(decode_audio(NAME, parsed.get("data")))),)
        if kind == "timestamps":
            return ((context, Chunk(b"", _words(parsed.get("word_timestamps")))),)
        if kind == "done":
            return ((context, Done()),)
        return ()


def _words(times: object) -> tuple[Word, ...]:
    """Seconds since the context began, to words."""
    if times is None:
        return ()
    try:
        columns = [times[key] for key in ("words", "start", "end")]  # type: ignore[index]
        return tuple(
            Word(str(word), round(start * 1000), round(end * 1000))
            for word, start, end in zip(*columns, strict=True)
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProviderProtocol(NAME, "unreadable word times") from error


def _error(parsed: Mapping[str, Any]) -> ProviderError:
    named = (parsed.get(key) for key in ("error_code", "title", "message", "error"))
    text = ": ".join(str(part) for part in named if part)
    status = parsed.get("status_code")
    if isinstance(status, int) and status >= 400:
        return status_error(NAME, status, text)
    return reason_error(NAME, text or "unnamed error")


def create(settings: Settings) -> CartesiaTts:
    """Create the provider."""
    return CartesiaTts(settings)


PROVIDER = Provider(
    create=create,
    options=CartesiaTtsOptions,
    env=("CARTESIA_API_KEY",),
    base_url="wss://api.cartesia.ai",
    default_model=DEFAULT_MODEL,
    title="Cartesia Sonic, streaming, with word times.",
)
