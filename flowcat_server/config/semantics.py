"""What no single field can say: keys that contradict each other, addresses, what is not served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from pydantic import SecretStr

from flowcat_server.config.document import Document, Path
from flowcat_server.config.explain import show_value
from flowcat_server.config.language import languages, spoken, turn_words
from flowcat_server.config.models import Carriers, Config
from flowcat_server.config.suggest import did_you_mean, listed
from flowcat_server.config.types import parse_bind
from flowcat_server.errors import Problem

_TRANSPORTS = ("webrtc", "ws-twilio", "ws-plivo", "sip", "local")
_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_SERVED = ("webrtc", "ws-twilio", "ws-plivo")


def check(config: Config, document: Document) -> Iterator[Problem]:
    """Every problem of a configuration whose fields are each right."""
    yield from _agent(config, document)
    yield from _topology(config, document)
    yield from _language(config, document)
    yield from _addresses(config, document)
    yield from _names(config, document)
    yield from _routes(config, document)
    yield from _twilio(config, document)
    yield from _vonage(config, document)
    yield from _outbound(config, document)
    yield from _not_served(config, document)
    yield from _literal_secrets(config, document)


def _agent(config: Config, document: Document) -> Iterator[Problem]:
    agent = config.agent
    if agent.graph and agent.graph_inline is not None:
        yield document.problem(
            ("agent", "graph"), "is not read, since graph_inline is given too", warning=True
        )
    if agent.prompt and (agent.graph or agent.graph_inline is not None):
        yield document.problem(
            ("agent", "prompt"), "is not read, since a graph is given too", warning=True
        )
    says_something = agent.prompt or agent.graph or agent.graph_inline is not None
    if not says_something and config.topology.mode != "echo":
        yield document.problem(
            ("agent",), "the agent needs a prompt, a graph or a graph_inline", key=True
        )


def _topology(config: Config, document: Document) -> Iterator[Problem]:
    mode = config.topology.mode
    stages = ("stt", "llm", "vad", "turn")
    single = ("provider", "model", "voice", "language", "api_key", "api_key_env", "base_url",
              "options", "timeout", "fallback")  # fmt: skip
    given = document.get(("topology",))
    for name in given if isinstance(given, dict) else ():
        if (name in stages and mode == "realtime") or (name in single and mode == "cascaded"):
            mark = document.mark(("topology", name))
            if mark is None or mark.source != "FLOWCAT_VOICE":
                yield document.problem(
                    ("topology", name), f"is not read in mode {mode}", key=True, warning=True
                )
    if mode == "realtime":
        yield from _realtime(config, document)


def _realtime(config: Config, document: Document) -> Iterator[Problem]:
    """Keys of ``turn`` that the model's own turn-taking, or the lack of a voice, leaves unread."""
    interruption = (("interruption", name) for name in ("min_speech", "min_words", "resume_after"))
    for path in (("endpointing",), *interruption):
        if document.get(("turn", *path)) is not None:
            yield document.problem(
                ("turn", *path),
                "is not read in mode realtime: the speech-to-speech provider takes the turns",
                key=True,
                warning=True,
            )
    for name in ("filler", "say", "goodbye"):
        texts = document.get(("turn", "dead_air", name))
        if texts and not config.topology.fixed_words:
            yield document.problem(
                ("turn", "dead_air", name),
                "nobody can say this: in mode realtime it needs a voice under topology.tts",
                key=True,
                warning=True,
            )


def _language(config: Config, document: Document) -> Iterator[Problem]:
    code = spoken(config.topology.stt)
    smart = config.topology.mode == "cascaded" and config.turn.endpointing.mode == "smart"
    if smart and turn_words(code) is None:
        own = "language" if config.topology.stt.language else "options"
        yield document.problem(
            ("topology", "stt", own),
            f"no words of turn-taking are known for the language {code!r}, so that every turn "
            f"ends after turn.endpointing.min_delay (known: {', '.join(languages())})",
            warning=True,
        )


