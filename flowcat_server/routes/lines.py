"""The carriers as the agent file has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from flowcat_server import carriers
from flowcat_server.config.carriers import Carrier as Block
from flowcat_server.config.models import Config
from flowcat_server.core.carrier import Account, Carrier
from flowcat_server.routes.peers import Network, parse_networks


@dataclass(frozen=True, slots=True)
class Line:
    """One carrier, and what the agent file says of it."""

    carrier: Carrier
    account: Account
    networks: tuple[Network, ...] = ()
    """The only ones that are let in, if there are any."""
    configured: bool = False
    """The agent file, or the environment, says anything of it."""
    bind: str = ""
    """Where a listener of its own listens."""
    dtmf: Literal["auto", "in_band", "carrier"] = "auto"
    """Where keys come from."""

    @property
    def hears_keys(self) -> bool:
        """Keys are heard in the caller's audio."""
        return self.dtmf == "in_band" or (self.dtmf == "auto" and not self.carrier.tells_keys)

    block: Block = field(default_factory=Block)
    """All that the agent file says of it."""

    @property
    def credential(self) -> str:
        """The key without which only this machine is served."""
        return f"carriers.{self.carrier.name}.{self.carrier.credential}"

    def url(self, base: str) -> str:
        """The address to paste at the carrier."""
        if self.carrier.over == "tcp":
            return f"tcp://{self.bind}" if self.bind else "off: it has no bind"
        if self.carrier.has_webhook:
            return f"{base}/telephony/answer/{self.carrier.name}"
        return f"ws{base.removeprefix('http')}/telephony/ws/{self.carrier.name}"


def lines(config: Config) -> Iterator[Line]:
    """Every carrier."""
    for name in carriers.names():
        carrier = carriers.find(name)
        assert carrier is not None  # noqa: S101 - it was just named
        block = config.carriers.block(name)
        account = block.account()
        yield Line(
            carrier,
            account,
            parse_networks(account.allow_from, f"carriers.{name}.allow_from"),
            configured=name in config.carriers.model_fields_set,
            bind=getattr(block, "bind", ""),
            dtmf=block.dtmf,
            block=block,
        )
