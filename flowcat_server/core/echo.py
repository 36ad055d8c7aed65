"""The agent's own voice in the caller's microphone: told by its level and by its words.

A loudspeaker's sound comes back weaker than it was sent and a fraction of a second later. So what
is heard while the agent sounds is taken for its echo as long as it is never louder than the agent
just was, less what the way through the room takes. How much that is, is learned from every frame
in which the agent sounded; at first the least is assumed.

Of each frame only the level is kept; what it says is looked at many at a time, or when somebody
asks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from difflib import SequenceMatcher

from flowcat_server.core.audio import AudioFormat, decode, rms

STEP_MS = 20
"""Resolution."""
PCM_BYTES = 2
"""Of one sample."""
BATCH = 25
"""Frames that are looked at together, and after the agent's last one are waited for."""
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
        self._encoding = audio.encoding
        self._said = said
        self._step_bytes = audio.sample_rate * STEP_MS // 1000 * PCM_BYTES
        self._came: list[tuple[int, int]] = []
        """By step, levels that have not been looked at."""
        self._played: dict[int, int] = {}
        """By step, in order: the level that was sent."""
        self._last = -1
        """The last step at which it can be returning."""
        self._heard: dict[int, int] = {}
        self._losses: deque[tuple[int, float]] = deque(maxlen=LATEST)
        """By step, sent to heard."""

    def played(self, at_ms: int, payload: bytes) -> None:
        """The agent's audio will sound from `at_ms` on."""
        pcm, size = decode(payload, self._encoding), self._step_bytes
        step = at_ms // STEP_MS
        played = self._played
        for start in range(0, len(pcm), size):
            level = rms(pcm[start : start + size])
            played[step] = max(level, played.get(step, 0))
            step += 1
        while len(played) > MEMORY:
            del played[next(iter(played))]
        self._last = max(self._last, step + LATEST_STEPS - 2)

    def heard(self, at_ms: int, pcm: bytes) -> None:
        """The next of the caller's side, PCM16 that ends at `at_ms`."""
        step = at_ms // STEP_MS
        if step <= self._last:
            came = self._came
            came.append((step, rms(pcm)))
            if len(came) >= BATCH:
                self._look()
        elif self._heard and step > self._last + BATCH:
            self._look()
            self._heard.clear()  # the agent has been silent for a while

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
        """Learn from what was put aside."""
        came, self._came = self._came, []
        if not came:
            return
        # What was cut off meanwhile returns no more.
        last = min(self._last, max(step for step, _ in came))
        first = max(min(step for step, _ in came), last - MEMORY)
        peaks = self._peaks(first, last + 1)
        heard, learn = self._heard, self._losses.append
        for step, level in came:
            peak = peaks[step - first] if first <= step <= last else -1
            if peak >= 0:
                heard[step] = level
                if peak > LOUD:
                    learn((step, peak / max(level, 1)))
        while len(heard) > MEMORY:
            del heard[next(iter(heard))]

    def _peaks(self, first: int, end: int) -> list[int]:
        """The loudest that can be returning at each step; -1: nothing can."""
        played = self._played
        known = [played.get(step, -1) for step in range(first - LATEST_STEPS + 1, end)]
        return [max(known[at : at + LATEST_STEPS]) for at in range(end - first)]
