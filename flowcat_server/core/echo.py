"""The agent's own voice in the caller's microphone: told by its level and by its words.

A loudspeaker's sound comes back weaker than it was sent and a fraction of a second later. So what
is heard while the agent sounds is taken for its echo as long as it is never louder than the agent
just was, less what the way through the room takes. How much that is, is learned from every frame
in which the agent sounded; at first the least is assumed.

Frames are only put aside; they are looked at many at a time, or when somebody asks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from difflib import SequenceMatcher

import numpy as np

from flowcat_server.core.audio import AudioFormat, decode, rms

STEP_MS = 20
"""Resolution."""
BATCH = 25
"""Frames that are looked at together."""
MEMORY = 200
"""Steps that are kept."""
LEAST_LOSS = 4.0
"""Nothing that returns is louder than a fourth of what was sent (-12 dB): a telephone lying on a
table returns -15 dB."""
MARGIN = 2.0
"""How much louder a frame of the echo may be than what has been learned (6 dB)."""
LATEST_STEPS = 23
"""The longest way there and back that is looked for, on top of the delay that is known."""
FLOOR = 3
"""Level below which nothing is heard, not even by a voice detector; full scale is 32768."""
LOUD = 230
"""The way back is learned from what is sent louder than this (-43 dB)."""
EXPLAINED = 0.85
"""Share of the audible frames that have to be explained."""
LEARNED = 40
"""Frames from which the loss is read at least."""
LATEST = 300
"""The same, at most: the latest 6 s in which the agent sounded."""
WORDS_ALIKE = 0.65
_WORD = re.compile(r"[\w']+")


class Echo:
    """What was sent and what is heard, 20 ms by 20 ms. Pure; times are the call's clock."""

    def __init__(self, audio: AudioFormat, said: Callable[[], str]) -> None:
        """Create it.

        Args:
            audio: The format of what is played.
            said: The words that the agent has been saying.
        """
        self._audio = audio
        self._said = said
        self._samples = audio.sample_rate * STEP_MS // 1000
        self._sent: list[tuple[int, bytes]] = []
        self._came: list[tuple[int, bytes]] = []
        """Put aside: when it sounds or ended, and the audio."""
        self._played: dict[int, int] = {}
        """By step, in order: the level that was sent."""
        self._last = -1
        """The last step at which it can be returning."""
        self._heard: dict[int, int] = {}
        self._losses: deque[tuple[int, float]] = deque(maxlen=LATEST)
        """By step, sent to heard."""

    def played(self, at_ms: int, payload: bytes) -> None:
        """The agent's audio will sound from `at_ms` on."""
        sent = self._sent
        sent.append((at_ms, payload))
        if len(sent) >= BATCH:
            self._look()

    def heard(self, at_ms: int, pcm: bytes) -> None:
        """The next of the caller's side, PCM16 that ends at `at_ms`."""
        came = self._came
        came.append((at_ms, pcm))
        if len(came) >= BATCH:
            self._look()

    def cleared(self, at_ms: int) -> None:
        """Of what was played, nothing sounds after `at_ms`."""
        self._look()
        last = at_ms // STEP_MS
        self._played = {step: level for step, level in self._played.items() if step <= last}
        self._last = max(self._played, default=-LATEST_STEPS) + LATEST_STEPS - 1

    def explains(self, from_ms: int, to_ms: int, text: str = "") -> bool:
        """Whether what was heard in this time is the agent's own sound.

        A transcript that repeats the agent's words counts for it, up to the least loss.
        """
        self._look()
        if not self._heard:
            return False
        first = from_ms // STEP_MS + 1
        loss = LEAST_LOSS if text and self.repeats(text) else self._loss(first)
        loud = explained = 0
        end = to_ms // STEP_MS + 1
        for step, peak in zip(range(first, end), self._peaks(first, end), strict=True):
            level = self._heard.get(step, 0)
            if level > FLOOR:
                loud += 1
                explained += level * loss <= peak
        return explained >= EXPLAINED * loud

    def repeats(self, text: str) -> bool:
        """Whether most words of a text are in the agent's, in this order."""
        words = _WORD.findall(text.lower())
        said = _WORD.findall(self._said().lower())
        if len(words) < 2 or not said:
            return False
        blocks = SequenceMatcher(None, words, said, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks) >= WORDS_ALIKE * len(words)

    # --- inside -----------------------------------------------------------------------------

    def _loss(self, before: int) -> float:
        """What the way back takes at least, as far as was known before a step."""
        known = sorted(loss for step, loss in self._losses if step < before)
        if len(known) < LEARNED:
            return LEAST_LOSS
        # The loudest returns of a while; a caller who spoke through them only raises the guess.
        return max(LEAST_LOSS, known[len(known) // 20] / MARGIN)

    def _look(self) -> None:
        """Take the levels of what was put aside."""
        sent, self._sent = self._sent, []
        for at_ms, payload in _joined(sent, self._audio):
            levels = _levels(decode(payload, self._audio.encoding), self._samples)
            self._enter(at_ms // STEP_MS, levels)
        came, self._came = self._came, []
        if self._last < 0 or not came:
            return
        steps = [at_ms // STEP_MS for at_ms, _ in came]
        first, last = min(steps), min(max(steps), self._last)
        if first > last:
            self._heard.clear()  # the agent has been silent for a while
            return
        first = max(first, last - MEMORY)
        peaks = self._peaks(first, last + 1)
        heard, learn = self._heard, self._losses.append
        for step, (_, pcm) in zip(steps, came, strict=True):
            peak = peaks[step - first] if first <= step <= last else -1
            if peak >= 0:
                heard[step] = level = rms(pcm)
                if peak > LOUD:
                    learn((step, peak / max(level, 1)))
        for levels_of in (self._played, heard):
            while len(levels_of) > MEMORY:
                del levels_of[next(iter(levels_of))]

    def _enter(self, first: int, levels: list[int]) -> None:
        """Steps of what is played; each can be returning for a while."""
        self._played.update(zip(range(first, first + len(levels)), levels, strict=True))
        self._last = max(self._last, first + len(levels) + LATEST_STEPS - 2)

    def _peaks(self, first: int, end: int) -> list[int]:
        """The loudest that can be returning at each step; -1: nothing can."""
        played = self._played
        known = [played.get(step, -1) for step in range(first - LATEST_STEPS + 1, end)]
        return [max(known[at : at + LATEST_STEPS]) for at in range(end - first)]


def _levels(pcm: bytes, samples: int) -> list[int]:
    """The root mean square of every `samples` samples of PCM16; a rest counts as a whole one."""
    values = np.frombuffer(pcm, "<i2").astype(np.float32)
    rest = -len(values) % samples
    if rest:
        values = np.concatenate((values, np.zeros(rest, np.float32)))
    rows = values.reshape(-1, samples)
    power = np.einsum("ij,ij->i", rows, rows)
    found: list[int] = np.sqrt(power / samples).astype(int).tolist()
    return found


def _joined(sent: list[tuple[int, bytes]], audio: AudioFormat) -> list[tuple[int, bytes]]:
    """Stretches of audio that sound without a gap, each as one piece."""
    runs: list[tuple[int, list[bytes], int]] = []
    bytes_per_s = audio.sample_rate * audio.sample_bytes
    for at_ms, payload in sent:
        if runs and abs(at_ms - runs[-1][0] - runs[-1][2] * 1000 // bytes_per_s) <= 1:
            start_ms, parts, size = runs[-1]
            parts.append(payload)
            runs[-1] = (start_ms, parts, size + len(payload))
        else:
            runs.append((at_ms, [payload], len(payload)))
    return [(at_ms, b"".join(parts)) for at_ms, parts, _ in runs]
