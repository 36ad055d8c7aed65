"""ElevenLabs over its multi-context WebSocket, with word times.

https://elevenlabs.io/docs/api-reference/text-to-speech/v-1-text-to-speech-voice-id-multi-stream-input:
every sentence is a context: its first message sets it up, the next carries the text, and
``close_context`` asks for the rest and for ``isFinal``. A socket takes five contexts; the sixth
closes it with code 1008. An account out of quota gets ``isFinal`` without audio.

``voice`` is a voice id. Where only ``model`` is given and does not begin with ``eleven_``, it is
the voice, as in Flowcat's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

from pydantic import Field

from flowcat_server.core import audio as sound
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import ProviderProtocol
from flowcat_server.providers.registry import Options, Provider, Settings
from flowcat_server.providers.sockets import Chunk, Done, Endpoint, Event, Failed
from flowcat_server.providers.tts._streaming import SocketTts, decode_audio, model_and_voice
from flowcat_server.providers.websocket import (
    parse_object,
    reason_error,
    to_json,
    websocket_url,
)

NAME = "elevenlabs"
DEFAULT_MODEL = "eleven_flash_v2_5"
DEFAULT_VOICE = "JBFqnCBsd6RMkjVDRZzb"
"""George, the voice of the vendor's own first example."""
CONTEXTS = 5
INACTIVITY_S = 180
"""The longest the vendor keeps an idle socket."""
ENCODINGS: Mapping[str, str] = {"mulaw": "ulaw", "alaw": "alaw", "pcm16": "pcm"}


class ElevenLabsTtsOptions(Options):
    """Options of ElevenLabs' voices."""

    stability: float | None = Field(default=None, ge=0, le=1)
    similarity_boost: float | None = Field(default=None, ge=0, le=1)
    style: float | None = Field(default=None, ge=0, le=1)
    use_speaker_boost: bool | None = None
    speed: float | None = Field(default=None, ge=0.7, le=1.2)
    apply_text_normalization: Literal["auto", "on", "off"] | None = None
    extra: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Added to the query, untouched."""


class ElevenLabsTts(SocketTts):
    """Speaks with ElevenLabs."""

    formats = (sound.PCM_24K, sound.PCM_48K, sound.PCM_16K, sound.MULAW_8K, sound.ALAW_8K,
               sound.PCM_8K)  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.http)
        self._settings = settings
        self._model, self._voice = model_and_voice(
            settings, r"eleven_", DEFAULT_MODEL, DEFAULT_VOICE
        )
        options: ElevenLabsTtsOptions = settings.options
        names = ("stability", "similarity_boost", "style", "use_speaker_boost", "speed")
        self._voice_settings = {
            key: value for key in names if (value := getattr(options, key)) is not None
        }

    def endpoint(self, audio: AudioFormat) -> Endpoint:
        """The socket of one voice, model and format."""
        options: ElevenLabsTtsOptions = self._settings.options
        query: dict[str, str | int | float | bool] = {
            "model_id": self._model,
            "output_format": f"{ENCODINGS[audio.encoding]}_{audio.sample_rate}",
            "auto_mode": True,
            "sync_alignment": True,
            "inactivity_timeout": INACTIVITY_S,
        }
        if self._settings.language:
            query["language_code"] = self._settings.language.split("-")[0]
        if options.apply_text_normalization is not None:
            query["apply_text_normalization"] = options.apply_text_normalization
        query.update(options.extra)
        encoded = urlencode(
            {key: str(value).lower() if isinstance(value, bool) else value
             for key, value in query.items()}
        )  # fmt: skip
        path = f"/v1/text-to-speech/{quote(self._voice, safe='')}/multi-stream-input?{encoded}"
        return Endpoint(
            provider=NAME,
            audio=audio,
            url=websocket_url(self._settings.base_url, path),
            headers=(("xi-api-key", self._settings.api_key.get_secret_value()),),
            wire=lambda: MultiContextWire(audio, self._voice_settings),
            contexts=CONTEXTS,
            idle_s=INACTIVITY_S - 30.0,
        )


class MultiContextWire:
    """ElevenLabs' messages."""

    def __init__(self, audio: AudioFormat, voice_settings: Mapping[str, Any]) -> None:
        self._audio, self._voice_settings = audio, voice_settings
        self._spellers: dict[str, _Speller] = {}

    def begin(self, context: str, text: str) -> Sequence[str]:
        """Set a context up, give it a sentence, and ask for all of it."""
        self._spellers[context] = _Speller(self._audio)
        first: dict[str, Any] = {"text": " ", "context_id": context}
        if self._voice_settings:
            first["voice_settings"] = self._voice_settings
        return (
            to_json(first),
            to_json({"text": text.strip() + " ", "context_id": context, "flush": True}),
            to_json({"context_id": context, "close_context": True}),
        )

    def cancel(self, context: str) -> Sequence[str]:
        """Nothing: `begin` has asked to close, and what is being flushed cannot be stopped."""
        self._spellers.pop(context, None)
        return ()

    def goodbye(self) -> Sequence[str]:
        """Close the socket."""
        return (to_json({"close_socket": True}),)

    def parse(self, message: str | bytes) -> Sequence[tuple[str | None, Event]]:
        """Understand one message."""
        parsed = parse_object(NAME, message)
        context = parsed.get("contextId", parsed.get("context_id"))
        if context is not None and not isinstance(context, str):
            raise ProviderProtocol(NAME, "a context id is not text")
        if parsed.get("error"):
            reason = f"{parsed['error']}: {parsed.get('message', '')}"
            return ((context, Failed(reason_error(NAME, reason))),)
        if context is None:
            return ()
        events: list[tuple[str | None, Event]] = []
        speller = self._spellers.get(context)
        if parsed.get("audio") is not None:
            audio = decode_audio(NAME, parsed["audio"])
            words = speller.spell(parsed.get("alignment"), len(audio)) if speller else ()
            events.append((context, Chunk(audio, words)))
        if parsed.get("isFinal", parsed.get("is_final")) is True:
            self._spellers.pop(context, None)
            rest = speller.finish() if speller else ()
            if rest:
                events.append((context, Chunk(b"", rest)))
            events.append((context, Done()))
        return events


