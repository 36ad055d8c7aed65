"""``turn``: who speaks when, and what happens when nobody does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flowcat_server.config.blocks import Block
from flowcat_server.config.types import Duration, Texts


class Endpointing(Block):
    """When the caller has finished speaking."""

    mode: Literal["smart", "fixed"] = Field(
        default="smart",
        description="smart: wait longer while the sentence sounds unfinished; fixed: never.",
    )
    min_delay: Duration = Field(
        default=320, description="Silence after a finished sentence before the agent answers."
    )
    max_delay: Duration = Field(
        default=1200, description="Silence after an unfinished sentence before the agent answers."
    )
    number_delay: Duration = Field(
        default=1400,
        description="Silence while a number or a spelling is dictated, before the agent answers. "
        "Where the file says how many `digits` a number has, it ends after min_delay.",
    )
    pause: Duration = Field(
        default=96,
        description="Silence after which speech to text is asked for what it has so far.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Endpointing:
        if self.max_delay < self.min_delay:
            raise ValueError("max_delay must not be shorter than min_delay")
        if self.pause > self.min_delay:
            raise ValueError("pause must not be longer than min_delay")
        return self


class Interruption(Block):
    """When the caller may cut the agent off."""

    enabled: bool = Field(
        default=True, description="False: the agent always finishes its sentence."
    )
    min_speech: Duration = Field(
        default=250, description="Speech over the agent that counts as an interruption."
    )
    min_words: int = Field(
        default=0, ge=0, le=20, description="Words needed as well; 0: speech alone is enough."
    )
    resume_after: Duration = Field(
        default=1500, description="After a false alarm the agent goes on speaking within this time."
    )


class Idle(Block):
    """What happens when the caller says nothing."""

    after: Duration = Field(
        default=12_000, description="Silence on both sides before the agent asks."
    )
    say: Texts = Field(
        default_factory=lambda: ["Are you still there?"],
        description="What the agent asks; one text is chosen in turn.",
    )
    times: int = Field(default=2, ge=0, le=20, description="How often the agent asks.")
    then: Literal["hangup", "stay"] = Field(
        default="hangup", description="hangup: end the call politely; stay: keep the line open."
    )


class DeadAir(Block):
    """What the caller hears while the agent takes too long."""

    filler_after: Duration = Field(
        default=1500, description="Waiting time before a filler is spoken."
    )
    filler: Texts = Field(
        default_factory=lambda: ["One moment."],
        description="Fillers; one is chosen in turn. An empty list: none.",
    )
    give_up_after: Duration = Field(
        default=10_000, description="Waiting time before the agent gives up."
    )
    say: Texts = Field(
        default_factory=lambda: ["Sorry, I lost my thread. Could you repeat that?"],
        description="What is said on giving up.",
    )


class Deadline(Block):
    """How long a provider may be silent."""

    first: Duration = Field(description="Longest wait for the first result.")
    gap: Duration = Field(description="Longest wait between two results.")


class Deadlines(Block):
    """Deadlines by stage; a provider's own timeout replaces `first`."""

    stt: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=3000, gap=3000),
        description="Speech to text: from the caller's pause to the transcript.",
    )
    llm: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=6000, gap=5000),
        description="Language model: to the first token, and between tokens.",
    )
    tts: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=4000, gap=4000),
        description="Text to speech: to the first audio, and between pieces.",
    )


class Turn(Block):
    """Who speaks when."""

    endpointing: Endpointing = Field(
        default_factory=Endpointing, description="When the caller has finished."
    )
    interruption: Interruption = Field(
        default_factory=Interruption, description="When the caller may cut in."
    )
    idle: Idle = Field(default_factory=Idle, description="When nobody speaks.")
    dead_air: DeadAir = Field(default_factory=DeadAir, description="When the agent is late.")
    deadlines: Deadlines = Field(
        default_factory=Deadlines, description="When a provider counts as failed."
    )
