"""The agent's own voice in the caller's microphone: told by its level and by its words.

A loudspeaker's sound comes back weaker than it was sent and a fraction of a second later. So what
is heard while the agent sounds is taken for its echo as long as it is never louder than the agent
just was, less what the way through the room takes. How much that is, is learned from every frame
in which the agent sounded; at first the least is assumed.

Of each frame only the level is kept; what it says is looked at many at a time, or when somebody
asks. All this is done in few steps: it is done for every frame of every call.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from difflib import SequenceMatcher

from flowcat_server.core.audio import PCM_BYTES, AudioFormat, decode, level

STEP_MS = 20
"""Resolution."""
BATCH = 25
"""Frames that are looked at together, and after the agent's last one are waited for."""
SENT_BATCH = 5
"""Frames of the agent's whose levels are taken together: few, for they are kept until then."""
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
_BETWEEN = " \t\n.,;:!?\u2026-\u2013\u2014"


class _Levels:
    """The levels of the last `MEMORY` steps; -1: nothing was entered for this step."""

    __slots__ = ("_first", "_levels")

    def __init__(self) -> None:
        self._levels = array("i")
        self._first = 0
        """The step of the first of them."""

    @property
    def end(self) -> int:
        """Behind the newest step; 0: nothing was entered."""
        return self._first + len(self._levels) if self._levels else 0

    def enter(self, first: int, levels: list[int]) -> None:
        """Levels of steps from `first` on; of two for one step the louder."""
        known = self._levels
        gap = first - self._first - len(known)
        if not known or gap > MEMORY:
            self._levels = array("i", levels)
            self._first = first
        elif gap >= 0:
            if gap:
                known.extend([-1] * gap)
            known.extend(levels)
        else:
            for at, loudness in enumerate(levels, first - self._first):
                if at >= len(known):
                    known.append(loudness)
                elif at >= 0 and loudness > known[at]:
                    known[at] = loudness
        if len(known) > 2 * MEMORY:
            self._first += len(known) - MEMORY
            del known[:-MEMORY]

    def between(self, first: int, end: int) -> list[int]:
        """The levels of some steps; -1 where one is not known."""
        known, size = self._levels, end - first
        start = first - self._first
        oldest = max(start, 0, len(known) - MEMORY)
        found = known[oldest : max(0, start + size)].tolist()
        if oldest > start:
            found = [-1] * min(oldest - start, size) + found
        return found + [-1] * (size - len(found)) if len(found) < size else found

    def cut(self, last: int) -> None:
        """Forget what is behind a step."""
        del self._levels[max(0, last + 1 - self._first) :]

    def clear(self) -> None:
        """Forget everything."""
        self._levels = array("i")