class _Speller:
    """Joins timed characters to words; a word may be cut by a message's end.

    Character times count from the beginning of the audio they came with.
    """

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._received = 0
        self._word = ""
        self._start_ms = self._end_ms = 0

    def spell(self, alignment: object, size: int) -> tuple[Word, ...]:
        offset = self._audio.duration_ms(self._received)
        self._received += size
        if alignment is None:
            return ()
        words: list[Word] = []
        for character, start, length in _characters(alignment):
            if character.isspace():
                words.extend(self.finish())
                continue
            if not self._word:
                self._start_ms = offset + start
            self._word += character
            self._end_ms = offset + start + length
        return tuple(words)

    def finish(self) -> tuple[Word, ...]:
        if not self._word:
            return ()
        word = Word(self._word, self._start_ms, self._end_ms)
        self._word = ""
        return (word,)


def _characters(alignment: object) -> list[tuple[str, int, int]]:
    if not isinstance(alignment, dict):
        raise ProviderProtocol(NAME, "unreadable alignment")
    columns = (
        alignment.get("chars"),
        alignment.get("charStartTimesMs", alignment.get("charsStartTimesMs")),
        alignment.get("charDurationsMs", alignment.get("charsDurationsMs")),
    )
    try:
        return [
            (str(character), round(start), round(length))
            for character, start, length in zip(*columns, strict=True)  # type: ignore[arg-type]
        ]
    except (TypeError, ValueError, OverflowError) as error:
        raise ProviderProtocol(NAME, "unreadable alignment") from error


def create(settings: Settings) -> ElevenLabsTts:
    """Create the provider."""
    return ElevenLabsTts(settings)


PROVIDER = Provider(
    create=create,
    options=ElevenLabsTtsOptions,
    env=("ELEVENLABS_API_KEY", "ELEVEN_API_KEY"),
    base_url="wss://api.elevenlabs.io",
    default_model=DEFAULT_MODEL,
    title="ElevenLabs, streaming, with word times.",
)
