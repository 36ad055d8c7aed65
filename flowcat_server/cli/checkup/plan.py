"""What a checkup is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowcat_server.cli.far_side.model import FarSide
from flowcat_server.cli.symptoms import Finding
from flowcat_server.config.models import Config
from flowcat_server.routes.lines import Line


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. Addresses have no slash at their end."""

    side: FarSide
    line: Line
    """The carrier, and what the agent file says of it."""
    config: Config
    url: str
    """Where the server is called."""
    public: str
    """Where the carrier believes to call it: what it signs. The same, unless the server is called
    past its proxy."""
    unique: str
    """32 hexadecimal digits, for ids that were never used."""
    speech: bytes = b""
    """PCM16 of 8 kHz that the caller says; empty: silence."""
    connect_s: float = 5.0
    answer_s: float = 15.0
    """A webhook has to be answered within it; no carrier waits longer."""
    greeting_s: float = 12.0
    """Something has to be heard within it. The server gives up a silent socket after 10 s."""
    hold_s: float = 3.0
    """The call lasts so long at least."""
    close_s: float = 5.0

    @property
    def call(self) -> str:
        """The carrier's id of the call."""
        return self.side.new_call(self.unique)

    @property
    def echo(self) -> bool:
        """The server says back what it hears."""
        return self.config.topology.mode == "echo"

    @property
    def past_proxy(self) -> bool:
        """The server is called where no carrier calls it."""
        return self.url != self.public


@dataclass(frozen=True, slots=True)
class Step(Finding):
    """One thing that was done."""

    ms: int = 0
    """How long it took."""


@dataclass(slots=True)
class Told:
    """What a step that came to its end has to say."""

    detail: str
    warnings: list[Wrong] = field(default_factory=list)


class Wrong(Exception):
    """Something is wrong: what it is, and what to do about it."""

    def __init__(self, detail: str, advice: str) -> None:
        self.detail, self.advice = detail, advice
        super().__init__(f"{detail}: {advice}")
