"""Which rule of the agent file a call fits. Pure, and linear in what came over the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flowcat_server.config.routes import Rule

_PUNCTUATION = str.maketrans("", "", " ()-./")
_SCHEMES = ("sips:", "sip:", "tel:")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a call that wants an agent. From the wire: treat it as hostile."""

    carrier: str
    call_id: str
    """The carrier's."""
    from_number: str = ""
    to_number: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""


def first_fit(rules: Sequence[Rule], asked: Asked) -> Rule | None:
    """The first rule of which everything fits."""
    headers = {name.lower(): value for name, value in asked.headers.items()}
    for rule in rules:
        fits = (
            (not rule.carrier or asked.carrier in rule.carrier)
            and _number_fits(rule.to, asked.to_number)
            and _number_fits(rule.from_, asked.from_number)
            and all(
                name.lower() in headers and matches(pattern.lower(), headers[name.lower()].lower())
                for name, pattern in rule.header.items()
            )
        )
        if fits:
            return rule
    return None


def matches(pattern: str, text: str) -> bool:
    """Whether a text is the pattern's, in which ``*`` stands for any characters."""
    begin, *rest = pattern.split("*")
    if not rest:
        return text == begin
    *middle, end = rest
    at, last = len(begin), len(text) - len(end)
    if at > last or not text.startswith(begin) or not text.endswith(end):
        return False
    for piece in middle:
        at = text.find(piece, at, last)
        if at < 0:
            return False
        at += len(piece)
    return True


def _number_fits(patterns: Sequence[str], number: str) -> bool:
    if not patterns:
        return True
    ways = list(_ways_to_write(number))
    return any(matches(_plain(pattern), way) for pattern in patterns for way in ways)


def _ways_to_write(number: str) -> Iterator[str]:
    """A number as patterns may mean it: of a SIP address also the part before the host."""
    yield _plain(number)
    user, at, _ = number.partition("@")
    if at:
        yield _plain(user)


def _plain(number: str) -> str:
    """Without what people and carriers write or leave out as they like."""
    text = number.strip().lower()
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    text = text.partition(";")[0]
    if "@" not in text:
        text = text.translate(_PUNCTUATION)
    return text.removeprefix("+")
