"""References of providers, metrics, events and the command line, each from its own source."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flowcat_server import carriers, metrics
from flowcat_server.cli.main import build_parser
from flowcat_server.core import ended, events
from flowcat_server.core.breaker import Breaker
from flowcat_server.core.carrier import Account, Carrier, Ringing
from flowcat_server.providers import registry
from flowcat_server.providers.registry import KINDS, Kind, Provider
from flowcat_server.workers import sums
from flowcat_server.workers.board import Member
from tests.docs.attributes import attribute_docs, one_line
from tests.docs.markers import table

KIND_TITLES: dict[Kind, str] = {
    "stt": "Speech to text",
    "llm": "Language models",
    "tts": "Text to speech",
    "realtime": "Speech to speech",
    "vad": "Voice activity detection",
    "turn": "End of turn",
}


def built_in(kind: Kind) -> dict[str, Provider]:
    """The providers that come with the server; other packages' ones have docs of their own."""
    found = {}
    for name in registry.names(kind):
        provider = registry.find(kind, name)
        if provider is not None and name not in registry._third_party(kind):
            found[name] = provider
    return found


def providers() -> str:
    """A table for each kind."""
    parts = []
    for kind in KINDS:
        rows = [
            (
                f"`{name}`",
                one_line(provider.title).rstrip("."),
                _key(provider),
                _model(provider),
                f"`{provider.extra}`" if provider.extra else "",
                provider.status,
            )
            for name, provider in built_in(kind).items()
        ]
        heads = ("Name", "What", "Key", "Default model", "Extra", "Status")
        parts += [f"### {KIND_TITLES[kind]}", table(heads, rows)]
    return "\n\n".join(parts)


def _key(provider: Provider) -> str:
    if not provider.env:
        return "none"
    names = ", ".join(f"`{name}`" for name in provider.env)
    return names if provider.key_required else f"{names} (optional)"


def _model(provider: Provider) -> str:
    names = dict.fromkeys(filter(None, (provider.default_model, provider.default_voice)))
    if names:
        return ", ".join(f"`{name}`" for name in names)
    return "to be named" if provider.model_required else ""


def options() -> str:
    """The ``options`` of every provider; providers that share a model share a section."""
    groups: dict[type[BaseModel], list[str]] = {}
    for kind in KINDS:
        for name, provider in built_in(kind).items():
            groups.setdefault(provider.options, []).append(f"{kind} `{name}`")
    parts = []
    for model, names in groups.items():
        if not model.model_fields:
            continue
        shown = names[0] if len(names) == 1 else _shared(names)
        parts += [f"### {shown.replace('`', '')}", _options(model)]
        if len(names) > 1:
            parts.insert(
                -1, "The same options serve " + ", ".join(n.split()[1] for n in names) + "."
            )
    return "\n\n".join(parts)


def _shared(names: list[str]) -> str:
    return f"{names[0].split()[0]} openai and its kin" if "llm `openai`" in names else names[0]


def _options(model: type[BaseModel]) -> str:
    docs = attribute_docs(model)
    rows = []
    for name, field in model.model_fields.items():
        about = one_line(field.description or docs.get(name, ""))
        default = field.get_default(call_default_factory=True)
        blank = default is PydanticUndefined or default in (None, "", (), {}, [])
        shown = "" if blank or isinstance(default, BaseModel) else f"`{_literal(default)}`"
        rows.append((f"`{name}`", shown, about))
    return table(("Option", "Default", "Meaning"), rows)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


def every_carrier() -> list[Carrier]:
    """The carriers, in order."""
    found = (carriers.find(name) for name in carriers.names())
    return [carrier for carrier in found if carrier is not None]


def carrier_table() -> str:
    """What each carrier is, and what of it is not known without a live account."""
    rows = [
        (
            f"`{carrier.name}`",
            f"[{carrier.title}]({carrier.docs}): {carrier.wire}",
            carrier.audio,
            carrier.status,
            carrier.unverified,
        )
        for carrier in every_carrier()
    ]
    return table(("Carrier", "Wire", "Audio", "Status", "Unverified without a live account"), rows)


def carrier_abilities() -> str:
    """Doors of each carrier, and what can be done with its calls."""
    rows = [
        (
            f"`{carrier.name}`",
            "yes" if carrier.has_webhook else "none: it opens the socket unasked",
            "yes" if carrier.has_status else "",
            f"`carriers.{carrier.name}.{carrier.credential}`",
            "yes" if carrier.moves_calls else "",
            "yes" if carrier.say(Account(), Ringing("id"), "text", "") else "",
            _dials(carrier),
            carrier.detection,
        )
        for carrier in every_carrier()
    ]
    heads = (
        "Carrier",
        "Answer webhook",
        "Status callback",
        "Opened to others by",
        "Passes calls on",
        "Speaks for a full server",
        "Makes calls, given",
        "Its machine detection",
    )
    return table(heads, rows)


def _dials(carrier: Carrier) -> str:
    return ", ".join(f"`{key}`" for key in carrier.dial_keys)


def carrier_control() -> str:
    """What each carrier can be asked to do with a live call, and how."""
    keys = {"socket": "on the media socket", "api": "by its API", "": "as sound"}
    rows = [
        (
            f"`{carrier.name}`",
            _passes(carrier),
            "yes" if carrier.joins_calls else "",
            keys[carrier.sends_keys],
            "it tells of them" if carrier.tells_keys else "in the audio",
        )
        for carrier in every_carrier()
    ]
    heads = ("Carrier", "Passes on, cold", "Passes on, warm", "Keys are sent", "Keys are heard")
    return table(heads, rows)


