"""``python -m bench.turns``: see `docs/benchmarks-turns.md`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

from bench.turns import agent, recordings, report
from bench.turns.corpus import Builder
from bench.turns.items import Item, spread
from bench.turns.run import Trace, run
from bench.turns.score import Outcome, locator, score
from bench.turns.sound import Sound, from_pcm, write_wav
from bench.turns.taps import Line
from bench.turns.voices import SPEAKERS, Voices
from flowcat_server.core.audio import MULAW_8K, PCM_16K, Transcoder

QUICK = 4
"""Items of a class in a quick run."""
RETRIES = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} items of a class")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KIND",
        help="classes to run, such as noise, turn/number or '*/noisy'",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the agent file, such as turn.interruption.min_speech=300ms",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole result")
    parser.add_argument(
        "--wav", type=Path, metavar="DIR", help="write the corpus with its labels, and run nothing"
    )
    parser.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="two results")
    parser.add_argument(
        "--realtime", action="store_true", help="one call at a time, on the wall clock"
    )
    parser.add_argument("--fetch", action="store_true", help="download the recordings of people")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    if arguments.compare:
        first, second = (json.loads(path.read_text()) for path in arguments.compare)
        print(report.compare(first, second))
        return 0
    if arguments.fetch:
        failed = recordings.fetch()
        print("\n".join(failed) or "the recordings are here")
        return bool(failed)
    with Voices() as voices:
        items = _chosen(Builder(voices).build(), arguments.only, arguments.quick)
        known = agent.lines(voices)
    _notices()
    if arguments.wav:
        return _write(items, arguments.wav)
    if not items:
        print("no such class", file=sys.stderr)
        return 2
    return _measure(items, known, arguments)


def _measure(items: Sequence[Item], known: dict[str, Line], arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    outcomes, stuck = _outcomes(items, known, arguments.config, realtime=arguments.realtime)
    took = time.monotonic() - begun
    print(report.table(outcomes))
    print("failed:\n" + report.failures(outcomes))
    clock = "wall clock" if arguments.realtime else "processor time"
    print(f"\n{len(items)} items in {took:.0f} s, {clock}; {report.machine()}")
    if stuck:
        print(f"THE CLOCK WAS STUCK {stuck} TIMES: these figures mean nothing", file=sys.stderr)
    if arguments.json:
        name = " ".join(arguments.config) or "default"
        result = report.as_json(
            name,
            outcomes,
            clock=clock,
            settings=arguments.config,
            version=version("flowcat-server"),
        )
        arguments.json.write_text(json.dumps(result, indent=1))
    return bool(stuck)


def _outcomes(
    items: Sequence[Item], known: dict[str, Line], settings: Sequence[str], *, realtime: bool
) -> tuple[list[Outcome], int]:
    """Every item's outcome; what did not count is tried again."""
    words, locate = agent.reply_words(known), locator(agent.reply_sound(known), _decoded)
    found: dict[str, Outcome] = {}
    stuck = 0

    def take(item: Item, trace: Trace) -> None:
        found[item.id] = score(item, trace, words, locate)
        if sys.stderr.isatty():
            print(f"\r{len(found)}/{len(items)} {item.id:40}", end="", file=sys.stderr)

    left = list(items)
    for _ in range(1 + RETRIES):
        stuck = run(left, known, settings, take, realtime=realtime)
        left = [item for item in items if not found[item.id].counts]
        if not left:
            break
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return [found[item.id] for item in items], stuck


def _decoded(payload: bytes, encoding: str) -> Sound:
    source = MULAW_8K if encoding == "mulaw" else PCM_16K
    return from_pcm(Transcoder(source, PCM_16K).feed(payload), PCM_16K.sample_rate)


def _chosen(items: Sequence[Item], only: Sequence[str], quick: bool) -> list[Item]:
    chosen = [
        item
        for item in items
        if not only or any(fnmatch(item.kind, p) or fnmatch(item.kind, p + "/*") for p in only)
    ]
    return spread(chosen, QUICK) if quick else chosen


def _notices() -> None:
    absent = sorted({s.engine for s in SPEAKERS.values() if not s.available})
    if absent:
        print(f"without the voices of {', '.join(absent)} (not installed)", file=sys.stderr)
    if recordings.missing():
        print("without recordings of people: python -m bench.turns --fetch", file=sys.stderr)


def _write(items: Sequence[Item], folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        write_wav(folder / f"{item.id}.wav", item.sound)
    labels = [item.labels() for item in items]
    (folder / "labels.json").write_text(json.dumps(labels, indent=1))
    print(f"{len(items)} items and labels.json in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
