"""Deepgram Aura over WebSocket.

https://developers.deepgram.com/docs/tts-websocket: ``Speak`` and ``Flush`` go in, binary audio and
``Flushed`` come out; ``Clear`` stops it and is answered by ``Cleared``. Nothing names the utterance
that audio belongs to, so a socket speaks one at a time. At most 20 ``Flush`` are taken in 60 s
(https://developers.deepgram.com/docs/tts-ws-flush); a busy voice therefore changes sockets.

The model is the voice: ``voice: andromeda``, ``voice: aura-2-andromeda-en`` and
``model: aura-2-andromeda-en`` mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlencode

import structlog
from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.errors import ConfigError, Problem, ProviderBusy
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.sockets import Chunk, Done, Endpoint, Event, Failed
from flowcat_server.providers.tts._streaming import SocketTts
from flowcat_server.providers.websocket import (
    parse_object,
    reason_error,
    to_json,
    websocket_url,
)

NAME = "deepgram"
GENERATION = "aura-2"
DEFAULT_VOICE = "andromeda"
FLUSHES_PER_MINUTE = 20
ENCODINGS: Mapping[str, str] = {"mulaw": "mulaw", "alaw": "alaw", "pcm16": "linear16"}

log = structlog.get_logger()


class DeepgramTtsOptions(Options):
    """Options of Deepgram's voices."""

    region: Literal["", "eu", "au", "in"] = ""
    """Where the vendor computes; empty: its default, the United States."""
    speed: float | None = Field(default=None, gt=0)
    mip_opt_out: bool | None = None
    """Keep the data out of the vendor's model improvement programme."""
    extra: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Added to the query, untouched."""


def voice_name(voice: str, model: str, language: str) -> str:
    """The vendor's model name, from a bare voice, a whole name, or a model that is a voice."""
    name = voice or model or DEFAULT_VOICE
    if name in (GENERATION, "aura"):
        return f"{name}-{DEFAULT_VOICE}-{language or 'en'}"
    if name.startswith("aura-"):
        return name
    generation = model if voice and model in (GENERATION, "aura") else GENERATION
    return f"{generation}-{name}-{(language or 'en').split('-')[0]}"


class DeepgramTts(SocketTts):
    """Speaks with Deepgram Aura."""

    formats = (sound.PCM_24K, sound.PCM_48K, sound.PCM_16K, sound.MULAW_8K, sound.ALAW_8K,
               sound.PCM_8K)  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.http)
        self._settings = settings
        self._voice = voice_name(settings.voice, settings.model, settings.language)
        if self._voice.startswith(f"{GENERATION}-flux-"):
            raise ConfigError(
                Problem(f"Flux voices are not supported: {settings.voice or settings.model!r}")
            )

    def endpoint(self, audio: AudioFormat) -> Endpoint:
        """The socket for one format."""
        options: DeepgramTtsOptions = self._settings.options
        query: dict[str, str | int | float | bool] = {
            "model": self._voice,
            "encoding": ENCODINGS[audio.encoding],
            "sample_rate": audio.sample_rate,
        }
        if options.speed is not None:
            query["speed"] = options.speed
        if options.mip_opt_out is not None:
            query["mip_opt_out"] = options.mip_opt_out
        query.update(options.extra)
        base = regional(self._settings.base_url, options.region)
        return Endpoint(
            provider=NAME,
            audio=audio,
            url=websocket_url(base, "/v1/speak?" + encode_query(query)),
            headers=(("Authorization", f"Token {self._settings.api_key.get_secret_value()}"),),
            wire=AuraWire,
            contexts=1,
            per_minute=FLUSHES_PER_MINUTE - 1,
            said_in="dg-error",
            idle_s=60.0,
        )


def regional(base_url: str, region: str) -> str:
    """The vendor's host for a region; a base URL of one's own stays."""
    if region and base_url == PROVIDER.base_url:
        return base_url.replace("//api.", f"//api.{region}.")
    return base_url


def encode_query(query: Mapping[str, str | int | float | bool]) -> str:
    """A query string; booleans are ``true`` and ``false``."""
    return urlencode(
        {key: str(value).lower() if isinstance(value, bool) else value
         for key, value in query.items()}
    )  # fmt: skip


class AuraWire:
    """Deepgram's messages. One utterance at a time.

    After ``Clear`` everything up to ``Cleared`` belongs to the stopped utterance. A ``Flushed``
    that was still due may come even later: it is not taken for the end of the next utterance
    before that has brought audio.
    """

    def __init__(self) -> None:
        self._clearing = False
        self._stale_flushes = 0
        self._heard = False
        self._flushing = False

    def begin(self, context: str, text: str) -> Sequence[str]:
        """Speak and flush."""
        self._heard, self._flushing = False, True
        return (to_json({"type": "Speak", "text": text}), to_json({"type": "Flush"}))

    def cancel(self, context: str) -> Sequence[str]:
        """Clear."""
        self._clearing = True
        self._stale_flushes += self._flushing
        self._flushing = False
        return (to_json({"type": "Clear"}),)

    def goodbye(self) -> Sequence[str]:
        """Close."""
        return (to_json({"type": "Close"}),)

    def parse(self, message: str | bytes) -> Sequence[tuple[str | None, Event]]:
        """Understand one message."""
        if isinstance(message, bytes):
            if self._clearing or not message:
                return ()
            self._heard = True
            return ((None, Chunk(message)),)
        parsed = parse_object(NAME, message)
        kind = parsed.get("type")
        if kind == "Cleared":
            self._clearing = False
            return ((None, Done()),)
        if kind == "Flushed":
            return self._flushed()
        if kind == "Warning":
            words = f"{parsed.get('code', '')} {parsed.get('description', '')}".strip()
            log.warning("tts_warning", provider=NAME, message=words[:300])
            if "flush" in words.lower():
                return ((None, Failed(ProviderBusy(NAME, words[:300]))),)
        if kind == "Error" or "err_msg" in parsed:
            fields = (parsed.get(key) for key in ("code", "variant", "err_code", "description",
                                                  "err_msg"))  # fmt: skip
            raise reason_error(NAME, " ".join(str(item) for item in fields if item))
        return ()

    def _flushed(self) -> Sequence[tuple[str | None, Event]]:
        if self._stale_flushes and (self._clearing or not self._heard):
            self._stale_flushes -= 1
            return ()
        self._stale_flushes = 0
        self._flushing = False
        return ((None, Done()),)


def create(settings: Settings) -> DeepgramTts:
    """Create the provider."""
    return DeepgramTts(settings)


PROVIDER = Provider(
    create=create,
    options=DeepgramTtsOptions,
    env=("DEEPGRAM_API_KEY",),
    base_url="wss://api.deepgram.com",
    default_model=GENERATION,
    title="Deepgram Aura-2, streaming.",
)
