"""Speech to speech: one session that hears, thinks and speaks, behind the same ledger.

Theory of operation. The vendor decides when the caller has finished and answers with *responses*,
one at a time; a response is items of audio and text, then tool calls. A *reply* of the ledger is
the response to one turn, and those that follow the results of its tools. A reply is *owed* from
the moment at which the caller has finished until its response shows its first sign; whatever the
vendor says of a response that was cut off is dropped until that response ends.

Where the agent may not be interrupted, the caller's audio is held back and follows when the agent
has finished: the vendor cannot be distracted by what it does not hear, and no word is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from flowcat_server.core import events
from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.frames import (
    AgentText,
    AudioIn,
    AudioOut,
    Digit,
    Frame,
    Interrupted,
    ModelStarted,
    PieceEnded,
    SpeechEnded,
    TextIn,
    TurnEnded,
)
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    CallerSpeaking,
    CallerTranscript,
    RealtimeEvent,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    Speak,
    SpeechToSpeech,
    ToolCall,
    Truncate,
    Usage,
    Vad,
)
from flowcat_server.core.keypad import Keypad, Keys
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError, ProviderUnavailable
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.call import Call
from flowcat_server.processors.caller_audio import HELD_MS, CallerAudio
from flowcat_server.processors.deadlines import Deadline, closing
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.patience import Patience
from flowcat_server.processors.rounds import ToolRounds
from flowcat_server.processors.transcribe import choose_format

ITEMS_KEPT = 32
"""What the vendor says of older items is of no interest any more."""
TURNS_KEPT = 16
"""Turns of the caller whose transcript is waited for."""


@dataclass(frozen=True, slots=True)
class Session:
    """A speech-to-speech provider and how a call uses it."""

    name: str
    provider: SpeechToSpeech
    deadline: Deadline
    interruption: bool = True
    """False: the agent always finishes."""


@dataclass(slots=True)
class _Item:
    """One item of a response: a piece of a reply."""

    turn: int
    piece: int
    splitter: SentenceSplitter = field(default_factory=SentenceSplitter)
    space: str = ""
    """White space at the end of the text so far."""


@dataclass(slots=True)
class _Said:
    """A turn of the caller whose transcript is still to come."""

    item: str
    turn: int
    speech_end_ms: int
    decided_ms: int


class RealtimeProcessor(Processor):
    """Feeds one speech-to-speech session and enters what it says in the ledger.

    `TurnEnded` is emitted when the vendor hears the caller finish, without a text, and again with
    the text once there is one and the reply still goes on.
    """

    def __init__(
        self,
        call: Call,
        session: Session,
        agent: Agent,
        playout: Playout,
        source: AudioFormat,
        target: AudioFormat,
        actions: Actions,
        usage: UsageMeter,
        vad: Vad | None = None,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            session: The provider.
            agent: Where the call is in the graph.
            playout: The ledger.
            source: The call's input format.
            target: The call's output format.
            actions: Carries out tool calls.
            usage: Told of tokens and audio.
            vad: Tells when the caller's last voiced sample was, for the latency only; None: the
                vendor's word is taken, which comes after its own waiting.
        """
        self._call = call
        self._session = session
        self._agent = agent
        self._playout = playout
        self._actions = actions
        formats = session.provider.formats
        self._input = choose_format(source, formats)
        self._output = choose_format(target, formats)
        self._out = Transcoder(self._output, target)
        self._inbox: Inbox[RealtimeInput] = Inbox(
            chunk_ms=session.provider.chunk_ms,
            bytes_per_ms=self._input.bytes_for(1000) / 1000,
            limit_ms=HELD_MS,  # what was held back comes all at once
        )
        self._usage = usage
        self._used = Usage()
        """Of the session so far."""
        self._made_bytes = 0
        """Audio of the vendor's that `count` has not counted."""
        self._caller = CallerAudio(source, self._input, self._inbox.audio, vad)
        self._keypad = Keypad()
        self._keypad_timer: asyncio.Handle | None = None
        self._patience = Patience(call, session.name)
        self._caller_speaks = False
        self._onset_ms = 0
        self._turn = 0
        """The last turn's number."""
        self._said: deque[_Said] = deque(maxlen=TURNS_KEPT)
        self._owed: int | None = None
        """The reply that the vendor's next response belongs to."""
        self._response: int | None = None
        """The reply whose response is under way."""
        self._unasked: int | None = None
        """The reply under way, when the vendor began it before it told of any turn."""
        self._cut = False
        """A response that was cut off has not ended yet."""
        self._items: dict[str, _Item | None] = {}
        """The vendor's items; None: dropped."""
        self._calls: list[ToolCall] = []
        self._rounds = ToolRounds(call, agent, actions, self._inbox.signal, self._acted)
        self._task = call.spawn("realtime", self._converse())

    # --- from the call ----------------------------------------------------------------------

    @property
    def caller_speaks(self) -> bool:
        """The caller has begun a turn that has not ended, with the voice or on the keypad."""
        return self._caller_speaks or self._keypad.deadline_ms() is not None

    def process(self, frame: Frame) -> None:
        if type(frame) is AudioIn:
            self._caller.hear(frame, hold=self._protected())
        elif type(frame) is TextIn:
            self._typed(frame.text)
        elif type(frame) is Digit:
            self._call.publish(events.DigitPressed(frame.at_ms, frame.digit))
            self._pressed(frame.digit)
        else:
            self.emit(frame)

    def greet(self) -> None:
        """The call begins: the agent speaks first."""
        self._actions.enter_node()
        self._begin(0)
        self._owe(0)
        if not self._agent.node.greeting:
            self._inbox.signal(Speak())

    def ask(self, text: str) -> None:
        """Have the agent say something that nobody asked for."""
        turn = self._begin(self._turn + 1)
        self._inbox.signal(Speak(text))
        self._owe(turn)

    def hang_up(self) -> None:
        """The call is over; what the caller was keying in is not lost."""
        number = self._keypad.finish()
        if number:
            self._typed(number, interrupts=False)

    def count(self) -> None:
        """The session is over: tell what it has used and not told of yet."""
        amount = self._usage.of("realtime", self._session.name)
        amount.audio_ms += self._input.duration_ms(self._inbox.taken_bytes)
        amount.audio_ms += self._output.duration_ms(self._made_bytes)
        amount.add_tokens(self._used)
        self._inbox.taken_bytes = self._made_bytes = 0
        self._used = Usage()

    def close(self) -> None:
        self._inbox.close()
        self._patience.close()
        self._caller.close()
        if self._keypad_timer is not None:
            self._keypad_timer.cancel()

    def _protected(self) -> bool:
        """The agent speaks, or is about to, and may not be interrupted."""
        if self._playout.active() is None:
            return False
        return not (self._session.interruption and self._playout.interruptible())

    def _pressed(self, key: str) -> None:
        """A DTMF key. It interrupts where the agent listens for keys; elsewhere it is kept."""
        rules = self._agent.node.keypad
        number = self._keypad.press(key, rules or Keys(), self._call.now_ms())
        if number is None:
            return
        if rules is not None and self._playout.sounding() is not None:
            self._interrupt()
        self._number(number)

    def _number(self, text: str) -> None:
        """A number was keyed in, if there is one; wait for the next key if there is none."""
        if text:
            self._typed(text, interrupts=self._agent.node.keypad is not None)
        due = self._keypad.deadline_ms()
        if due is not None and self._keypad_timer is None:
            self._keypad_timer = self._call.call_at(due, self._keypad_rests)

    def _keypad_rests(self) -> None:
        self._keypad_timer = None
        self._number(self._keypad.tick(self._call.now_ms()))

    def _typed(self, text: str, *, interrupts: bool = True) -> None:
        if interrupts and self._playout.sounding() is not None:
            self._interrupt()
        now = self._call.now_ms()
        turn = self._begin(self._turn + 1)
        self._call.publish(events.CallerText(now, turn, text, final=True, typed=True))
        self.emit(TurnEnded(turn, text, now, now, now, typed=True))
        self._inbox.signal(Say(text))
        self._owe(turn)

    # --- the session ------------------------------------------------------------------------

    async def _converse(self) -> None:
        agent = self._agent
        setup = RealtimeSetup(
            instructions=agent.system_prompt(),
            tools=agent.tools(),
            input=self._input,
            output=self._output,
            greeting=agent.render(agent.node.greeting),
        )
        try:
            async with closing(self._session.provider.converse(setup, self._inbox)) as session:
                async for event in session:
                    self._take(event)
            if not self._inbox.closed:
                raise ProviderUnavailable(self._session.name, "the session ended before the call")
        except ProviderError as error:
            error.stage = "realtime"
            raise

    def _take(self, event: RealtimeEvent) -> None:
        match event:
            case AgentAudio(audio, name):
                self._made_bytes += len(audio)
                item = self._item(name)
                if item is not None:
                    self.emit(AudioOut(item.turn, self._out.feed(audio), item.piece))
            case AgentTranscript(text, name):
                item = self._item(name)
                if item is not None:
                    self._write(item, text)
            case ToolCall():
                if not self._cut:
                    self._respond()
                    self._calls.append(event)
            case ResponseEnded(name):
                self._response_ended(name)
            case CallerSpeaking(True):
                self._caller_begins()
            case CallerSpeaking(False, name):
                self._caller_ends(name)
            case CallerTranscript(text, final, name):
                self._transcript(text, name, final=final)
            case Usage():
                self._used = event

    # --- the caller's turns -----------------------------------------------------------------

    def _caller_begins(self) -> None:
        now = self._call.now_ms()
        self._caller_speaks = True
        self._onset_ms = now
        self._call.publish(events.CallerSpeaking(now, speaking=True))
        if not self._protected():
            self._interrupt(by_voice=True)

    def _caller_ends(self, item: str) -> None:
        now = self._call.now_ms()
        self._caller_speaks = self._cut = False
        self._call.publish(events.CallerSpeaking(now, speaking=False))
        voice = self._caller.last_voice_ms
        self._caller_said(item, voice if self._onset_ms <= voice <= now else now)

    def _caller_said(self, item: str, speech_end_ms: int) -> _Said:
        """The caller has finished; what they said is yet to be told."""
        now = self._call.now_ms()
        said = _Said(item, self._begin(self._turn + 1), speech_end_ms, now)
        self._said.append(said)
        self.emit(TurnEnded(said.turn, "", speech_end_ms, now, now))
        self._owe(said.turn)
        return said

    def _transcript(self, text: str, item: str, *, final: bool) -> None:
        now = self._call.now_ms()
        said = next((s for s in self._said if not item or s.item in ("", item)), None)
        if said is None and final and not item:
            said = self._untold(now)
        turn = said.turn if said is not None else self._turn + self._caller_speaks
        if text:
            self._call.publish(events.CallerText(now, turn, text, final=final))
        if said is None or not final:
            return
        self._said.remove(said)
        reply = self._playout.reply(said.turn)
        if text and reply is not None and not reply.settled:
            decided = said.decided_ms
            self.emit(TurnEnded(said.turn, text, said.speech_end_ms, decided, decided))

    def _untold(self, now: int) -> _Said:
        """A transcript from a vendor that does not tell when the caller speaks."""
        if self._unasked is None:
            return self._caller_said("", now)
        said = _Said("", self._unasked, now, now)
        self._unasked = None
        self._said.append(said)
        return said

    # --- the agent's replies ----------------------------------------------------------------

    def _begin(self, turn: int) -> int:
        """Open a reply in the ledger."""
        self._turn = turn
        self._playout.begin(turn, interruptible=self._agent.interruptible(first=turn == 0))
        return turn

    def _owe(self, turn: int) -> None:
        """The vendor's next response belongs to this reply."""
        earlier, self._owed = self._owed, turn
        self._patience.expect(self._session.deadline.first_ms)
        if earlier is not None and earlier != turn:
            self.emit(SpeechEnded(earlier))  # the vendor answers both at once

    def _respond(self) -> int:
        """The vendor responds; returns the reply that this belongs to."""
        self._patience.expect(self._session.deadline.gap_ms)
        if self._response is None:
            turn, self._owed = self._owed, None
            if turn is None:
                turn = self._unasked = self._begin(self._turn + 1)
            else:
                self._unasked = None
            self._response = turn
            self.emit(ModelStarted(turn, self._call.now_ms()))
        return self._response

    def _item(self, name: str) -> _Item | None:
        """What the vendor says belongs to this item; None if nobody is to hear it."""
        if name in self._items:
            item = self._items[name]
            if item is None:
                return None
            reply = self._playout.reply(item.turn)
            if reply is None or reply.settled:
                return None
            if item.turn == self._response:
                self._patience.expect(self._session.deadline.gap_ms)
            return item
        if len(self._items) >= ITEMS_KEPT:
            del self._items[next(iter(self._items))]
        if self._cut:
            self._items[name] = None
            self._inbox.signal(Truncate(name, 0))
            return None
        turn = self._respond()
        reply = self._playout.reply(turn)
        item = self._items[name] = _Item(turn, len(reply.pieces) if reply is not None else 0)
        self.emit(AgentText(turn, "", self._call.now_ms()))
        return item

    def _write(self, item: _Item, text: str) -> None:
        """Text of an item: into the ledger at once, to the world sentence by sentence."""
        reply = self._playout.reply(item.turn)
        if reply is not None and not reply.pieces[item.piece].text:
            text = text.lstrip()
        text = item.space + text
        words = text.rstrip()
        item.space = text[len(words) :]
        if words:
            self._playout.extend_piece(item.turn, item.piece, words)
            for sentence in item.splitter.feed(words):
                self._publish(item.turn, sentence)

    def _publish(self, turn: int, sentence: str) -> None:
        if sentence:
            self._call.publish(events.AgentText(self._call.now_ms(), turn, sentence))

    def _response_ended(self, name: str) -> None:
        if self._cut:
            self._cut = False
            return
        item = self._items.get(name)
        if name in self._items and (item is None or item.turn != self._response):
            return  # of a response that was over before
        turn = self._owed if self._response is None else self._response
        if turn is None:
            return
        if self._response is None:
            self._owed = None  # it had nothing to say
        self._response = None
        self._patience.rest()
        self._items_ended(turn)
        calls, self._calls = self._calls, []
        if calls:
            self._rounds.begin(turn, calls)
        else:
            self.emit(SpeechEnded(turn))
        if self._owed is not None:
            self._patience.expect(self._session.deadline.first_ms)

    def _items_ended(self, turn: int) -> None:
        """A response has ended: so have its texts and its audio."""
        mine = [item for item in self._items.values() if item is not None and item.turn == turn]
        for item in mine:
            self._publish(turn, item.splitter.flush())
        if mine:
            rest = self._out.flush()
            if rest:
                self.emit(AudioOut(turn, rest, mine[-1].piece))
        for item in mine:
            self.emit(PieceEnded(turn, item.piece))

    def _interrupt(self, *, by_voice: bool = False) -> None:
        """Cut the agent off: the vendor is told what was heard, then the ledger is closed.

        A vendor cuts a response off by itself when it hears the caller, also one that has shown
        no sign yet.
        """
        active = self._playout.active()
        if active is None or self._protected():
            return
        now = self._call.now_ms()
        for name, item in self._items.items():
            heard = self._playout.heard_so_far_ms(item.turn, now) if item is not None else []
            if item is not None and item.piece < len(heard):
                self._inbox.signal(Truncate(name, heard[item.piece]))
        self._cut = self._response is not None or (by_voice and self._owed is not None)
        self._response = self._owed = self._unasked = None
        self._calls.clear()
        self._out.flush()
        self._patience.rest()
        self._rounds.drop()
        self.emit(Interrupted(active, now))
        self._rounds.tell_node()  # a goodbye may have been taken back

    def _acted(self, turn: int, again: bool) -> None:
        """A reply's tools have returned; `again`: the vendor was asked to go on with them."""
        if again and self._owed is None and self._response is None:
            self._owe(turn)
        else:
            self.emit(SpeechEnded(turn))
