"""``topology``: which providers hear, think and speak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from flowcat_server.config.blocks import FlowcatBlock
from flowcat_server.config.document import split_short_form
from flowcat_server.config.types import Duration, OrString

ProviderKind = Literal["stt", "llm", "tts", "realtime", "vad", "turn"]


class ProviderSpec(FlowcatBlock):
    """One provider: who, which model, and who takes over when it fails.

    The string ``deepgram/nova-3`` is short for ``{provider: deepgram, model: nova-3}``.
    """

    provider: str = Field(description="Name of the provider; `flowcat-server check` lists them.")
    model: str = Field(
        default="",
        description="Model name; empty: the provider's default. For text to speech, a model "
        "given without a voice is the voice, as in Flowcat.",
    )
    voice: str = Field(default="", description="Voice of a speaking provider; empty: its default.")
    language: str = Field(
        default="", description="Language code such as en or de-DE; empty: default."
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        description="Key; better left to the provider's environment variable.",
    )
    api_key_env: str = Field(default="", description="Environment variable that holds the key.")
    base_url: str = Field(
        default="", description="Address of the service, for servers of one's own."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="The provider's own options; see its reference."
    )
    timeout: Duration | None = Field(
        default=None, description="Longest wait for the first answer before a fallback is tried."
    )
    fallback: list[ProviderRef] = Field(
        default_factory=list, description="Providers tried in order when this one fails."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return split_short_form(value) if isinstance(value, str) else value


ProviderRef = Annotated[ProviderSpec, OrString("provider or provider/model")]


def _local(provider: str) -> Any:
    return lambda: ProviderSpec(provider=provider)


class Topology(FlowcatBlock):
    """How the agent hears, thinks and speaks."""

    mode: Literal["cascaded", "realtime", "echo"] = Field(
        default="cascaded",
        description="cascaded: stt, llm and tts; realtime: one speech-to-speech model; echo: "
        "the caller hears themselves, for load and line checks.",
    )
    provider: str = Field(
        default="gemini", description="Realtime only: the speech-to-speech provider."
    )
    model: str = Field(default="", description="Realtime only: model name; empty: the default.")
    voice: str = Field(default="", description="Realtime only: voice; empty: the default.")
    language: str = Field(
        default="", description="Realtime only: language code; empty: the default."
    )
    api_key: SecretStr = Field(
        default=SecretStr(""), description="Realtime only: the provider's key."
    )
    api_key_env: str = Field(default="", description="Realtime only: variable that holds the key.")
    base_url: str = Field(default="", description="Realtime only: address of the service.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Realtime only: the provider's own options."
    )
    timeout: Duration | None = Field(
        default=None, description="Realtime only: longest wait for the first answer."
    )
    fallback: list[ProviderRef] = Field(
        default_factory=list,
        description="Realtime only: tried in order when it fails, with the conversation as it was "
        "heard.",
    )
    stt: ProviderRef = Field(
        default_factory=_local("whisper"), description="Cascaded: speech to text."
    )
    llm: ProviderRef = Field(
        default_factory=_local("intents"), description="Cascaded: language model."
    )
    tts: ProviderRef = Field(
        default_factory=_local("piper"),
        description="Text to speech. Realtime: if it is given, the voice for fillers, apologies "
        "and last words.",
    )
    vad: ProviderRef = Field(
        default_factory=_local("silero"), description="Voice activity detection."
    )
    turn: ProviderRef | None = Field(
        default=None,
        description="Cascaded: a model that hears whether a caller who has paused has finished, "
        "beside the words; nothing: none.",
    )

    @property
    def realtime(self) -> ProviderSpec:
        """The speech-to-speech provider of ``mode: realtime`` as a spec of its own."""
        return ProviderSpec(
            provider=self.provider,
            model=self.model,
            voice=self.voice,
            language=self.language,
            api_key=self.api_key,
            api_key_env=self.api_key_env,
            base_url=self.base_url,
            options=self.options,
            fallback=self.fallback,
        ).model_copy(update={"timeout": self.timeout})

    @property
    def fixed_words(self) -> bool:
        """``mode: realtime`` has a voice for what the model cannot say when it is in trouble."""
        return self.mode == "realtime" and "tts" in self.model_fields_set

    def used(self) -> Iterator[tuple[ProviderKind, str, ProviderSpec]]:
        """Every provider in use: kind, dotted path, spec; fallbacks after their owner."""
        kinds: dict[str, tuple[ProviderKind, ...]] = {
            "cascaded": ("vad", "turn", "stt", "llm", "tts"),
            "realtime": ("realtime", "tts") if self.fixed_words else ("realtime",),
        }
        for kind in kinds.get(self.mode, ()):
            path = "topology" if kind == "realtime" else f"topology.{kind}"
            spec: ProviderSpec | None = getattr(self, kind)
            if spec is None:
                continue
            yield kind, path, spec
            for number, spare in enumerate(spec.fallback):
                yield kind, f"{path}.fallback.{number}", spare