class Echo:
    """What was sent and what is heard, 20 ms by 20 ms. Pure; times are the call's clock."""

    __slots__ = (
        "_came",
        "_came_first",
        "_encoding",
        "_heard",
        "_last",
        "_losses",
        "_pcm_bytes",
        "_played",
        "_said",
        "_sent",
        "_sent_bytes",
        "_step_bytes",
    )

    def __init__(self, audio: AudioFormat, said: Callable[[], str]) -> None:
        """Create it.

        Args:
            audio: The format of what is played.
            said: The words that the agent has been saying.
        """
        self._encoding = audio.encoding
        self._said = said
        self._step_bytes = audio.bytes_for(STEP_MS)
        self._pcm_bytes = self._step_bytes // audio.sample_bytes * PCM_BYTES
        self._sent: list[tuple[int, bytes]] = []
        """By first step, audio whose levels are not known yet."""
        self._sent_bytes = 0
        self._came: list[int] = []
        """Levels that have not been looked at, of one step after the other."""
        self._came_first = 0
        """The first of these steps."""
        self._played = _Levels()
        """What was sent."""
        self._last = -1
        """The last step at which it can be returning."""
        self._heard = _Levels()
        self._losses: list[tuple[int, float]] = []
        """By step, sent to heard."""

    def played(self, at_ms: int, payload: bytes) -> None:
        """The agent's audio will sound from `at_ms` on."""
        step, size, step_bytes = at_ms // STEP_MS, len(payload), self._step_bytes
        self._sent.append((step, payload))
        last = step - -size // step_bytes + LATEST_STEPS - 2
        if last > self._last:
            self._last = last
        self._sent_bytes = size = self._sent_bytes + size
        if size >= SENT_BATCH * step_bytes:
            self._meter()

    def heard(self, at_ms: int, pcm: bytes) -> None:
        """The next of the caller's side, PCM16 that ends at `at_ms`."""
        step = at_ms // STEP_MS
        if step <= self._last:
            came, loudness = self._came, level(pcm, PCM_BYTES)
            ahead = step - self._came_first - len(came)
            if not ahead:
                came.append(loudness)
                if len(came) >= BATCH:
                    self._look()
            elif ahead == -1 and came:  # frames that are shorter than a step
                came[-1] = max(came[-1], loudness)
            else:
                self._look()
                self._came_first = step
                self._came.append(loudness)
        elif self._heard.end and step > self._last + BATCH:
            self._look()
            self._heard.clear()  # the agent has been silent for a while

    def cleared(self, at_ms: int) -> None:
        """Of what was played, nothing sounds after `at_ms`."""
        self._look()
        last = at_ms // STEP_MS
        self._played.cut(last)
        self._last = min(self._last, last + LATEST_STEPS - 1)

    def explains(self, from_ms: int, to_ms: int, text: str = "") -> bool:
        """Whether what was heard in this time is the agent's own sound.

        A transcript that repeats the agent's words counts for it, up to the least loss.
        """
        self._look()
        if not self._heard.end:
            return False
        first = from_ms // STEP_MS + 1
        loss = LEAST_LOSS if text and self.repeats(text) else self._loss(first)
        loud = explained = 0
        end = to_ms // STEP_MS + 1
        heard = self._heard.between(first, end)
        for loudness, peak in zip(heard, self._peaks(first, end), strict=True):
            if loudness > FLOOR:
                loud += 1
                explained += loudness * loss <= peak
        return explained >= EXPLAINED * loud

    def repeats(self, text: str) -> bool:
        """Whether most words of a text are in the agent's, in this order."""
        words = _WORD.findall(text.lower())
        said = _WORD.findall(self._said().lower())
        if len(words) < 2 or not said:
            return False
        blocks = SequenceMatcher(None, words, said, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks) >= WORDS_ALIKE * len(words)

    def after(self, text: str, most: int) -> str:
        """A transcript without the agent's words at its front, which are `most` at most."""
        found = list(_WORD.finditer(text))
        words = [word[0].lower() for word in found]
        said = _WORD.findall(self._said().lower())
        matcher = SequenceMatcher(None, words, said, autojunk=False)
        theirs = alike = 0
        shift = None
        for block in matcher.get_matching_blocks():
            if not block.size or block.a + block.size > most:
                break
            if shift is not None and abs(block.b - block.a - shift) > 1:
                break  # the agent says these words elsewhere
            shift = block.b - block.a
            alike += block.size
            if alike >= WORDS_ALIKE * (block.a + block.size):
                theirs = block.a + block.size
        if theirs < 2:
            return text
        return text[found[theirs - 1].end() :].lstrip(_BETWEEN)

    # --- inside -----------------------------------------------------------------------------

    def _loss(self, before: int) -> float:
        """What the way back takes at least, as far as was known before a step."""
        known = sorted(loss for step, loss in self._losses if step < before)
        if len(known) < LEARNED:
            return LEAST_LOSS
        # The loudest returns of a while; a caller who spoke through them only raises the guess.
        return max(LEAST_LOSS, known[len(known) // 20] / MARGIN)

    def _meter(self) -> None:
        """Take the levels of what was sent."""
        sent, self._sent, self._sent_bytes = self._sent, [], 0
        if not sent:
            return
        pcm = decode(b"".join([payload for _, payload in sent]), self._encoding)
        size, scale = self._pcm_bytes, self._pcm_bytes // self._step_bytes
        levels: list[int] = []
        begun = start = 0
        for first, payload in sent:
            if first != begun + len(levels):  # it does not go on where the last one ended
                self._played.enter(begun, levels)
                begun, levels = first, []
            end = start + len(payload) * scale
            while start < end:
                levels.append(level(pcm[start : min(start + size, end)], PCM_BYTES))
                start += size
            start = end
        self._played.enter(begun, levels)

    def _look(self) -> None:
        """Learn from what was put aside."""
        self._meter()
        came, first = self._came, self._came_first
        self._came, self._came_first = [], first + len(came)
        # What was cut off meanwhile returns no more.
        del came[max(0, self._last + 1 - first) :]
        if not came:
            return
        peaks = self._peaks(first, first + len(came))
        if -1 not in peaks:
            self._heard.enter(first, came)
        else:
            for step, (loudness, peak) in enumerate(zip(came, peaks, strict=True), first):
                if peak >= 0:
                    self._heard.enter(step, [loudness])
        if max(peaks) > LOUD:
            losses = self._losses
            losses += [
                (step, peak / max(loudness, 1))
                for step, (loudness, peak) in enumerate(zip(came, peaks, strict=True), first)
                if peak > LOUD
            ]
            del losses[:-LATEST]

    def _peaks(self, first: int, end: int) -> list[int]:
        """The loudest that can be returning at each step; -1: nothing can."""
        known = self._played.between(first - LATEST_STEPS + 1, end)
        return [max(known[at : at + LATEST_STEPS]) for at in range(end - first)]
