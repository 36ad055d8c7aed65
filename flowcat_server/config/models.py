"""The agent file as typed data; the reference documentation is generated from these models.

``agent``, ``topology``, ``transport`` and ``server`` are Flowcat's keys with Flowcat's meaning;
everything else is optional and additive. Durations are integers of milliseconds after parsing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from flowcat_server.config.blocks import Block, FlowcatBlock
from flowcat_server.config.carriers import Carriers
from flowcat_server.config.hold import Hold
from flowcat_server.config.outbound import Outbound
from flowcat_server.config.routes import Routes
from flowcat_server.config.topology import ProviderSpec, Topology
from flowcat_server.config.turn import Turn
from flowcat_server.config.types import Duration, OrString, PortRange, Texts, Workers
from flowcat_server.core.keypad import KEYS, MOST, WAIT_MS, Keys

__all__ = ["Agent", "Carriers", "Config", "ProviderSpec", "Topology", "Turn"]


# --- agent ------------------------------------------------------------------------------------


class Keypad(Block):
    """Where the agent listens for keys: they interrupt it, and make a number."""

    length: int = Field(
        default=0, ge=0, le=MOST, description="Keys of a number, which ends with the last; 0: any."
    )
    terminator: str = Field(
        default="#",
        pattern=f"^[{KEYS}]?$",
        description='The key that ends a number at once; "" for none.',
    )
    timeout: Duration = Field(
        default=WAIT_MS, description="How long the keypad rests before the number is complete."
    )

    def keys(self) -> Keys:
        """The same, for the call."""
        return Keys(self.length, self.terminator, self.timeout)


class Agent(FlowcatBlock):
    """Who answers: a graph of nodes, or simply a prompt."""

    name: str = Field(
        default="agent", description="Name of the agent in records, metrics and logs."
    )
    prompt: str = Field(
        default="", description="Short form: one prompt for the whole call, no graph."
    )
    greeting: str = Field(
        default="", description="Exact first words, spoken without asking a model."
    )
    protect_greeting: bool = Field(
        default=False,
        description="The caller cannot cut off the first words; what is said over them is answered "
        "afterwards.",
    )
    keypad: Keypad | None = Field(
        default=None,
        description="Nodes that say nothing of it listen for keys; absent: a number keyed in does "
        "not interrupt and is answered afterwards.",
    )
    send_keys: bool = Field(
        default=False,
        description="An agent that has just a prompt may press keys, for menus of machines that it "
        "calls; nodes of a graph name the tool `send_keys` among their tools.",
    )
    graph: str = Field(default="", description="Graph file (JSON or YAML), relative to this file.")
    graph_inline: dict[str, Any] | None = Field(
        default=None, description="The graph itself: nodes and edges. Wins over graph."
    )
    seed_vars: dict[str, Any] = Field(
        default_factory=dict, description="Call variables set from the start, for {{name}}."
    )


# --- transport and server ---------------------------------------------------------------------


class Transport(FlowcatBlock):
    """Where calls come from."""

    kind: str = Field(
        default="webrtc",
        description="webrtc: the browser page. Carriers are served beside it in any case.",
    )


class Server(FlowcatBlock):
    """The HTTP server."""

    bind: str = Field(default="0.0.0.0:6210", description="Address and port to listen on.")
    public_url: str = Field(
        default="", description="This server as carriers and browsers reach it, https://..."
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses or networks whose X-Forwarded-* headers are believed.",
    )
    api_token: SecretStr = Field(
        default=SecretStr(""),
        description="Token for the page and the API from other machines; empty: made at start.",
    )
    drain_timeout: Duration = Field(
        default=600_000,
        description="On SIGTERM: how long live calls may go on before they are ended.",
    )
    workers: Workers = Field(
        default=1,
        description="Processes that share the port and `limits.max_calls`; auto: one for each "
        "core.",
    )
    redis: SecretStr = Field(
        default=SecretStr(""),
        description="Redis or Valkey that several machines share, such as redis://host:6379/0; "
        "empty: there is one machine.",
    )


class IceServer(Block):
    """A STUN or TURN server."""

    urls: Texts = Field(description="One or more stun:, turn: or turns: addresses.")
    username: str = Field(default="", description="User name at the TURN server.")
    credential: SecretStr = Field(default=SecretStr(""), description="Password at the TURN server.")


class WebRtc(Block):
    """Calls from browsers."""

    advertise_ip: str = Field(
        default="", description="Address that browsers are told, behind NAT or in a container."
    )
    port_range: PortRange = Field(
        default=None, description='UDP ports for media, such as "10000-10100"; empty: any.'
    )
    ice_servers: list[IceServer] = Field(
        default_factory=list, description="STUN and TURN servers; none are needed on a LAN."
    )
    bind_ips: list[str] = Field(
        default_factory=list, description="Local addresses used for media; empty: all."
    )
    connect_timeout: Duration = Field(
        default=15_000, description="A browser that has not connected by then is given up."
    )
    max_pending: int = Field(
        default=16, ge=1, description="Browsers that may be connecting at the same time."
    )


# --- tools and knowledge ----------------------------------------------------------------------


class HttpCall(Block):
    """The request that runs a tool. ``{{args.name}}`` and call variables are filled in."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(
        default="POST", description="HTTP method."
    )
    url: str = Field(description="Address.")
    headers: dict[str, str] = Field(default_factory=dict, description="Request headers.")
    query: dict[str, Any] = Field(default_factory=dict, description="Query parameters.")
    body: Any = Field(
        default=None, description="JSON body; absent: the arguments, unless GET or DELETE."
    )