def _passes(carrier: Carrier) -> str:
    if carrier.returns_to_flow:
        return "its flow decides"
    if not carrier.moves_calls:
        return ""
    return "yes; the call stays until it is answered" if carrier.reports_dials else "yes"


def metric_table() -> str:
    """Every metric, its kind and labels as they are served."""
    served = metrics.Metrics("", reasons=["x"], channels=["x"])
    call = served.call("x")
    served.provider_error("x", "x", RuntimeError())
    served.call_refused("full")
    served.watch_dropped("x", lambda: 0)
    served.watch_breaker("x", "x", Breaker(), lambda: 0)
    call.on_event(events.ToolEnded(0, "", "x", ""))
    call.on_event(events.UsageCounted(0, "x", "x", characters=1))
    call.on_event(events.AnswerDetected(0, "human", "own"))
    served.dialled("x", "busy")
    call.on_event(events.CallEnded(0, "x"))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", served.render()[0].decode(), re.MULTILINE))
    labels: dict[str, dict[str, None]] = {}
    for family in served.registry.collect():
        for sample in family.samples:
            for label in sample.labels:
                if label != "le":
                    name = family.name + ("_total" if family.type == "counter" else "")
                    labels.setdefault(name, {})[label] = None
    rows = [
        (f"`{name}`", kinds.get(name, ""), ", ".join(f"`{x}`" for x in labels.get(name, ())), about)
        for name, about in metrics.METRICS.items()
    ]
    return table(("Metric", "Kind", "Labels", "Meaning"), rows)


def worker_metrics() -> str:
    """The metrics of a server with several workers."""
    members = [Member(1, 1, 1, True, 0, 0)]
    served = {family.name: family for family in sums.of_workers(members, restarts=0)}
    rows = []
    for name, about in sums.WORKER_METRICS.items():
        family = served[name.removesuffix("_total")]
        labels = ", ".join(f"`{label}`" for label in family.samples[0].labels)
        rows.append((f"`{name}`", family.type, labels, about))
    return table(("Metric", "Kind", "Labels", "Meaning"), rows)


def event_table() -> str:
    """Every event, what it says and its fields."""
    rows = []
    for owner, name in events.EVENT_NAMES.items():
        docs = attribute_docs(owner)
        fields = [
            f"`{field.name}`" + (f" ({_lower(docs[field.name])})" if field.name in docs else "")
            for field in dataclasses.fields(owner)
            if field.name != "at_ms"
        ]
        rows.append((f"`{name}`", one_line(inspect.getdoc(owner) or ""), "; ".join(fields)))
    return table(("Event", "Says", "Fields"), rows)


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def reasons() -> str:
    """Why calls end."""
    return table(
        ("Reason", "Meaning"),
        [(f"`{reason}`", REASONS[reason]) for reason in sorted(ended.REASONS)],
    )


REASONS = {
    ended.AGENT_ENDED: "The agent said goodbye, and it was heard.",
    ended.AGENT_TRANSFERRED: "The agent passed the call on to a person.",
    ended.CALLEE_BUSY: "A number that was called is busy, or turned the call down.",
    ended.CALLEE_NO_ANSWER: "Nobody answered a call that was made.",
    ended.CALLEE_FAILED: "A call could not be made, or was answered without any sound coming.",
    ended.MACHINE_HUNG_UP: "Of a call that was made: who answered is hung up on, as configured.",
    ended.MACHINE_MESSAGE_LEFT: "The message for an answering machine was heard to its end.",
    ended.CALLER_HUNG_UP: "The caller hung up.",
    ended.CALLER_IDLE: "The caller said nothing for too long.",
    ended.CALLER_MEDIA_LOST: "No audio came from the caller for `limits.media_timeout`.",
    ended.CARRIER_CLOSED: "The carrier closed the connection without saying why.",
    ended.CARRIER_PROTOCOL: "The carrier sent what cannot be read, again and again.",
    ended.OPERATOR_HUNG_UP: "Somebody ended the call through the API.",
    ended.PROVIDER_FAILED: (
        "A provider failed, and so did its fallbacks; `detail` reads `stage provider: error`."
    ),
    ended.SERVER_DRAINED: "The server stopped and the call outlasted `server.drain_timeout`.",
    ended.SERVER_ERROR: "A fault in the server; the log has it.",
    ended.SERVER_KILLED: "The process died; written at the next start.",
    ended.SERVER_LIMIT: "The call reached `limits.max_call`.",
}


def command_line() -> str:
    """Every command with its arguments."""
    return "\n\n".join(_command(build_parser(), "flowcat-server", 2))


def _command(parser: argparse.ArgumentParser, title: str, level: int) -> list[str]:
    # Written from the parser's parts, since its own layout differs between versions of Python.
    parts = [f"{'#' * level} {title}"]
    rows = []
    commands: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands += action.choices.items()
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            rows += [(f"[`{name}`](#{_slug(title, name)})", told[name]) for name in action.choices]
        elif "--help" not in action.option_strings:
            rows.append((f"`{_usage(action)}`", action.help or ""))
    if parser.description:
        parts.append(parser.description)
    if rows:
        parts.append(table(("Argument" if not commands else "Command", "Meaning"), rows))
    if parser.epilog:
        parts.append("\n".join(f"- {line}" for line in parser.epilog.strip().splitlines()))
    for name, inner in commands:
        parts += _command(inner, f"{title} {name}", level + 1)
    return parts


def _usage(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest
    if not action.option_strings:
        return {"?": f"[{shown}]", "*": f"[{shown} ...]"}.get(str(action.nargs), shown)
    value = "" if action.nargs == 0 else f" {shown}"
    return ", ".join(action.option_strings) + value


def _slug(title: str, name: str) -> str:
    return f"{title} {name}".replace(" ", "-")
