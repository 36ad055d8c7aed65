"""One caller on Twilio's media wire, and what is measured. Pure: messages in, messages out.

Each frame of silence carries its number in the quietest values of mu-law, in a few samples that
no voice detector hears. A server that says the caller's audio back (``topology.mode: echo``) is
known by them, and each frame is then accounted for, however it is cut on the way. Of an agent's
speech it is measured how long it let the caller wait, and whether a listener without a buffer
hears it break off. All times are seconds of one clock.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections import deque
from dataclasses import dataclass, field

from flowcat_server.cli.far_side.twilio import TwilioStream

FRAME_BYTES = 160
FRAME_S = 0.02
BYTES_PER_S = 8000
SILENCE = b"\xff" * FRAME_BYTES
NEW_SPEECH_S = 0.3
"""After a pause that is longer the agent says something new; a shorter one is a gap."""
QUIET_S = 1.0
"""The caller speaks when the agent has been quiet for so long."""
UNANSWERED_S = 8.0
"""The caller asks again when no answer came for so long."""
REMEMBERED = 4096
"""Frames, 80 s: an echo that is later is lost."""
_MAGIC = b"\xf1\xf6"
_DIGITS = 8
_TAG = len(_MAGIC) + _DIGITS + 1


def tag(number: int) -> bytes:
    """A frame of near silence that carries a number."""
    digits = [number >> 4 * place & 15 for place in range(_DIGITS - 1, -1, -1)]
    check = sum(place * digit for place, digit in enumerate(digits, 1)) % 15
    marked = _MAGIC + bytes(0xFF - digit for digit in (*digits, check))
    return marked + SILENCE[_TAG:]


def tagged(frame: bytes) -> int | None:
    """The number that a frame carries, if it carries one."""
    if not frame.startswith(_MAGIC):
        return None
    number = 0
    for value in frame[len(_MAGIC) : _TAG - 1]:
        number = number << 4 | 0xFF - value & 15
    return number if tag(number)[:_TAG] == frame[:_TAG] else None


@dataclass(slots=True)
class Measures:
    """What all callers of a run have seen within the measured time. Seconds."""

    begin: float = 0.0
    end: float = float("inf")
    sent: int = 0
    echoed: int = 0
    heard: int = 0
    """Frames of an agent."""
    doubled: int = 0
    unreadable: int = 0
    echo: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """For each message of an agent, how long a listener had been waiting for it."""
    answers: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """From dialling to the first audio."""
    asked: int = 0
    own: list[float] = field(default_factory=list)
    """How late the callers were themselves."""

    def counts(self, at: float) -> bool:
        """Whether what happened then is measured."""
        return self.begin <= at < self.end


class Caller:
    """One call."""

    def __init__(self, number: int, sid: str, measures: Measures, speech: bytes) -> None:
        """Create it; `speech` is mu-law, empty for a caller who keeps quiet."""
        self.call_sid = f"CA{sid}"
        self._far = TwilioStream(self.call_sid, {})
        self.stream_sid = self._far.stream_id
        self.echoes = False
        """The server says back what it hears."""
        self._measures = measures
        self._speech = speech
        self._to_say = b""
        self._number = 0
        self._sent: deque[float] = deque(maxlen=REMEMBERED)
        self._dialled = 0.0
        self._heard_any = False
        self._played = 0.0
        """When all that came will have been played."""
        self._quiet_since = 0.0
        self._asked: float | None = None
        self._patience = QUIET_S * (1 + number % 8)  # not all speak at once
        self._marks: deque[tuple[float, str]] = deque()
        self._part = b""
        self._next = 0

    def start(self, token: str) -> list[str]:
        """The first messages of the stream."""
        self._far.parameters = {"token": token} if token else {}
        return [str(message) for message in self._far.start()]

    def dialled(self, now: float) -> None:
        """The call is being set up."""
        self._dialled = now

    def tick(self, now: float) -> list[str]:
        """20 ms have passed: marks that were reached, and the next frame."""
        messages = []
        while self._marks and self._marks[0][0] <= now:
            messages.append(self._mark(self._marks.popleft()[1]))
        frame = self._frame(now)
        payload = b2a_base64(frame, newline=False).decode()
        self._sent.append(now)
        if self._measures.counts(now):
            self._measures.sent += 1
        number, self._number = self._number, self._number + 1
        messages.append(
            f'{{"event":"media","sequenceNumber":"{number + 2}","media":{{"track":"inbound",'
            f'"chunk":"{number + 1}","timestamp":"{number * 20}","payload":"{payload}"}},'
            f'"streamSid":"{self.stream_sid}"}}'
        )
        return messages

    def stop(self) -> str:
        """The last message."""
        return str(self._far.stop()[0])

    def hear(self, message: bytes, now: float) -> list[str]:
        """A message of the server's; returns what is to be sent at once."""
        try:
            fields = json.loads(message)
            match fields["event"]:
                case "media":
                    self._media(a2b_base64(fields["media"]["payload"]), now)
                case "mark":
                    self._marks.append((max(now, self._played), str(fields["mark"]["name"])))
                case "clear":
                    self._played = now
                    marks, self._marks = self._marks, deque()
                    return [self._mark(name) for _, name in marks]
                case _:
                    self._measures.unreadable += 1
        except (ValueError, KeyError, TypeError):
            self._measures.unreadable += 1
        return []

    # --- inside -------------------------------------------------------------------------------

    def _mark(self, name: str) -> str:
        return str(self._far.played(name))

    def _frame(self, now: float) -> bytes:
        if self._to_say:
            frame, self._to_say = self._to_say[:FRAME_BYTES], self._to_say[FRAME_BYTES:]
            if not self._to_say:
                self._asked = now
                self._measures.asked += self._measures.counts(now)
            return frame.ljust(FRAME_BYTES, b"\xff")
        quiet_since = max(self._played, self._asked or 0.0, self._dialled)
        patience = self._patience if self._asked is None else UNANSWERED_S
        if self._speech and not self.echoes and now - quiet_since > patience:
            self._patience = QUIET_S
            self._to_say, self._asked = self._speech, None
        return tag(self._number)

    def _media(self, audio: bytes, now: float) -> None:
        measures = self._measures
        if not self._heard_any:
            self._heard_any = True
            measures.first.append(now - self._dialled)
        before, self._played = self._played, max(now, self._played) + len(audio) / BYTES_PER_S
        if self._echoed(audio, now):
            return
        if now - before > NEW_SPEECH_S:
            if self._asked is not None and measures.counts(self._asked):
                measures.answers.append(now - self._asked)
            self._asked = None
        elif measures.counts(now):
            measures.late.append(max(0.0, now - before))
        if measures.counts(now):
            measures.heard += len(audio) // FRAME_BYTES

    def _echoed(self, audio: bytes, now: float) -> bool:
        """Account for frames of ours; False: there are none."""
        part = self._part + audio
        at = part.find(_MAGIC)
        if at < 0 and not self.echoes:
            return False
        while at >= 0 and len(part) - at >= _TAG:
            number = tagged(part[at : at + FRAME_BYTES])
            if number is None or number >= self._number:
                at = part.find(_MAGIC, at + 1)
                continue
            if len(part) - at < FRAME_BYTES:
                break
            self.echoes = True
            self._came_back(number, now)
            at += FRAME_BYTES
            if part[at : at + 2] != _MAGIC:
                at = part.find(_MAGIC, at)
        self._part = part[at:] if at >= 0 else part[-1:]
        return self.echoes

    def _came_back(self, number: int, now: float) -> None:
        age = self._number - number
        if age > len(self._sent) or not self._measures.counts(sent := self._sent[-age]):
            return
        if number < self._next:
            self._measures.doubled += 1
            return
        self._next = number + 1
        self._measures.echoed += 1
        self._measures.echo.append(now - sent)
