"""The labelled corpus, made from recipes: the same seed gives the same sound.

`Builder` has one method for each group of classes; what a class means, and what is expected,
stands in ``docs/benchmarks-turns.md``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from bench.turns import noises, recordings, texts
from bench.turns.items import Channel, Echo, Expect, Item, Span, joined, under
from bench.turns.sound import SPEECH_DB, Sound, at_level, milliseconds, place, samples
from bench.turns.voices import SPEAKERS, Speaker, Voices

SNRS = (5, 10, 20)
LEAD_MS, TAIL_MS = 1200, 2200
"""Noise before and after noisy speech."""
ECHO_GAINS, ECHO_DELAYS = (-15, -20, -25, -30), (80, 160, 300)
GAPS_MS = (700, 950, 1200)


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


class Builder:
    """Makes all items."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices
        self.callers = [s for s in SPEAKERS.values() if s.available and s.name != "joe"]
        """The agent has joe's voice, so callers have another, or joe's at another pitch."""
        self._count = 0

    def build(self) -> list[Item]:
        """The whole corpus, in a fixed order."""
        groups = (
            self._events,
            self._lines,
            self._backchannels,
            self._interruptions,
            self._echoes,
            self._sentences,
            self._slow_talk,
            self._answers,
            self._quiet,
            self._humans,
        )
        return [item for group in groups for item in group()]

    # --- while the agent speaks -----------------------------------------------------------------

    def _events(self) -> Iterator[Item]:
        for name, make in noises.EVENTS.items():
            for number, db in enumerate((-14.0, -20.0, -26.0, -16.0)):
                sound = at_level(make(_rng(name, number)), db)
                yield self._item(f"noise/{name}", sound, (), "continue", level_db=db)

        for (name, text), (number, db) in product(
            texts.VOCAL.items(), enumerate((-16.0, -22.0, -28.0))
        ):
            sound = at_level(self._voices.say(self._cast(3, number)[number], text), db)
            yield self._item(f"noise/{name}", sound, (), "continue", level_db=db)

    def _lines(self) -> Iterator[Item]:
        for name, snr in product((*noises.LINES, "babble"), SNRS):
            sound = self._noise(name, 4500, snr)
            yield self._item(f"line/{name}", sound, (), "continue", snr_db=snr)

    def _backchannels(self) -> Iterator[Item]:
        for number in range(10):
            level = (-18.0, -28.0)[number % 2]
            sound = at_level(noises.hum(_rng("hum", number)), level)
            yield self._item("backchannel/mhm", sound, (), "continue", level_db=level)
        for at, text in enumerate(texts.BACKCHANNELS):
            for number, speaker in enumerate(self._cast(5, at)):
                level = (-18.0, -28.0)[number % 2]
                sound = at_level(self._voices.say(speaker, text), level)
                name = text.strip(".").lower().replace(" ", "-")
                yield self._item(
                    f"backchannel/{name}",
                    sound,
                    (),
                    "continue",
                    level_db=level,
                    speaker=speaker.name,
                )

    def _interruptions(self) -> Iterator[Item]:
        for at, text in enumerate(texts.WORDS):
            for speaker in self._cast(4, at):
                yield self._said("interrupt/word", speaker, text, "stop")
        for at, text in enumerate(texts.INTERRUPTIONS):
            for speaker in self._cast(4, at):
                yield self._said("interrupt/sentence", speaker, text, "stop")
        for at, (name, snr) in enumerate(product(("white", "car", "babble"), SNRS)):
            speaker = self._cast(1, at)[0]
            text = texts.INTERRUPTIONS[at % len(texts.INTERRUPTIONS)]
            said = self._voices.say(speaker, text)
            sound, speech = self._noisy(said, Span(0, len(said), text), name, snr)
            yield self._item(
                "interrupt/noisy",
                sound,
                speech,
                "stop",
                snr_db=snr,
                noise=name,
                speaker=speaker.name,
            )

    def _echoes(self) -> Iterator[Item]:
        empty = np.zeros(samples(7000), np.float32)
        for gain, delay in product(ECHO_GAINS, ECHO_DELAYS):
            echo = Echo(gain, delay)
            yield self._item("echo/alone", empty, (), "continue", echo=echo, wait_ms=0)
            text = (*texts.INTERRUPTIONS, *texts.WORDS)[self._count % 8]
            speaker = self._cast(1, self._count)[0]
            yield self._said("echo/interrupt", speaker, text, "stop", echo=echo)

    # --- while the agent is silent --------------------------------------------------------------

    def _sentences(self) -> Iterator[Item]:
        for at, text in enumerate(texts.SENTENCES):
            for number, speaker in enumerate(self._cast(4, at)):
                level = -28.0 if number == 3 else SPEECH_DB
                yield self._said("turn/sentence", speaker, text, "turns", level=level)
        for at, (name, snr) in enumerate(product(("white", "pink", "car", "babble"), SNRS)):
            speaker, text = self._cast(1, at)[0], texts.SENTENCES[at % len(texts.SENTENCES)]
            said = self._voices.say(speaker, text)
            sound, speech = self._noisy(said, Span(0, len(said), text), name, snr)
            yield self._item(
                "turn/noisy", sound, speech, "turns", snr_db=snr, noise=name, speaker=speaker.name
            )
        for at, pair in enumerate(texts.TWO_TURNS):
            for speaker in self._cast(2, at):
                first, second = (self._voices.say(speaker, text) for text in pair)
                start = len(first) + samples(3500)
                speech = (Span(0, len(first), pair[0]), Span(start, start + len(second), pair[1]))
                sound = place([(0, first), (start, second)])
                yield self._item("turn/two", sound, speech, "turns", speaker=speaker.name)

    def _slow_talk(self) -> Iterator[Item]:
        for scenario, kind, said, gaps in (
            ("number", "turn/number", texts.NUMBERS, GAPS_MS),
            ("spelling", "turn/spelling", texts.SPELLINGS, GAPS_MS),
            ("ask", "turn/hesitation", texts.HESITATIONS, (400, 600, 800)),
        ):
            for at, (pieces, gap) in enumerate(product(said, gaps)):
                speaker = self._cast(1, at)[0]
                parts = [(self._voices.say(speaker, piece), piece) for piece in pieces]
                sound, span = joined(parts, [gap] * (len(parts) - 1))
                yield self._item(
                    kind,
                    sound,
                    (span,),
                    "turns",
                    scenario=scenario,
                    gap_ms=gap,
                    speaker=speaker.name,
                )

    def _answers(self) -> Iterator[Item]:
        for at, text in enumerate(texts.ANSWERS):
            for speaker in self._cast(3, at):
                yield self._said("turn/answer", speaker, text, "turns")

    def _quiet(self) -> Iterator[Item]:
        for name, make in noises.EVENTS.items():
            sound = at_level(make(_rng("quiet", name)), -18)
            yield self._item("quiet/noise", sound, (), "turns", noise=name)
        for name in (*noises.LINES, "babble"):
            sound = self._noise(name, 4000, 10)
            yield self._item("quiet/line", sound, (), "turns", noise=name)

    # --- people ---------------------------------------------------------------------------------

    def _humans(self) -> Iterator[Item]:
        for number, recording in enumerate(recordings.RECORDINGS):
            loaded = recordings.load(recording)
            if loaded is None:
                continue
            sound, span = loaded
            scenario = "number" if recording.use == "numbers" else "ask"
            channels: Sequence[Channel] = ("phone", "wide")
            for channel in channels:
                yield self._item(
                    "human/turn",
                    sound,
                    (span,),
                    "turns",
                    scenario=scenario,
                    channel=channel,
                    recording=recording.name,
                )
            cut = sound[: span.start + samples(2500)]
            heard = Span(span.start, min(span.end, len(cut)), recording.text)
            yield self._item("human/interrupt", cut, (heard,), "stop", recording=recording.name)
            noisy, speech = self._noisy(sound, span, ("pink", "car")[number % 2], 10)
            yield self._item(
                "human/noisy",
                noisy,
                speech,
                "turns",
                scenario=scenario,
                recording=recording.name,
                snr_db=10,
            )

    # --- inside ---------------------------------------------------------------------------------

    def _cast(self, count: int, turn: int) -> list[Speaker]:
        """Callers in rotation, so that every voice says something of everything."""
        return [self.callers[(turn * 2 + k * 2 + k // 4) % len(self.callers)] for k in range(count)]

    def _said(
        self,
        kind: str,
        speaker: Speaker,
        text: str,
        expect: Expect,
        level: float = SPEECH_DB,
        **more: Any,
    ) -> Item:
        sound = at_level(self._voices.say(speaker, text), level)
        span = Span(0, len(sound), text)
        return self._item(
            kind, sound, (span,), expect, speaker=speaker.name, level_db=level, **more
        )

    def _noise(self, name: str, ms: int, snr: float) -> Sound:
        rng = _rng(name, ms, snr)
        if name != "babble":
            return noises.line(name, rng, ms, SPEECH_DB - snr)
        crowd = [
            self._voices.say(speaker, text)
            for speaker, text in zip(self.callers * 2, texts.SENTENCES[:6], strict=False)
        ]
        return noises.babble(crowd, rng, ms, SPEECH_DB - snr)

    def _noisy(
        self, sound: Sound, span: Span, name: str, snr: float
    ) -> tuple[Sound, tuple[Span, ...]]:
        noise = self._noise(name, LEAD_MS + milliseconds(len(sound)) + TAIL_MS, snr)
        return under(sound, (span,), noise, samples(LEAD_MS))

    def _item(
        self,
        kind: str,
        sound: Sound,
        speech: tuple[Span, ...],
        expect: Expect,
        *,
        scenario: str = "",
        channel: Channel | None = None,
        echo: Echo | None = None,
        wait_ms: int | None = None,
        **about: Any,
    ) -> Item:
        number, self._count = self._count, self._count + 1
        rng = _rng(kind, number)
        speaking = expect != "turns"
        wait = int(rng.integers(1200, 3000)) if speaking else int(rng.integers(600, 1000))
        return Item(
            f"{number:03d}-{kind.replace('/', '-')}",
            kind,
            sound.astype(np.float32),
            speech,
            scenario or ("tell" if speaking else "ask"),
            expect,
            channel or ("phone" if rng.integers(2) else "wide"),
            wait if wait_ms is None else wait_ms,
            echo,
            about,
        )
