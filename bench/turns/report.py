"""The table, the list of failures, and the comparison of two runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.turns.score import Outcome, Pause

NON_SPEECH = ("noise", "line")
DICTATED = ("number", "spelling")
"""Scenarios whose answers are right to wait longer for than for a sentence."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the summary."""

    name: str
    value: float | None
    """None: nothing to measure it on."""
    unit: str
    of: int
    """How many cases it is made of."""
    target: float | None = None
    higher: bool = False
    """The target is a least, not a most."""

    @property
    def met(self) -> bool | None:
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.higher else self.value <= self.target


def percent(hits: Iterable[bool]) -> tuple[float | None, int]:
    values = list(hits)
    return (100 * sum(values) / len(values) if values else None), len(values)


def percentile(values: Sequence[int], share: float) -> float | None:
    """By nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    return float(ordered[max(0, -(-int(share * len(ordered) * 1000) // 1000) - 1)])


def group(outcome: Outcome) -> str:
    return outcome.kind.split("/")[0]


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The summary, with the targets."""
    valid = [o for o in outcomes if o.counts]
    goes_on = [o for o in valid if o.expect == "continue"]
    non_speech = [o for o in goes_on if group(o) in NON_SPEECH]
    backchannel = [o for o in goes_on if group(o) == "backchannel"]
    echo = [o for o in goes_on if group(o) == "echo"]
    stops = [o for o in valid if o.expect == "stop"]
    latencies = [o.stop_ms for o in stops if o.stop_ms is not None and not o.missed and not o.early]
    turns = [o for o in valid if o.expect == "turns" and o.expected]
    delays = [delay for o in turns for delay in o.delays_ms]
    plain = [
        delay for o in turns if o.about.get("scenario") not in DICTATED for delay in o.delays_ms
    ]
    quiet = [o for o in valid if o.expect == "turns" and not o.expected]
    holes = [pause for o in goes_on if not o.stopped for pause in o.pauses]
    return [
        Figure("false stops, non-speech", *_share(non_speech, _stopped), target=2),
        Figure("false stops, backchannels", *_share(backchannel, _stopped), target=5),
        Figure("self-interruptions by echo", *_share(echo, _stopped)),
        Figure("short pauses of a reply that went on", *_share(goes_on, _paused)),
        *_times("length of these pauses", [pause.length_ms for pause in holes], {}),
        Figure("resumes at the right word", *_right(holes), target=98, higher=True),
        Figure("missed interruptions", *_share(stops, lambda o: o.missed), target=2),
        Figure("stopped before the caller spoke", *_share(stops, lambda o: o.early)),
        *_times("stop latency", latencies, {95: 350}),
        Figure("cut-off turns", *_of(turns, lambda o: o.cut), target=3),
        Figure("turns never answered", *_of(turns, lambda o: o.lost)),
        *_times("end-of-turn delay", delays, {50: 450, 95: 1000}),
        *_times("... without numbers and spellings", plain, {}),
        Figure("turns made of noise", *_share(quiet, lambda o: o.extra > 0)),
        Figure("... or of what was said beside a reply", *_share(goes_on, lambda o: o.extra > 0)),
    ]


def _stopped(outcome: Outcome) -> bool:
    return outcome.stopped


def _paused(outcome: Outcome) -> bool:
    return bool(outcome.pauses) and not outcome.stopped


def _share(
    outcomes: Sequence[Outcome], is_hit: Callable[[Outcome], bool]
) -> tuple[float | None, str, int]:
    value, count = percent(is_hit(o) for o in outcomes)
    return value, "%", count


def _of(
    outcomes: Sequence[Outcome], hits: Callable[[Outcome], int]
) -> tuple[float | None, str, int]:
    """Share of turns, where an item may hold several."""
    total = sum(o.expected for o in outcomes)
    return (100 * sum(map(hits, outcomes)) / total if total else None), "%", total


def _right(holes: Sequence[Pause]) -> tuple[float | None, str, int]:
    value, count = percent(pause.right for pause in holes if pause.right is not None)
    return value, "%", count


def _times(name: str, values: Sequence[int], targets: Mapping[int, float]) -> list[Figure]:
    return [
        Figure(f"{name} p{p}", percentile(values, p / 100), "ms", len(values), targets.get(p))
        for p in (50, 95)
    ]


_COLUMNS: tuple[str, ...] = (
    "class",
    "expected",
    "failed",
    "stops",
    "pauses",
    "cut",
    "lost",
    "extra",
)
_COLUMNS += ("stop p50/p95", "delay p50/p95")


