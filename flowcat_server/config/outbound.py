"""``outbound``: calls that the server makes, whom it may call, and what answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from flowcat_server.config.blocks import Block
from flowcat_server.config.types import Duration

Action = Literal["talk", "hang_up", "leave_message"]
Prefix = Annotated[str, StringConstraints(pattern=r"^(\*|\+[1-9][0-9]{0,14}\*?)$")]
"""A number in E.164, or the beginning of one and ``*``."""


class Machine(Block):
    """Who answers, and what is done about it; beside the greeting."""

    detect: Literal["both", "own", "carrier", "none"] = Field(
        default="both",
        description="own: from the first seconds of sound and words; carrier: by the carrier's "
        "detection, which may cost; both; none.",
    )
    on_human: Action = Field(default="talk", description="What is done about a person.")
    on_machine: Action = Field(
        default="hang_up",
        description="What is done about an answering machine: talk, hang_up, or leave_message "
        "after its tone.",
    )
    on_unknown: Action = Field(
        default="talk", description="What is done if it cannot be told, as when nobody speaks."
    )
    message: str = Field(
        default="", description="What leave_message says. Holds {{variables}}; then hangs up."
    )
    wait: bool = Field(
        default=False,
        description="True: the agent says nothing before it is known who answered.",
    )

    @model_validator(mode="after")
    def _something_to_leave(self) -> Machine:
        leaves = "leave_message" in (self.on_human, self.on_machine, self.on_unknown)
        if leaves and not self.message.strip():
            raise ValueError("leave_message needs a message")
        return self


class Outbound(Block):
    """Calls that the server makes. Nobody may be called before `allow` says so."""

    allow: list[Prefix] = Field(
        default_factory=list,
        description="Numbers that may be called: +441234567890, +44* for all that begin so, * for "
        "any; empty: none.",
    )
    deny: list[Prefix] = Field(
        default_factory=list,
        description="Numbers that may not, also where allow fits, such as premium rates: +449*.",
    )
    carrier: Literal[
        "", "bandwidth", "cloudonix", "exotel", "jambonz", "plivo", "signalwire", "telnyx",
        "twilio", "vobiz", "vonage",
    ] = Field(
        default="",
        description="Carrier that makes the calls; empty: the only one that is configured for it.",
    )  # fmt: skip
    max_per_minute: int = Field(
        default=30, ge=1, le=6_000, description="Calls that may be begun within a minute."
    )
    ring_timeout: Duration = Field(
        default=30_000, ge=5_000, le=120_000, description="How long it rings before it is given up."
    )
    machine: Machine = Field(
        default_factory=Machine,
        description="Answering machines. Of an agent's own file, this is all that is read.",
    )