def _addresses(config: Config, document: Document) -> Iterator[Problem]:
    def bad(path: Path, rule: str, found: str) -> Problem:
        return document.problem(path, f"must be {rule}; found {show_value(path, found)}")

    server, webrtc = config.server, config.webrtc
    try:
        parse_bind(server.bind)
    except ValueError as error:
        yield document.problem(("server", "bind"), str(error))
    audiosocket = config.carriers.audiosocket.bind
    try:
        parse_bind(audiosocket or "0.0.0.0:0")
    except ValueError as error:
        yield document.problem(("carriers", "audiosocket", "bind"), str(error))
    if server.public_url and not _is_url(server.public_url, "https", "http"):
        yield bad(("server", "public_url"), "an address such as https://voice.example.com",
                  server.public_url)  # fmt: skip
    redis = server.redis.get_secret_value()
    if redis and urlsplit(redis).scheme not in ("redis", "rediss", "unix"):
        # Not shown: it holds a password.
        yield document.problem(
            ("server", "redis"),
            "must be an address such as redis://host:6379/0 (also rediss, unix)",
        )
    for number, proxy in enumerate(server.trusted_proxies):
        if not _is_network(proxy):
            yield bad(("server", "trusted_proxies", number),
                      "an IP address or network such as 10.0.0.0/8", proxy)  # fmt: skip
    if webrtc.advertise_ip and not _is_ip(webrtc.advertise_ip):
        yield bad(("webrtc", "advertise_ip"), "an IP address", webrtc.advertise_ip)
    for number, address in enumerate(webrtc.bind_ips):
        if not _is_ip(address):
            yield bad(("webrtc", "bind_ips", number), "an IP address", address)
    for number, ice in enumerate(webrtc.ice_servers):
        for url in ice.urls:
            if url.partition(":")[0] not in ("stun", "stuns", "turn", "turns"):
                yield bad(("webrtc", "ice_servers", number, "urls"),
                          "an address that begins with stun:, turn: or turns:", url)  # fmt: skip
    for name, carrier in config.carriers:
        for number, address in enumerate(carrier.allow_from):
            if not _is_network(address):
                yield bad(("carriers", name, "allow_from", number),
                          "an IP address or network such as 10.0.0.0/8", address)  # fmt: skip
    webhook = config.records.webhook
    if webhook is not None and not _is_url(webhook.url, "https", "http"):
        yield bad(("records", "webhook", "url"), "an http:// or https:// address", webhook.url)


def _names(config: Config, document: Document) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, tool in enumerate(config.tools):
        if tool.name in seen:
            first = document.mark(("tools", seen[tool.name]))
            where = f", here and in line {first.line}" if first and first.line else ""
            yield document.problem(
                ("tools", number, "name"), f"the tool {tool.name!r} is given twice{where}"
            )
        seen.setdefault(tool.name, number)
        url = tool.http.url if tool.http is not None else "{{"
        if "{{" not in url and not _is_url(url, "https", "http"):
            yield document.problem(
                ("tools", number, "http", "url"),
                f"must be an http:// or https:// address; found {show_value((), url)}",
            )