def table(outcomes: Sequence[Outcome]) -> str:
    """The summary, then every class."""
    rows = [("", "reached", "target", "of")]
    for figure in figures(outcomes):
        sign = ">=" if figure.higher else "<="
        target = "" if figure.target is None else f"{sign} {figure.target:g} {figure.unit}"
        verdict = {True: "ok", False: "MISSED", None: ""}[figure.met]
        rows.append(
            (figure.name, _shown(figure), f"{target:11} {verdict}".rstrip(), str(figure.of))
        )
    classes: list[tuple[str, ...]] = [_COLUMNS]
    kinds = dict.fromkeys(o.kind for o in outcomes)
    classes += [
        _class(kind, [o for o in outcomes if o.kind == kind and o.counts]) for kind in kinds
    ]
    left_out = [o.item for o in outcomes if not o.counts]
    note = f"\nnot counted (served late or broken): {', '.join(left_out)}\n" if left_out else ""
    return f"{_aligned(rows)}\n\n{_aligned(classes)}\n{note}"


def _shown(figure: Figure) -> str:
    if figure.value is None:
        return "n/a"
    return f"{figure.value:.1f} %" if figure.unit == "%" else f"{figure.value:.0f} ms"


def _class(kind: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    stops = [o.stop_ms for o in outcomes if o.stopped and o.stop_ms is not None]
    delays = [delay for o in outcomes for delay in o.delays_ms]
    return (
        kind,
        outcomes[0].expect if outcomes else "",
        f"{sum(o.failed for o in outcomes)}/{len(outcomes)}",
        str(sum(o.stopped for o in outcomes)),
        str(sum(map(_paused, outcomes))),
        str(sum(o.cut for o in outcomes)),
        str(sum(o.lost for o in outcomes)),
        str(sum(o.extra for o in outcomes)),
        _pair(stops),
        _pair(delays),
    )


def _pair(values: Sequence[int]) -> str:
    if not values:
        return ""
    return f"{percentile(values, 0.5):.0f}/{percentile(values, 0.95):.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) if i != 2 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join(lines)


def failures(outcomes: Iterable[Outcome]) -> str:
    """One line for each item that failed: what was wrong, and what the ears had said."""
    return "\n".join(_failure(o) for o in outcomes if o.failed and o.counts)


def _failure(outcome: Outcome) -> str:
    o = outcome
    what = []
    if o.stopped and o.expect == "continue":
        what.append(f"stopped at {o.stop_ms} ms")
    if o.early:
        what.append(f"stopped {-(o.stop_ms or 0)} ms before the caller spoke")
    if o.missed:
        what.append("never stopped" if o.stop_ms is None else f"stopped only at {o.stop_ms} ms")
    what += [
        f"{count} {word}"
        for count, word in ((o.cut, "cut"), (o.lost, "lost"), (o.extra, "extra"))
        if count
    ]
    voice = (
        f"voice peak {o.voice['peak']}, run {o.voice['longest_ms']} ms of {o.voice['voiced_ms']}"
    )
    about = " ".join(f"{key}={value}" for key, value in o.about.items())
    said = "; ".join(f"{at} {text!r}" for at, text in o.turns)
    return f"{o.item} [{about}]: {', '.join(what)} | {voice} | {said}"


def machine() -> str:
    """What this ran on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {model}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}, load {load:.1f}"
    )


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Two runs side by side, and the items that came out otherwise."""
    rows = [("", first["name"], second["name"])]
    other = {f["name"]: f for f in second["figures"]}
    for figure in first["figures"]:
        twin = other.get(figure["name"], {"value": None, "unit": figure["unit"]})
        rows.append((figure["name"], _plain(figure), _plain(twin)))
    verdicts = {o["item"]: o for o in first["outcomes"]}
    changed = []
    for outcome in second["outcomes"]:
        before = verdicts.get(outcome["item"])
        if before is not None and before["failed"] != outcome["failed"]:
            word = "worse " if outcome["failed"] else "better"
            changed.append(f"  {word} {outcome['item']} {outcome['about']}")
    return _aligned(rows) + "\n\n" + "\n".join(sorted(changed) or ["  no item came out otherwise"])


def _plain(figure: Mapping[str, Any]) -> str:
    value = figure["value"]
    return "n/a" if value is None else f"{value:.1f} {figure['unit']}"


def as_json(name: str, outcomes: Sequence[Outcome], **more: Any) -> dict[str, Any]:
    """A run that `compare` can read."""
    return {
        "name": name,
        "machine": machine(),
        **more,
        "figures": [
            {
                "name": f.name,
                "value": f.value,
                "unit": f.unit,
                "of": f.of,
                "target": f.target,
                "met": f.met,
            }
            for f in figures(outcomes)
        ],
        "outcomes": [{**o.as_json(), "failed": o.failed} for o in outcomes],
    }
