"""Who answered a call that we made: a person, or a machine that plays a greeting and records.

Theory of operation. People answer with a word or a short sentence and wait; machines speak on,
and at the end there is a tone. Of the callee's first seconds this measures, in steps of 20 ms,
whether there is voice, and gathers it in *stretches*: voice with pauses shorter than `GAP_MS`.

    nothing for SILENCE_MS ------------------------------------------> unknown
    a stretch up to SHORT_MS, then GAP_MS of silence ----------------> human
    a longer one, then LONG_GAP_MS of silence -----------------------> human
    a stretch of LONG_MS, voice for most of it ----------------------> machine
    a pure tone that holds pitch and level for TONE_MS --------------> machine (fax at 2100 Hz)
    words that only machines say ------------------------------------> machine
    words that only people say, while nothing else is known ---------> human

What a person is taken for by the length of an answer is provisional: short greetings of machines
end like a person's. Until `LISTEN_MS` a tone or a machine's words turn it round, never the other
way. Nothing here waits or reads a clock: times are those of the audio.

The lengths are those of other detectors, moved towards patience with people who answer for a
company: https://docs.asterisk.org/Latest_API/API_Documentation/Dialplan_Applications/AMD/ ends a
greeting at 800 ms of silence and calls 1.5 s a machine;
https://www.twilio.com/docs/voice/answering-machine-detection takes 2.4 s for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

import numpy as np

from flowcat_server.core.audio import PCM_8K, rms
from flowcat_server.core.carrier import Answerer
from flowcat_server.core.language import TurnWords

STEP_MS = 20
VOICED_STEPS = 4
"""Steps above the threshold in a row that are voice; less is a click."""
SILENT_STEPS = 10
"""Steps below it in a row that are a pause."""
GAP_MS = 800
LONG_GAP_MS = 1_200
SHORT_MS = 1_800
LONG_MS = 4_000
VOICED_SHARE = 0.6
"""Of a long stretch so much has to be voice: who says "hello?" again and again is a person."""
SILENCE_MS = 3_500
LISTEN_MS = 12_000
OVER_MS = 1_800
"""After so much silence a machine's greeting is over, though there was no tone."""
TAIL_MS = 250
"""After the tone, machines need a moment to begin to record."""

LEAST_DB, MOST_DB, ABOVE_DB = -48.0, -25.0, 9.0
"""Of full scale: the threshold of voice, which is so much above the noise, but never lower or
higher than those. The first step is noise, until something is quieter."""
RISE_DB, LOUD_RISE_DB = 0.03, 0.005
"""How fast the noise is believed to rise, per step, in silence and in what seems to be voice; a
lower level is believed at once."""

