"""Speech to speech: one session that hears, thinks and speaks, behind the same ledger.

Theory of operation. The vendor decides when the caller has finished and answers with *responses*,
one at a time; a response is items of audio and text, then tool calls. A *reply* of the ledger is
the response to one turn, and those that follow the results of its tools. A reply is *owed* from
the moment at which the caller has finished until its response shows its first sign; whatever the
vendor says of a response that was cut off is dropped until that response ends.

Where the agent may not be interrupted, the caller's audio is held back and follows when the agent
has finished: the vendor cannot be distracted by what it does not hear, and no word is lost.

A session that fails is followed by another, perhaps with another vendor, that knows what was
heard so far. What the caller said and nobody has written down or answered is sent once more; an
answer that broke off is gone on with behind the last word that was surely said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from flowcat_server.core import events
from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.frames import (
    AgentText,
    AudioIn,
    Digit,
    Frame,
    Interrupted,
    ModelStarted,
    ReplyEnded,
    SpeechPaused,
    SpeechStarted,
    TextIn,
    TurnDropped,
    TurnEnded,
)
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    CallerSpeaking,
    CallerTranscript,
    Probe,
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
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.answers import Answer, Answers, CallerTurns, Said
from flowcat_server.processors.call import Call
from flowcat_server.processors.caller_audio import CallerAudio
from flowcat_server.processors.connection import Connection
from flowcat_server.processors.dead_air import Debt
from flowcat_server.processors.ears import Ears
from flowcat_server.processors.history import History
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.items import Item, Items
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.rescue import Rescue
from flowcat_server.processors.rounds import ToolRounds
from flowcat_server.processors.sessions import Sessions

UNHURRIED_MS = 1000
"""Before providers that have all failed are tried again while the caller waits for nothing."""
MOST_UNHURRIED_MS = 4000
"""It doubles up to this."""


class RealtimeProcessor(Processor):
    """Feeds one speech-to-speech session and enters what it says in the ledger.

    `TurnEnded` is emitted when the vendor hears the caller finish, without a text, and again with
    the text once there is one and the reply still goes on.
    """

    sounds = (AudioIn,)

    def __init__(
        self,
        call: Call,
        providers: Lineup[SpeechToSpeech],
        agent: Agent,
        conversation: Conversation,
        playout: Playout,
        source: AudioFormat,
        target: AudioFormat,
        actions: Actions,
        rescue: Rescue,
        usage: UsageMeter,
        *,
        interruption: bool,
        can_say: Callable[[str], bool],
        watch: Callable[[], None],
        vad: Vad | None = None,
    ) -> None:
        """Create the stage.

        Args:
            call: The owner.
            providers: The provider and its fallbacks.
            agent: Where the call is in the graph.
            conversation: What was said so far, for a session that takes over.
            playout: The ledger.
            source: The call's input format.
            target: The call's output format.
            actions: Carries out tool calls.
            rescue: What becomes of a turn without an answer.
            usage: Told of tokens and audio.
            interruption: False: the agent always finishes.
            can_say: Whether fixed words can be heard: an `AgentText` with a text.
            watch: To be called when a sound begins to be owed.
            vad: Tells when the caller's last voiced sample was, for the latency, and to notice a
                session that does not listen; None: the vendor's word is taken, which comes after
                its own waiting.
        """
        self._call = call
        self._providers = providers
        self._agent = agent
        self._conversation = conversation
        self._playout = playout
        self._actions = actions
        self._rescue = rescue
        self._interruption = interruption
        self._can_say = can_say
        self._watch = watch
        self._caller = CallerAudio(source, vad)
        self._ears = Ears(call, self._caller, self._ask_for_sign)
        self._keypad = Keypad()
        self._keypad_timer: asyncio.Handle | None = None
        self._caller_speaks = False
        self._onset_ms = 0
        self._turn = 0
        """The last turn's number."""
        self._turns = CallerTurns()
        self._answers = Answers()
        self._cut = False
        """A response that was cut off has not ended yet."""
        self._items = Items(call, playout, self)
        self._pause_ms = UNHURRIED_MS
        self._given_up = False
        """The session was left because the caller has waited for too long."""
        self._history = History(conversation)
        self._line = Connection(
            providers,
            agent,
            playout,
            source,
            target,
            self._history,
            self._items,
            self._caller,
            self._answers,
            self._turns,
            usage,
        )
        signal = self._line.signal
        self._rounds = ToolRounds(call, agent, actions, conversation, signal, self._acted)
        self._sessions = Sessions(
            call, providers, self._open, self._take, self._lost, self._rounds.returned
        )

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

    def greet(self, opening: str = "") -> None:
        """The call begins: the agent speaks first; `opening` in place of its greeting."""
        self._actions.enter_node()
        self._owe(self._begin(0), opening or self._agent.render(self._agent.node.greeting))

    def greet_late(self) -> None:
        """The agent speaks first, but not at once: the session has begun already."""
        self._actions.enter_node()
        text = self._agent.render(self._agent.node.greeting)
        self._line.signal(Speak(text))
        self._owe(self._begin(0), text)

    def ask(self, text: str) -> None:
        """Have the agent say something that nobody asked for."""
        turn = self._begin(self._turn + 1)
        self._line.signal(Speak(text))
        self._owe(turn, text)

    def announce(self, text: str) -> int:
        """Have fixed words spoken, by the voice for them if there is one; returns the reply."""
        if not self._can_say(text):
            self.ask(text)
        else:
            self._say(self._begin(self._turn + 1), text)
        return self._turn

    def cut(self) -> None:
        """Fall silent, also where the callee could not interrupt."""
        self._interrupt(forced=True)

    def hang_up(self) -> None:
        """The call is over; what the caller was keying in is not lost."""
        number = self._keypad.finish()
        if number:
            self._typed(number, interrupts=False)

    def count(self) -> None:
        """The call is over: tell what it has used."""
        self._line.count()

    def close(self) -> None:
        self._line.inbox.close()
        self._sessions.close()
        self._ears.close()
        self._caller.close()
        if self._keypad_timer is not None:
            self._keypad_timer.cancel()

    def _protected(self) -> bool:
        """The agent speaks, or is about to, and may not be interrupted."""
        if self._playout.active() is None:
            return False
        return not (self._interruption and self._playout.interruptible())

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
        self._conversation.caller(text, turn)
        self.emit(TurnEnded(turn, text, now, now, now, typed=True))
        if self._rescue.over:
            self.emit(ReplyEnded(turn))
            return
        self._line.signal(Say(text))
        self._owe(turn)

    # --- for the watch over dead air --------------------------------------------------------

    @property
    def owing(self) -> Sequence[Callable[[], Debt | None]]:
        """Who may owe the caller a sound."""
        return self._answers.owes, self._rounds.owes, self._ears.owes

    def fill(self, text: str) -> bool:
        """Say something while a sound is late; False: there is no voice for it."""
        if not self._can_say(text):
            return False
        turn = self._turn_owed()
        if turn is not None:
            self.emit(AgentText(turn, text, self._call.now_ms()))
        else:
            self._say(self._begin(self._turn + 1), text)
        return True

    def give_up(self) -> bool:
        """Nothing was said for too long; False: an answer that has begun is not given up."""
        answer = self._answers.due
        debt = self._answers.owes() or self._ears.owes()
        if debt is None or (answer is not None and answer.pieces):
            return False
        self._given_up = self._sessions.give_up(self._call.now_ms() - debt.since_ms)
        return self._given_up

    def _turn_owed(self) -> int | None:
        """The reply of which a sound is owed."""
        answer = self._answers.due
        return answer.turn if answer is not None else self._rounds.turn

    def _say(self, turn: int, text: str) -> None:
        """Have fixed words end a reply."""
        if text:
            self.emit(AgentText(turn, text, self._call.now_ms()))
        self.emit(ReplyEnded(turn))

    # --- the session ------------------------------------------------------------------------

    def _open(self) -> tuple[RealtimeSetup, Inbox[RealtimeInput]]:
        """What the next session begins with."""
        doubted = self._ears.unnoticed_ms is not None
        begun = self._line.begin(hold=self._protected(), probe=doubted)
        if doubted or self._answers.owed is not None:
            self._sessions.expect_first()
        return begun

    def _lost(self, error: ProviderError) -> int | None:
        """A session has failed; says when another is opened."""
        waiting = self._caller_speaks or self._ears.unnoticed_ms is not None
        self._break_off()
        turn = self._turn_owed()
        waiting = waiting or turn is not None
        given_up, self._given_up = self._given_up, False
        if self._rescue.over:
            return None
        again = self._providers.failed(error, hurry=None if waiting else False)
        if again and not given_up:
            return self._providers.delay_ms
        pause_ms, self._pause_ms = self._pause_ms, min(MOST_UNHURRIED_MS, 2 * self._pause_ms)
        if not waiting and error.retryable:
            self._providers.begin()
            return pause_ms
        return pause_ms if self._turn_lost(turn, error, waiting=waiting) else None

    def _break_off(self) -> None:
        """What the session was saying ends here, at the last word that was surely said."""
        answer = self._answers.response
        if answer is not None:
            self._items.end(answer.turn, answer.pieces[-1] if answer.pieces else None)
        over = self._answers.break_off()
        if over is not None:
            self.emit(ReplyEnded(over.turn))
        self._rounds.forget()
        self._cut = False
        self._turns.again = None
        if self._caller_speaks:  # the next session will notice, or not
            now = self._call.now_ms()
            self._caller_speaks = False
            self._call.publish(events.CallerSpeaking(now, speaking=False))
            self.emit(TurnDropped(now))

    def _turn_lost(self, turn: int | None, error: ProviderError, *, waiting: bool) -> bool:
        """Nobody can help with this turn; says whether the call goes on."""
        rescue = self._rescue
        self._answers.drop(by_voice=False)
        self._rounds.drop()
        self._turns.forget()
        self._ears.forget()
        self._caller.answered(self._call.now_ms())
        if self._actions.closing:  # only the rest of the goodbye is lost
            if self._playout.active() is None:
                self._actions.finish()
            elif turn is not None:
                self.emit(ReplyEnded(turn))
            return False
        text = rescue.turn_failed(error)
        if (text and not self._can_say(text)) or (rescue.over and not text):
            rescue.finish(error)
            return False
        if waiting or rescue.over:
            self._say(self._begin(self._turn + 1) if turn is None else turn, text)
        self._providers.begin()
        return not rescue.over

    def voice_lost(self, error: ProviderError) -> None:
        """There is no voice for fixed words any more."""
        self._call.trouble("tts", "tts_failed", error)
        if self._rescue.over:
            self._rescue.finish(error)

    def _ask_for_sign(self, voice_ms: int) -> bool:
        """The vendor tells nothing of what the caller said: see whether it is there."""
        if self._rescue.over or self._caller.held or self._turn_owed() is not None:
            return False
        self._line.signal(Probe())
        self._sessions.expect_first()
        self.emit(SpeechPaused(voice_ms, 0))
        return True

    def _take(self, event: RealtimeEvent) -> None:
        if self._ears.sign() and self._turn_owed() is None:
            self._sessions.rest()
        match event:
            case AgentAudio(audio, name):
                self._line.made_bytes += len(audio)
                item = self._item(name)
                if item is not None:
                    self._items.sound(item, audio)
            case AgentTranscript(text, name):
                item = self._item(name)
                if item is not None:
                    self._items.write(item, text)
            case ToolCall():
                if not self._cut:
                    self._respond()
                    self._rounds.call(event)
            case ResponseEnded(name):
                self._response_ended(name)
            case CallerSpeaking(True):
                self._caller_begins()
            case CallerSpeaking(False, name):
                self._caller_ends(name)
            case CallerTranscript(text, final, name):
                self._transcript(text, name, final=final)
            case Usage():
                self._line.used = event

    # --- the caller's turns -----------------------------------------------------------------

    def _caller_begins(self) -> None:
        now = self._call.now_ms()
        self._caller.noticed(speaking=True)
        if self._turns.again is not None:
            return  # it is being told of a turn that is known
        self._caller_speaks = True
        self._onset_ms = now
        self._call.publish(events.CallerSpeaking(now, speaking=True))
        self.emit(SpeechStarted(now))
        if not self._protected() and not self._caller.stale(now):
            self._interrupt(by_voice=True)

    def _caller_ends(self, item: str) -> None:
        now = self._call.now_ms()
        self._caller.noticed(speaking=False)
        again, self._turns.again = self._turns.again, None
        if again is not None:
            again.item = item
            return
        self._caller_speaks = self._cut = False
        self._call.publish(events.CallerSpeaking(now, speaking=False))
        voice = self._caller.last_voice_ms
        self._caller_said(item, voice if self._onset_ms <= voice <= now else now)

    def _caller_said(self, item: str, speech_end_ms: int) -> Said:
        """The caller has finished; what they said is yet to be told."""
        now = self._call.now_ms()
        said = Said(item, self._begin(self._turn + 1), speech_end_ms, now)
        self._turns.add(said)
        self.emit(TurnEnded(said.turn, "", speech_end_ms, now, now))
        self._owe(said.turn)
        return said

    def _transcript(self, text: str, item: str, *, final: bool) -> None:
        now = self._call.now_ms()
        said = self._turns.find(item)
        if said is None and final and not item:
            said = self._untold(now)
        turn = said.turn if said is not None else self._turn + self._caller_speaks
        if text:
            self._call.publish(events.CallerText(now, turn, text, final=final))
        if said is None or not final:
            return
        self._turns.told(said)
        if text:
            self._conversation.caller(text, said.turn)
        self._caller.answered(said.speech_end_ms)
        reply = self._playout.reply(said.turn)
        if text and reply is not None and not reply.settled:
            decided = said.decided_ms
            self.emit(TurnEnded(said.turn, text, said.speech_end_ms, decided, decided))

    def _untold(self, now: int) -> Said:
        """A transcript from a vendor that does not tell when the caller speaks."""
        unasked, self._answers.unasked = self._answers.unasked, None
        if unasked is None:
            return self._caller_said("", now)
        said = Said("", unasked, now, now)
        self._turns.add(said)
        return said

    # --- the agent's replies ----------------------------------------------------------------

    def _begin(self, turn: int) -> int:
        """Open a reply in the ledger."""
        self._turn = turn
        self._playout.begin(turn, interruptible=self._agent.interruptible(first=turn == 0))
        self._conversation.reply_begins(turn)
        return turn

    def _owe(self, turn: int, exact: str = "") -> None:
        """The vendor's next response belongs to this reply; `exact`: the words asked for."""
        earlier = self._answers.owe(Answer(turn, exact), self._call.now_ms())
        self._providers.begin()
        self._sessions.expect_first()
        self._watch()
        if earlier is not None:
            self.emit(ReplyEnded(earlier.turn))

    def _respond(self) -> Answer:
        """The vendor responds."""
        self._go_on()
        answer, first = self._answers.respond(lambda: self._begin(self._turn + 1))
        if first:
            self._turns.again = None
            self.emit(ModelStarted(answer.turn, self._call.now_ms()))
        return answer

    def _go_on(self) -> None:
        """There is a sign of the answer: the next one is due."""
        self._answers.since_ms = self._call.now_ms()
        self._sessions.expect_more()

    def _item(self, name: str) -> Item | None:
        """What the vendor says belongs to this item; None if nobody is to hear it."""
        items = self._items
        if name in items:
            item = items.get(name)
            reply = self._playout.reply(item.turn) if item is not None else None
            if item is None or reply is None or reply.settled:
                return None
            answer = self._answers.response
            if answer is not None and item.turn == answer.turn:
                self._go_on()
            return item
        if self._cut:
            items.drop(name)
            self._line.signal(Truncate(name, 0))
            return None
        answer = self._respond()
        item = items.add(name, answer.turn)
        answer.pieces.append(item.piece)
        return item

    def _response_ended(self, name: str) -> None:
        if self._cut:
            self._cut = False
            return
        item, answer = self._items.get(name), self._answers.response
        stale = answer is None or item is None or item.turn != answer.turn
        if name in self._items and stale:
            return  # of a response that was over before
        answer = self._answers.end()
        if answer is None:
            return
        self._items.end(answer.turn)
        self._answers.since_ms = self._call.now_ms()
        self._sessions.rest()
        self._providers.succeeded()
        self._rescue.turn_went_well()
        self._pause_ms = UNHURRIED_MS
        self._caller.answered(self._turns.voice_ms)
        if not self._rounds.begin(answer.turn):
            self.emit(ReplyEnded(answer.turn))
        if self._answers.owed is not None:
            self._sessions.expect_first()

    def _interrupt(self, *, by_voice: bool = False, forced: bool = False) -> None:
        """Cut the agent off: the vendor is told what was heard, then the ledger is closed.

        A vendor cuts a response off by itself when it hears the caller, also one that has shown
        no sign yet.
        """
        active = self._playout.active()
        if active is None or (self._protected() and not forced):
            return
        now = self._call.now_ms()
        for name, heard_ms in self._items.cut():
            self._line.signal(Truncate(name, heard_ms))
        self._cut = self._answers.drop(by_voice=by_voice)
        self._turns.again = None
        self._sessions.rest()
        self._rounds.drop()
        self.emit(Interrupted(active, now))
        correction = self._history.correction()
        if correction is not None:
            self._line.signal(correction)
        self._rounds.tell_node()  # a goodbye may have been taken back

    def _acted(self, turn: int, again: bool) -> None:
        """A reply's tools have returned; `again`: the vendor was asked to go on with them."""
        if again and self._answers.due is None:
            self._owe(turn)
        else:
            self.emit(ReplyEnded(turn))
