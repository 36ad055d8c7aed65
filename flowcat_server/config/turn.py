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
        default=1000,
        description="Speech over the agent that interrupts it, whether or not words are known yet.",
    )
    min_words: int = Field(
        default=0, ge=0, le=20, description="Words needed; 0: one word, or long speech alone."
    )
    resume_after: Duration = Field(
        default=1500,
        description="Longest silence of the agent for a sound that proves to be no interruption.",
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


class Transfer(Block):
    """Who takes a call that the agent cannot go on with; needs a carrier that passes calls on."""

    name: str = Field(default="operator", description="What records call it.")
    phone: str = Field(description="Number in E.164 form, such as `+442079460000`.")
    say: str = Field(
        default="I am passing you on to a colleague.", description="Said before; empty: nothing."
    )


class DeadAir(Block):
    """What the caller hears while the agent is late, and when it cannot go on."""

    filler_after: Duration = Field(
        default=1800,
        description="Silence on the line, counted from the caller's last sound or the agent's, "
        "before a filler is spoken; a wait that goes on gets another one each time.",
    )
    filler: Texts = Field(
        default_factory=lambda: [
            "One moment.",
            "I am still on it.",
            "Thank you for waiting.",
        ],
        description="Fillers; one is chosen in turn. An empty list: none.",
    )
    hedge_after: Duration = Field(
        default=0,
        description="Waiting time for the language model after which its fallback is asked the "
        "same beside it; the first to answer is heard, the other is cancelled. 0: never.",
    )
    give_up_after: Duration = Field(
        default=10_000, description="Waiting time before the agent gives up."
    )
    say: Texts = Field(
        default_factory=lambda: ["Sorry, I lost my thread. Could you repeat that?"],
        description="What is said on giving up.",
    )
    give_up_turns: int = Field(
        default=2,
        ge=1,
        le=20,
        description="Turns in a row that may fail so before the call is passed on or ended. A "
        "provider for which trying again cannot help (a refused key) ends it at once.",
    )
    transfer: Transfer | None = Field(
        default=None, description="Who takes such a call; nothing: it is ended."
    )
    goodbye: Texts = Field(
        default_factory=lambda: [
            "I am sorry, something is wrong on our side. Please call again a little later."
        ],
        description="Said before such a call is ended.",
    )


class Breaker(Block):
    """When calls leave a failing provider alone and begin with its fallback.

    All calls of a process share what they know. Afterwards the next call that needs the provider
    tries it; nothing is asked only to find out.
    """

    failures: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Failures in a row after which it is left alone; a refusal counts as all.",
    )
    open_for: Duration = Field(default=30_000, description="How long, before it is tried again.")


class Deadline(Block):
    """How long a provider may be silent."""

    first: Duration = Field(description="Longest wait for the first result.")
    gap: Duration = Field(description="Longest wait between two results.")


class Deadlines(Block):
    """Deadlines by stage, counted from the last thing that was sent to the provider.

    A provider's own `timeout` replaces `first`. Where no fallback is left, a provider gets twice
    as long before it is given up.
    """

    stt: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=2000, gap=10_000),
        description="Speech to text: from the caller's pause to the transcript; between two "
        "transcripts of one turn while the caller speaks.",
    )
    llm: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=4000, gap=4000),
        description="Language model: to the first token, and between tokens.",
    )
    tts: Deadline = Field(
        default_factory=lambda: Deadline.model_construct(first=1500, gap=1500),
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
    speculation: Literal["auto"] | bool = Field(
        default="auto",
        description="Ask the language model when the caller seems to have finished, while "
        "endpointing still waits; nothing of its answer is said or kept if the caller goes on. "
        "auto: where an answer that is thrown away costs nothing, which is a model in this machine "
        "or on a server of one's own.",
    )
    idle: Idle = Field(default_factory=Idle, description="When nobody speaks.")
    dead_air: DeadAir = Field(default_factory=DeadAir, description="When the agent is late.")
    deadlines: Deadlines = Field(
        default_factory=Deadlines, description="When a provider counts as failed."
    )
    breaker: Breaker = Field(
        default_factory=Breaker, description="When a failing provider is left alone."
    )