class Tool(Block):
    """A function that the model may call."""

    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$", description="Name the model calls it by."
    )
    description: str = Field(
        default="", description="What it does and when to use it, for the model."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments: name to JSON Schema, or a whole JSON Schema object.",
    )
    http: HttpCall | None = Field(default=None, description="Run it as an HTTP request.")
    python: str = Field(
        default="",
        description="Run it as a Python function: module:function or ./file.py:function.",
    )
    timeout: Duration = Field(default=10_000, description="Longest run; then the model is told so.")
    say: Texts = Field(
        default_factory=list, description="Spoken when it starts; one text is chosen in turn."
    )
    side_effect: bool | None = Field(
        default=None,
        description="Changes something: not run before the caller has certainly finished (see "
        "`turn.speculation`). Not given: a GET request changes nothing, anything else does.",
    )

    @model_validator(mode="after")
    def _one_way_to_run(self) -> Tool:
        if (self.http is None) == (not self.python):
            raise ValueError("give either http or python, to say how the tool is run")
        return self


class Knowledge(Block):
    """What the agent knows: one fact, or a file of them."""

    name: str = Field(default="", description="Name of the fact or file; empty: numbered.")
    questions: Texts = Field(
        default_factory=list, description="How callers ask for it, two or three wordings."
    )
    answer: str = Field(default="", description="What to say. Holds {{variables}}.")
    path: str = Field(
        default="",
        description="File of facts, relative to this file: Markdown with a question as heading "
        "over each answer, or YAML with a list of questions and answer.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Knowledge:
        if bool(self.path) == bool(self.answer):
            raise ValueError("give either an answer (with its questions) or a path")
        return self


# --- limits, records, observability -----------------------------------------------------------


class WhenFull(Block):
    """What a caller gets who cannot be taken: the carrier's busy signal, or a sentence.

    The sentence is spoken by the carrier, whose voice and price it is; nothing is spent here.
    """

    say: str = Field(
        default="",
        description="Spoken by carriers whose answer can speak; the others, and an empty text, "
        "give the busy signal.",
    )
    language: str = Field(
        default="", description="Language code such as de-DE; empty: the carrier's usual one."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "busy":
            raise ValueError("must be busy, or a block such as {say: All lines are busy.}")
        return {} if value == "busy" else value


class Limits(Block):
    """What one server takes on, all of its workers together."""

    max_calls: int = Field(default=50, ge=1, le=100_000, description="Calls at the same time.")
    when_full: Annotated[WhenFull, OrString("busy")] = Field(
        default_factory=WhenFull,
        description="What the next caller gets: busy, or what a block says.",
    )
    max_call: Duration = Field(default=1_800_000, description="Longest call.")
    max_lag: Duration = Field(
        default=100,
        description="While a tenth of the event loop's last fifty ticks (20 ms apart) is later "
        "than this, new calls are refused and live ones go on; 0: never.",
    )
    media_timeout: Duration = Field(
        default=30_000, description="A call from which no audio arrives for this long is over."
    )


class RecordsWebhook(Block):
    """Where a finished call is reported."""

    url: str = Field(description="Address; receives a POST with the call's record as JSON.")
    secret: SecretStr = Field(
        default=SecretStr(""), description="Signs the body; empty: not signed."
    )
    timeout: Duration = Field(default=10_000, description="Longest wait for an answer.")


class Records(Block):
    """What is kept of a call."""

    dir: str = Field(
        default="./calls", description="Directory for recordings, relative to this file."
    )
    database: str = Field(
        default="calls.sqlite",
        description="SQLite file, relative to dir, or a URL such as postgresql://user@host/db.",
    )
    audio: Literal["stereo", "mono", "none"] = Field(
        default="stereo",
        description="stereo: caller left, agent as heard right; mono: mixed; none.",
    )
    transcript: bool = Field(default=True, description="Keep what was said.")
    redact: list[Literal["card_number", "digits", "dtmf"]] = Field(
        default_factory=list,
        description="Removed from what is kept: card_number, digits (four and more), dtmf.",
    )
    keep: Duration | None = Field(
        default=None, description="Remove calls after this time; empty: never."
    )
    webhook: RecordsWebhook | None = Field(default=None, description="Report finished calls.")


class Log(Block):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important level written."
    )
    format: Literal["console", "json"] = Field(default="console", description="Human or machine.")


class Budget(Block):
    """Latency goals; a turn over budget is logged with the stage that spent it."""

    first_audio_p95: Duration | None = Field(
        default=None, description="From the caller's last word to the agent's first sound."
    )


class Observability(Block):
    """What operators see."""

    metrics: bool = Field(default=True, description="Serve Prometheus metrics at GET /metrics.")
    log: Log = Field(default_factory=Log, description="Logging.")
    stall: Duration = Field(
        default=20,
        description="An event loop that is late by this is counted and logged, with what held it; "
        "0: only measured.",
    )
    budget: Budget = Field(default_factory=Budget, description="Latency goals.")


class Config(FlowcatBlock):
    """One agent and the server that runs it: the whole file."""

    agent: Agent = Field(default_factory=Agent, description="Who answers.")
    topology: Topology = Field(
        default_factory=Topology, description="Providers; absent: all local, without any key."
    )
    transport: Transport = Field(default_factory=Transport, description="Where calls come from.")
    server: Server = Field(default_factory=Server, description="The HTTP server.")
    turn: Turn = Field(default_factory=Turn, description="Who speaks when.")
    tools: list[Tool] = Field(default_factory=list, description="Functions for the model.")
    knowledge: list[Knowledge] = Field(default_factory=list, description="What the agent knows.")
    routes: Routes = Field(default_factory=Routes, description="Several agents in one server.")
    carriers: Carriers = Field(default_factory=Carriers, description="Phone companies by name.")
    outbound: Outbound = Field(default_factory=Outbound, description="Calls that the server makes.")
    webrtc: WebRtc = Field(default_factory=WebRtc, description="Calls from browsers.")
    hold: Hold = Field(default_factory=Hold, description="What a caller hears who waits.")
    limits: Limits = Field(default_factory=Limits, description="What one server takes on.")
    records: Records = Field(default_factory=Records, description="What is kept of a call.")
    observability: Observability = Field(
        default_factory=Observability, description="What operators see."
    )
    tests: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Scripted calls for test tools; the server does not read them.",
    )
