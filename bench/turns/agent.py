"""The agent on the line: real pipeline, real ears, scripted mind, fixed voice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from bench.turns import texts
from bench.turns.clock import Owed
from bench.turns.sound import Sound, milliseconds
from bench.turns.taps import FixedVoice, Line, TappedVad
from bench.turns.voices import Voices
from flowcat_server.config.load import Loaded, load_text
from flowcat_server.core.agent import Profile
from flowcat_server.core.interfaces import TextToSpeech, Word
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.pipeline import Candidate, Parts
from flowcat_server.providers.http import Http
from flowcat_server.startup import Built, Progress, build

TOPOLOGY = {
    "mode": "cascaded",
    "vad": {"provider": "silero"},
    "stt": {"provider": "whisper"},
    "llm": {"provider": "scripted", "options": {"replies": [texts.SHORT_REPLY]}},
    "tts": {"provider": "scripted"},
}


def _file(scenario: str, settings: Sequence[str]) -> Loaded:
    data: dict[str, Any] = {"prompt": "Help the caller.", "greeting": texts.SCENARIOS[scenario]}
    if scenario in texts.COLLECTS:
        collects = texts.COLLECTS[scenario]
        data |= {"extraction_enabled": True, "extraction_variables": [collects]}
    node = {"id": "start", "type": "startCall", "data": data}
    graph = {"nodes": [node], "edges": []}
    document = {"agent": {"name": "bench", "graph_inline": graph}, "topology": TOPOLOGY}
    return load_text(json.dumps(document), Path("bench.yaml"), settings=settings, environ={})


def sentences(text: str) -> list[str]:
    """A text as the pipeline cuts it for the voice."""
    splitter = SentenceSplitter()
    return [piece for piece in [*splitter.feed(text), splitter.flush()] if piece]


def lines(voices: Voices) -> dict[str, Line]:
    """Everything the agent can say in a run."""
    turn = _file("tell", ()).config.turn
    said = [
        *texts.SCENARIOS.values(),
        texts.SHORT_REPLY,
        *turn.dead_air.filler,
        *turn.dead_air.say,
        *turn.idle.say,
    ]
    pieces = [piece for text in said for piece in sentences(text)]
    return {piece: Line(*voices.agent(piece)) for piece in dict.fromkeys(pieces)}


@dataclass
class Bench:
    """Loaded models and one set of parts for each scenario."""

    parts: dict[str, Parts]
    vad: TappedVad
    _built: Built
    _http: Http

    async def close(self) -> None:
        await self._built.close()
        with suppress(AttributeError):
            await self._http.close()


async def start(settings: Sequence[str], known: dict[str, Line], owed: Owed | None) -> Bench:
    """Load the models once; `settings` are ``key=value`` of the agent file."""
    http = Http()
    files = {scenario: _file(scenario, settings) for scenario in texts.SCENARIOS}
    built = await build(files["tell"], http, Progress(StringIO()))
    if built.parts.vad is None:
        raise RuntimeError("no voice detector")
    vad = TappedVad(built.parts.vad, owed)
    voice: Candidate[TextToSpeech] = Candidate("fixed", FixedVoice(known))
    parts = {
        scenario: replace(
            built.parts,
            config=file.config,
            profile=Profile("bench", file.graph, {}, built.parts.toolbox.specs),
            vad=vad,
            tts=[voice],
        )
        for scenario, file in files.items()
    }
    return Bench(parts, vad, built, http)


def reply_words(known: dict[str, Line]) -> list[Word]:
    """The words of the long reply, timed from its first sample."""
    words, at = [], 0
    for line in (known[piece] for piece in sentences(texts.LONG_REPLY)):
        words += [Word(w.text, w.start_ms + at, w.end_ms + at) for w in line.words]
        at += milliseconds(len(line.sound))
    return words


def reply_sound(known: dict[str, Line]) -> Sound:
    """The long reply as it sounds."""
    return np.concatenate([known[piece].sound for piece in sentences(texts.LONG_REPLY)])
