"""The start screen: where to click, what to paste, what runs, what does not and why."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from flowcat_server import __version__
from flowcat_server.config.load import Loaded
from flowcat_server.routes.lines import Line, lines
from flowcat_server.startup import Used


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens."""

    host: str
    port: int

    @property
    def everywhere(self) -> bool:
        """It listens on all addresses."""
        return self.host in ("0.0.0.0", "::", "")  # noqa: S104 - compared, not bound

    def url(self, host: str = "") -> str:
        """The server's URL by this name or its own address."""
        name = host or ("localhost" if self.everywhere else self.host)
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}"


def start_screen(
    stream: TextIO,
    loaded: Loaded,
    address: Address,
    used: Sequence[Used],
    off: Sequence[str],
    token: str,
    *,
    token_made: bool,
    ready_s: float,
    workers: int = 1,
) -> None:
    """Print one screen."""
    lines = [f"flowcat-server {__version__}  ready in {ready_s:.1f} s", ""]
    rows = [("Agent", f"{loaded.config.agent.name}  ({loaded.path})")]
    rows += [("", f"{name}  ({file.path})") for name, file in loaded.agents.items()]
    rows += _addresses(loaded, address, token, token_made=token_made)
    rows += _carriers(loaded, address)
    rows += [(_KINDS[item.kind], _provider(item)) for item in used]
    records = loaded.config.records
    rows.append(("Records", f"{records.dir} ({records.audio} audio, {records.database})"))
    rows.append(("Limits", f"{loaded.config.limits.max_calls} calls at a time"))
    if workers > 1:
        rows.append(("Workers", f"{workers} processes, which share the limit"))
    rows += [("Off", reason) for reason in [*off, *_off(loaded)]]
    width = max(len(label) for label, _ in rows)
    lines += [f"  {label:<{width}}  {text}" for label, text in rows]
    stream.write(
        "\n" + "\n".join(lines) + "\n\n  Ctrl-C lets live calls finish; twice ends now.\n\n"
    )
    stream.flush()


_KINDS = {
    "vad": "Voice",
    "turn": "Turns",
    "stt": "Hears",
    "llm": "Thinks",
    "tts": "Speaks",
    "realtime": "Realtime",
}


def _addresses(
    loaded: Loaded, address: Address, token: str, *, token_made: bool
) -> list[tuple[str, str]]:
    rows = [("Open", address.url())]
    public = loaded.config.server.public_url
    shown = f"?token={token}" if token_made else "?token=<server.api_token>"
    if public:
        rows.append(("", f"{public.rstrip('/')}/{shown}"))
    elif address.everywhere:
        rows.append(("", f"{address.url(_lan_address())}/{shown}  from other machines"))
    return rows


def _carriers(loaded: Loaded, address: Address) -> list[tuple[str, str]]:
    """For each carrier that is configured: the address to paste, and where."""
    config = loaded.config
    public = config.server.public_url.rstrip("/")
    every = list(lines(config))
    rows = []
    for line in [each for each in every if each.configured] or _first(every):
        base = public or "https://<this server>"
        if not line.account.guarded:
            base = address.url()
            what = f"only from this machine: no {line.credential}"
        elif not public and line.carrier.over == "websocket":
            what = "(set server.public_url)"
        else:
            what = f"paste as {line.carrier.paste}"
        rows.append((line.carrier.title, f"{line.url(base)}  {what}"))
    return rows


def _first(every: list[Line]) -> list[Line]:
    """Where no carrier is configured, one shows that there are any."""
    return [line for line in every if line.carrier.name == "twilio"]


def _provider(item: Used) -> str:
    where = "on this machine" if item.local else f"key from {item.key_source}"
    if not item.local and not item.key_source:
        where = "no key"
    return f"{item.name}  {where}{'  (fallback)' if item.spare else ''}"


def _off(loaded: Loaded) -> list[str]:
    reasons = []
    if loaded.config.topology.mode == "cascaded" and loaded.config.topology.llm.provider == (
        "intents"
    ):
        reasons.append(
            "free conversation: the offline brain answers from the file; with OPENAI_API_KEY set, "
            "add --set topology.llm=openai"
        )
    topology = loaded.config.topology
    if topology.mode == "realtime" and not topology.fixed_words:
        reasons.append(
            "fillers, apologies and last words: they need a voice beside the speech-to-speech "
            "model; add topology.tts"
        )
    if loaded.config.records.audio == "none":
        reasons.append("recordings: records.audio is none")
    return reasons


def _lan_address() -> str:
    """The address other machines most likely reach; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
