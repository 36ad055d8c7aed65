"""``flowcat-server bench``: how many calls does this server hold?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowcat_server.cli.console import paint
from flowcat_server.cli.speech import read_speech
from flowcat_server.errors import FlowcatError

if TYPE_CHECKING:  # what it runs is slow to import: only where it is used
    from flowcat_server.cli.load.run import Outcome, Plan

URL = "http://127.0.0.1:6210"
LATEST_MS = 20.0
"""A frame of 20 ms that is later than this has missed its place."""
OWN_MS = 5.0
"""Callers that are later than this themselves say nothing about the server."""
CALLS = 20
STEPS = (5, 10, 20, 40, 70, 100, 150, 200, 300, 400, 600, 800, 1000)
MOST_CALLS = 5000
_WHAT = """\
Calls a server of yours over Twilio's media wire, each call with a frame every 20 ms, and says
whether it held them: 99 of 100 frames within 20 ms, nothing lost. Of an echo (topology.mode: echo)
each frame is accounted for; of an agent's speech, how late it comes for a listener without a
buffer. Exit code 0: held; 1: not. Webhooks are signed with TWILIO_AUTH_TOKEN if that is set."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bench",
        help="telephone a running server with many calls at once",
        description=_WHAT,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("url", nargs="?", default=URL, metavar="URL", help=f"default {URL}")
    parser.add_argument(
        "--calls", type=_count, metavar="N", help="at once, default 20; with --find: at most"
    )
    parser.add_argument(
        "--find", action="store_true", help="more and more calls until they are not held"
    )
    parser.add_argument("--seconds", type=_seconds, default=10.0, metavar="S", help="default 10")
    parser.add_argument(
        "--ramp", type=_seconds, default=20.0, metavar="N",
        help="calls begun each second, default 20",
    )  # fmt: skip
    parser.add_argument(
        "--speech", metavar="FILE", help="WAV (8 kHz, 16 bits, mono) that callers say to an agent"
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=run)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_CALLS:
        raise argparse.ArgumentTypeError(f"must be between 1 and {MOST_CALLS}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 1 and 3600")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Measure, and say so."""
    from flowcat_server.cli.load.run import Plan, start

    def plan(calls: int) -> Plan:
        return Plan(
            _base(arguments.url),
            calls,
            arguments.seconds,
            arguments.ramp,
            speech,
            os.environ.get("TWILIO_AUTH_TOKEN", ""),
        )

    speech = _speech(Path(arguments.speech)) if arguments.speech else b""
    steps: list[int] = [arguments.calls or CALLS]
    if arguments.find:
        most = arguments.calls or STEPS[-1]
        steps = [*(step for step in STEPS if step < most), most]
    outcomes = []
    for calls in steps:
        outcome = start(plan(calls))
        outcomes.append(outcome)
        if not arguments.json:
            print("\n".join(_lines(outcome)))
        if faults(outcome):
            break
    held = [outcome for outcome in outcomes if not faults(outcome)]
    if arguments.json:
        print(json.dumps([_as_json(outcome) for outcome in outcomes], indent=2))
    else:
        print(_verdict(outcomes[-1], held[-1].plan.calls if held else 0))
    return 0 if held and (arguments.find or held == outcomes) else 1


def _base(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FlowcatError(f"{url!r} is not the URL of a server, such as {URL}")
    return f"{parts.scheme}://{parts.netloc}"


def _speech(file: Path) -> bytes:
    from flowcat_server.core.audio import encode

    return encode(read_speech(file), "mulaw")


# --- what came of it --------------------------------------------------------------------------


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds; None: there is nothing."""
    values = sorted(seconds)
    if not values:
        return None

    def at(share: float) -> float:
        rank = max(0, min(len(values) - 1, -int(-len(values) * share // 1) - 1))
        return round(values[rank] * 1000, 2)

    return {
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
        "max": round(values[-1] * 1000, 2),
    }  # fmt: skip


def faults(outcome: Outcome) -> list[str]:
    """Why the calls were not held; empty: they were."""
    measures, plan = outcome.measures, outcome.plan
    found = [f"{count} calls: {reason}" for reason, count in outcome.lost.items()]
    if not found and outcome.live < plan.calls:
        found.append(f"{plan.calls - outcome.live} calls did not come up")
    if measures.doubled:
        found.append(f"{measures.doubled} frames doubled")
    if measures.unreadable:
        found.append(f"{measures.unreadable} unreadable messages")
    if outcome.echoes and (lost := measures.sent - measures.echoed):
        found.append(f"{lost} frames lost")
    late = spread(measures.echo if outcome.echoes else measures.late)
    if late and late["p99"] > LATEST_MS:
        found.append(f"p99 {late['p99']:.0f} ms")
    if not outcome.echoes and not measures.heard and not measures.first:
        found.append("nothing was heard of the server")
    return found


def _rows(outcome: Outcome) -> dict[str, dict[str, float] | None]:
    measures = outcome.measures
    return {
        "echo": spread(measures.echo),
        "late": spread(measures.late),
        "answer": spread(measures.answers),
        "first audio": spread(measures.first),
        "callers late": spread(measures.own),
    }


def _as_json(outcome: Outcome) -> dict[str, Any]:
    measures = outcome.measures
    return {
        "calls": outcome.plan.calls,
        "live": outcome.live,
        "held": not faults(outcome),
        "faults": faults(outcome),
        "frames": {
            "sent": measures.sent, "echoed": measures.echoed, "heard": measures.heard,
            "doubled": measures.doubled,
        },
        "asked": measures.asked,
        "ms": _rows(outcome),
        "cores": outcome.cpu,
        "rss_kb": outcome.after.rss_kb if outcome.after else None,
    }  # fmt: skip


def _lines(outcome: Outcome) -> list[str]:
    measures = outcome.measures
    heard = f"{measures.echoed} came back" if outcome.echoes else f"{measures.heard} were heard"
    lines = [
        f"{outcome.plan.calls} calls, {outcome.live} up at the end; "
        f"{measures.sent} frames sent, {heard}",
        f"{'ms':>14} {'p50':>9} {'p90':>9} {'p99':>9} {'p99.9':>9} {'max':>9}",
    ]
    for name, values in _rows(outcome).items():
        if values is not None:
            numbers = " ".join(f"{value:9.2f}" for value in values.values())
            lines.append(f"{name:>14} {numbers}")
    if outcome.cpu is not None and outcome.after and outcome.before:
        grown = (outcome.after.rss_kb - outcome.before.rss_kb) / outcome.plan.calls
        lines.append(
            f"{'server':>14} {outcome.cpu:.2f} cores, {outcome.after.rss_kb / 1024:.0f} MB, "
            f"{grown:.0f} KB a call"
        )
    return lines


def _verdict(last: Outcome, held: int) -> str:
    found = faults(last)
    own = spread(last.measures.own)
    text = f"holds {held} calls with p99 within {LATEST_MS:.0f} ms and nothing lost"
    verdict = paint(text, "green", sys.stdout) if held else ""
    if found:
        reasons = "; ".join(found)
        no = paint(f"does not hold {last.plan.calls} calls", "red", sys.stdout)
        verdict = f"{verdict}\n{no}: {reasons}".strip()
    if own and own["p99"] > OWN_MS:
        verdict += (
            f"\nthe callers were late themselves (p99 {own['p99']:.0f} ms): take fewer, or call "
            "from another machine"
        )
    return verdict