TONE_MS = 140
"""Of whole windows that hold it: a tone of 180 ms."""
TONE_MOST_MS = 2_500
TONE_HZ = (350.0, 2_050.0)
FAX_HZ = (2_075.0, 2_125.0)
"""The answering tone of fax machines and modems (ITU-T T.30, CED; V.25, ANS)."""
FAX_MS = 800
PURITY = 0.85
"""Share of the energy within `BINS` of the strongest frequency."""
BINS = 2
SWING_DB = 2.0
"""A tone's level is constant; a sung vowel's is not."""
_WINDOW_STEPS = 2
_STEP_BYTES = PCM_8K.bytes_for(STEP_MS)
_WINDOW = np.hanning(_WINDOW_STEPS * _STEP_BYTES // 2)
_BIN_HZ = PCM_8K.sample_rate / len(_WINDOW)


@dataclass(slots=True, frozen=True)
class Verdict:
    """Who answered, as far as is known."""

    answerer: Answerer
    why: str
    """``short answer``, ``long greeting``, ``tone``, ``words`` or ``silence``."""


class AnswerDetector:
    """Listens to the beginning of one call. Feed it the callee's audio, and words if there are."""

    def __init__(self, words: TurnWords | None = None) -> None:
        self._words = words
        self._rest = b""
        self._before = b""
        """The step before, for the window of the tone."""
        self._begun_ms: int | None = None
        self._now_ms = 0
        self._floor = 0.0
        self._loud = self._quiet = 0
        """Steps in a row above and below the threshold."""
        self._voice = False
        self._stretch_ms: int | None = None
        """Where the stretch under way began."""
        self._voiced_ms = 0
        """Voice in it."""
        self._last_voice_ms: int | None = None
        self._tone = _Tone()
        self._tone_ended_ms: int | None = None
        self.verdict: Verdict | None = None

    @property
    def done(self) -> bool:
        """Nothing that is still said can change the verdict."""
        sure = self.verdict is not None and self.verdict.answerer in ("machine", "fax")
        return sure or (self._begun_ms is not None and self._age_ms >= LISTEN_MS)

    @property
    def _age_ms(self) -> int:
        return 0 if self._begun_ms is None else self._now_ms - self._begun_ms

    def hear(self, pcm: bytes, at_ms: int) -> Verdict | None:
        """The next audio, PCM at 8 kHz, whose last sample was due at `at_ms`.

        Returns the verdict if it has changed.
        """
        data = self._rest + pcm
        whole = len(data) - len(data) % _STEP_BYTES
        at_ms -= PCM_8K.duration_ms(len(data) - whole)
        if self._begun_ms is None:
            self._begun_ms = at_ms - PCM_8K.duration_ms(whole)
        changed = None
        for start in range(0, whole, _STEP_BYTES):
            self._now_ms = at_ms - PCM_8K.duration_ms(whole - start - _STEP_BYTES)
            changed = self._step(data[start : start + _STEP_BYTES]) or changed
        self._rest = data[whole:]
        return changed

    def said(self, text: str) -> Verdict | None:
        """What the callee has said so far, by the transcriber; a later text may repeat it."""
        words = self._words
        if words is None or self._age_ms >= LISTEN_MS:
            return None
        if words.is_machine(text):
            return self._judge("machine", "words")
        if words.is_person(text) and (self.verdict is None or self._is("unknown")):
            return self._judge("human", "words")
        return None

    def greeting_over(self) -> bool:
        """A machine records by now: its tone has ended, or it has been silent for long."""
        if self._tone.on:
            return False
        ended = self._tone_ended_ms
        if ended is not None and (self._last_voice_ms is None or self._last_voice_ms <= ended):
            return self._now_ms - ended >= TAIL_MS
        quiet_since = self._last_voice_ms if self._last_voice_ms is not None else self._begun_ms
        return quiet_since is not None and self._now_ms - quiet_since >= OVER_MS

    # --- inside -------------------------------------------------------------------------------

    def _step(self, pcm: bytes) -> Verdict | None:
        level = _decibels(rms(pcm))
        threshold = min(MOST_DB, max(LEAST_DB, self._floor + ABOVE_DB))
        loud = level > threshold
        self._floor = min(level, self._floor + (LOUD_RISE_DB if loud else RISE_DB))
        tone = self._tone.hear(self._before + pcm if loud else b"", level)
        self._before = pcm
        if tone == "fax":
            return self._judge("fax", "tone")
        if self._tone.on:
            # It is no voice, and neither is what had been taken for voice while it began.
            self._loud = 0
            self._tone_ended_ms = self._now_ms
            return self._judge("machine", "tone")
        return self._hear_voice(loud=loud)

    def _hear_voice(self, *, loud: bool) -> Verdict | None:
        self._loud = self._loud + 1 if loud else 0
        self._quiet = 0 if loud else self._quiet + 1
        if self._loud >= VOICED_STEPS and not self._tone.possible:
            late = 0 if self._voice else VOICED_STEPS - 1
            if self._stretch_ms is None:
                self._stretch_ms = self._now_ms - (late + 1) * STEP_MS
                self._voiced_ms = 0
            self._voice = True
            self._voiced_ms += (late + 1) * STEP_MS
            self._last_voice_ms = self._now_ms
        elif self._quiet >= SILENT_STEPS:
            self._voice = False
        return self._measure()

    def _measure(self) -> Verdict | None:
        """What the lengths of voice and silence say by now."""
        if self._stretch_ms is None or self._last_voice_ms is None:
            quiet = self.verdict is None and self._age_ms >= SILENCE_MS
            return self._judge("unknown", "silence") if quiet else None
        length, silence = (
            self._last_voice_ms - self._stretch_ms,
            self._now_ms - self._last_voice_ms,
        )
        if length >= LONG_MS and silence < GAP_MS:
            if self._voiced_ms >= VOICED_SHARE * length and not self._is("human"):
                return self._judge("machine", "long greeting")
            return None
        if silence >= (GAP_MS if length <= SHORT_MS else LONG_GAP_MS):
            self._stretch_ms = None
            if self.verdict is None or self._is("unknown"):
                return self._judge("human", "short answer")
        return None

    def _is(self, answerer: Answerer) -> bool:
        return self.verdict is not None and self.verdict.answerer == answerer

    def _judge(self, answerer: Answerer, why: str) -> Verdict | None:
        """A new verdict; a machine stays one."""
        if self._is(answerer) or self._is("machine") or self._is("fax"):
            return None
        self.verdict = Verdict(answerer, why)
        return self.verdict


class _Tone:
    """Finds a tone that holds its pitch and its level."""

    def __init__(self) -> None:
        self.on = False
        """A tone is heard."""
        self._hz = 0.0
        self._ms = 0
        self._low = self._high = 0.0
        self._missed = 0

    @property
    def possible(self) -> bool:
        """What is heard may become one."""
        return self._ms >= 3 * STEP_MS

    def hear(self, pcm: bytes, level: float) -> str:
        """A window of audio, nothing if it is too quiet; returns ``fax`` if it is known to be."""
        hz = _pitch(pcm) if len(pcm) == _WINDOW_STEPS * _STEP_BYTES else 0.0
        held = hz and abs(hz - self._hz) <= 1.5 * _BIN_HZ
        if held:
            self._low, self._high = min(self._low, level), max(self._high, level)
            held = self._high - self._low <= SWING_DB
        if held:
            self._ms += STEP_MS
            self._missed = 0
        elif self.on and self._missed < 1:
            self._missed += 1  # one step that is torn
        else:
            self._ms, self._missed, self.on = 0, 0, False
            self._hz, self._low, self._high = hz, level, level
        fax = FAX_HZ[0] <= self._hz <= FAX_HZ[1]
        self.on = not fax and TONE_MS <= self._ms <= TONE_MOST_MS
        return "fax" if fax and self._ms >= FAX_MS else ""


def _pitch(pcm: bytes) -> float:
    """The frequency of a pure tone in Hertz; 0: it is none."""
    power = np.abs(np.fft.rfft(np.frombuffer(pcm, "<i2") * _WINDOW)) ** 2
    power[: int(200 / _BIN_HZ)] = 0  # hum and offset
    peak = int(power.argmax())
    hz = peak * _BIN_HZ
    if not (TONE_HZ[0] <= hz <= TONE_HZ[1] or FAX_HZ[0] <= hz <= FAX_HZ[1]):
        return 0.0
    around = power[max(0, peak - BINS) : peak + BINS + 1].sum()
    return hz if around >= PURITY * power.sum() else 0.0


def _decibels(level: int) -> float:
    """Of full scale."""
    return 20 * log10(max(level, 1) / 32768)
