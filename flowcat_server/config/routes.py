"""``routes``: several agents behind one server, and which of them takes a call."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints

from flowcat_server.config.blocks import Block
from flowcat_server.config.types import Duration, Texts

AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]


class Rule(Block):
    """Which calls an agent takes: all that is given has to fit.

    In texts that are compared, `*` stands for any characters.
    """

    to: Texts = Field(default_factory=list, description="Called number, such as +4420*.")
    from_: Texts = Field(alias="from", default_factory=list, description="Caller's number.")
    carrier: Texts = Field(default_factory=list, description="Carrier that brings the call.")
    header: dict[str, str] = Field(
        default_factory=dict,
        description="What came with the call, name and text: SIP headers, and parameters of the "
        "carrier's webhook or stream.",
    )
    agent: str = Field(default="", description="Agent that answers; empty: the main file's.")
    variables: dict[str, Any] = Field(
        default_factory=dict, description="Call variables, for {{name}}."
    )


class RoutesWebhook(Block):
    """Who is asked which agent takes a call, with which variables, before it is answered."""

    url: str = Field(description="Address; receives a POST with what is known of the call as JSON.")
    secret: SecretStr = Field(
        default=SecretStr(""), description="Signs the body; empty: not signed."
    )
    timeout: Duration = Field(
        default=1_000, description="Longest wait for an answer; then the call goes on without it."
    )
    default: str = Field(
        default="",
        description="Agent when no usable answer came; empty: as the rules say.",
    )


class Routes(Block):
    """Several agents, and who is answered by which. Without it, the file's own agent answers."""

    agents: dict[AgentName, str] = Field(
        default_factory=dict,
        description="Name and file of each further agent; files are relative to this one.",
    )
    rules: list[Rule] = Field(
        default_factory=list, description="Looked at in order; the first that fits counts."
    )
    webhook: RoutesWebhook | None = Field(
        default=None, description="Asked about every call from a carrier."
    )