def _routes(config: Config, document: Document) -> Iterator[Problem]:
    routes, main = config.routes, config.agent.name
    known = list(dict.fromkeys((main, *routes.agents)))

    def unknown(path: Path, agent: str) -> Iterator[Problem]:
        if agent and agent not in known:
            yield document.problem(
                path,
                f"there is no agent {agent[:60]!r}{did_you_mean(agent, known)} "
                f"(known: {listed(known)})",
            )

    if main in routes.agents:
        yield document.problem(
            ("routes", "agents", main),
            "is the name of this file's own agent (agent.name); give one of them another",
            key=True,
        )
    everything = False
    for number, rule in enumerate(routes.rules):
        here: Path = ("routes", "rules", number)
        yield from unknown((*here, "agent"), rule.agent)
        for carrier in rule.carrier:
            if carrier not in Carriers.model_fields:
                yield document.problem(
                    (*here, "carrier"),
                    f"there is no carrier {carrier[:60]!r}"
                    f"{did_you_mean(carrier, Carriers.model_fields)} "
                    f"(known: {listed(Carriers.model_fields)})",
                )
        if everything:
            yield document.problem(
                here, "is never reached: a rule before it fits every call", warning=True
            )
        everything = everything or not (rule.to or rule.from_ or rule.carrier or rule.header)
    webhook = routes.webhook
    if webhook is not None:
        yield from unknown(("routes", "webhook", "default"), webhook.default)
        if not _is_url(webhook.url, "https", "http"):
            here = ("routes", "webhook", "url")
            yield document.problem(
                here,
                f"must be an http:// or https:// address; found {show_value(here, webhook.url)}",
            )


def _twilio(config: Config, document: Document) -> Iterator[Problem]:
    twilio = config.carriers.twilio
    place: Path = ("carriers", "twilio")
    if twilio.account_sid and not _ACCOUNT_SID.fullmatch(twilio.account_sid):
        yield document.problem(
            (*place, "account_sid"),
            "must be AC and 32 hexadecimal digits, as Twilio's console shows it; found "
            + show_value((), twilio.account_sid),
        )
    if twilio.account_sid and not twilio.auth_token.get_secret_value():
        yield document.problem(
            place,
            "account_sid without auth_token: webhooks cannot be verified and calls cannot be "
            "hung up or moved",
            key=True,
            warning=True,
        )


def _vonage(config: Config, document: Document) -> Iterator[Problem]:
    vonage = config.carriers.vonage
    known = vonage.application_id and vonage.private_key.get_secret_value()
    if vonage.signature_secret.get_secret_value() and not known:
        yield document.problem(
            ("carriers", "vonage"),
            "no application_id and private_key: calls that the agent ends cannot be hung up",
            key=True,
            warning=True,
        )


def _outbound(config: Config, document: Document) -> Iterator[Problem]:
    """Calls that would be refused, though somebody has said whom the server may call."""
    outbound = config.outbound
    if outbound.allow and not config.server.public_url:
        yield document.problem(
            ("outbound", "allow"),
            "no call can be made without server.public_url: the carrier has to reach this server",
            key=True,
            warning=True,
        )
    numbers = [name for name, block in config.carriers if getattr(block, "from_number", "")]
    if outbound.carrier and outbound.carrier not in numbers:
        yield document.problem(
            ("outbound", "carrier"),
            f"carriers.{outbound.carrier}.from_number is not set: each call has to name its own",
            warning=True,
        )


def _not_served(config: Config, document: Document) -> Iterator[Problem]:
    kind = config.transport.kind
    if kind not in _SERVED:
        known = "not served by this version" if kind in _TRANSPORTS else "unknown"
        yield document.problem(
            ("transport", "kind"),
            f"{kind!r} is {known}; the page and the carriers are served in any case",
            warning=True,
        )


def _literal_secrets(config: Config, document: Document) -> Iterator[Problem]:
    paths: list[tuple[Path, SecretStr]] = [
        ((*path.split("."), "api_key"), spec.api_key) for _, path, spec in config.topology.used()
    ]
    for name, carrier in config.carriers:
        paths += [
            (("carriers", name, key), secret)
            for key, secret in carrier
            if isinstance(secret, SecretStr)
        ]
    for path, secret in paths:
        real = tuple(int(part) if str(part).isdecimal() else part for part in path)
        mark = document.mark(real)
        literal = document.get(real) == secret.get_secret_value() and real not in document.expanded
        if secret.get_secret_value() and literal and mark is not None and mark.kind == "file":
            yield document.problem(
                real,
                "a key stands in the file; leave it to the environment: ${NAME}",
                warning=True,
            )


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)
