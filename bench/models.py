"""What the local models cost: processor time for a second of speech, a question, a pause.

    python -m bench.models [--write docs/benchmarks.md]

Builds the default agent, has its voice say a few sentences that it has not kept, its ears decode
them, and its mind answer them. Processor time is that of all threads and child processes; each
piece of work runs alone, so that its time on the wall is what one caller waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from bench.response import QUESTIONS
from bench.turns.report import machine
from bench.wire.report import write
from flowcat_server.config.load import load
from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import MULAW_8K, PCM_16K, Transcoder
from flowcat_server.core.interfaces import Message, TextToSpeech
from flowcat_server.errors import AssetError
from flowcat_server.pipeline import Parts
from flowcat_server.providers.http import Http
from flowcat_server.providers.stt.whisper import Whisper
from flowcat_server.providers.turn.smart_turn import SmartTurn, SmartTurnOptions
from flowcat_server.startup import Progress, build

AGENT = Path(__file__).parents[1] / "configs" / "default.yaml"
BEGIN, END = "<!-- measured: models -->", "<!-- end of measured: models -->"
ASKED = QUESTIONS[:10]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work, in milliseconds."""

    what: str
    unit: str
    cpu: float
    wall: float

    def row(self) -> str:
        """A line of the table."""
        return f"| {self.what} | {self.unit} | {self.cpu:.0f} | {self.wall:.0f} |"


def processor_s() -> float:
    """Time of this process and of those it has started."""
    return time.process_time() + sum(_child_s(child) for child in _children(os.getpid()))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_children(int(child))]
    return found


def _child_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Meter:
    """What a block of work takes."""

    def __enter__(self) -> Meter:
        self._cpu, self._wall = processor_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu = processor_s() - self._cpu
        self._wall = time.perf_counter() - self._wall

    def cost(self, what: str, unit: str, amount: float) -> Cost:
        """Of one unit, when `amount` of them were done."""
        return Cost(what, unit, self._cpu * 1000 / amount, self._wall * 1000 / amount)


@asynccontextmanager
async def agent() -> AsyncIterator[Parts]:
    """The default agent's parts, warm."""
    http = Http()
    built = await build(load(AGENT), http, Progress(io.StringIO()))
    try:
        yield built.parts
    finally:
        await built.close()
        await http.close()


async def measure() -> list[Cost]:
    """All models of the default agent, and smart-turn where it is installed."""
    async with agent() as parts:
        voice, ears, mind = parts.tts[0].plug, parts.stt[0].plug, parts.llm[0].plug
        assert isinstance(ears, Whisper)
        with Meter() as speaking:
            said = [await _say(voice, text.replace("?", ", please?")) for text in ASKED]
        to_16k = Transcoder(voice.formats[0], PCM_16K)
        heard = [to_16k.feed(piece) for piece in said]
        seconds = sum(map(len, heard)) / PCM_16K.bytes_for(1000)
        with Meter() as hearing:
            for pcm in heard:
                await ears.hear(pcm, "caller")
        talker = Agent(parts.profile)
        with Meter() as thinking:
            for text in ASKED:
                request = talker.request("bench", [Message("user", text)])
                async for _ in mind.reply(request):
                    pass
    return [
        speaking.cost("Piper, the voice", "a second of speech", seconds),
        hearing.cost("Whisper tiny.en, the ears", "a second of a turn", seconds),
        thinking.cost("intents, the mind", "a question", len(ASKED)),
        *await _smart_turn(heard),
    ]


async def _say(voice: TextToSpeech, text: str) -> bytes:
    async with voice.open(voice.formats[0]) as opened:
        return b"".join([piece.audio async for piece in opened.synthesize(text)])


async def _smart_turn(heard: Sequence[bytes]) -> list[Cost]:
    judge = SmartTurn(SmartTurnOptions.model_validate({}))
    try:
        await judge.start()
    except AssetError:
        return []
    to_phone = Transcoder(PCM_16K, MULAW_8K)
    sounds = [to_phone.feed(pcm) for pcm in heard]
    await judge.finished(sounds[0], MULAW_8K, "caller")
    with Meter() as judging:
        for sound in sounds:
            await judge.finished(sound, MULAW_8K, "caller")
    await judge.close()
    return [judging.cost("smart-turn, if it is named", "a pause", len(sounds))]


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    lines = ["| model | of | ms of a core | ms on the wall |", "|---|---|--:|--:|"]
    lines += [each.row() for each in asyncio.run(measure())]
    text = "\n".join([*lines, "", f"{machine()}."])
    print(text)
    if arguments.write:
        write(arguments.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
