"""Which processors a call needs, in order: cascaded, speech to speech, or echo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from flowcat_server.config.language import spoken, turn_words
from flowcat_server.config.models import Config
from flowcat_server.config.turn import Deadline as DeadlineConfig
from flowcat_server.config.turn import Endpointing as EndpointingConfig
from flowcat_server.core import ended
from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.bargein import BargeInRules
from flowcat_server.core.breaker import Breaker
from flowcat_server.core.carrier import Answerer
from flowcat_server.core.control import Comeback
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.echo import Echo
from flowcat_server.core.endpointing import Endpointing
from flowcat_server.core.events import CallEvent
from flowcat_server.core.frames import AgentText, Interrupted, ReplyEnded
from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.hold import waiting_tone
from flowcat_server.core.interfaces import (
    LanguageModel,
    SpeechToSpeech,
    SpeechToText,
    TextToSpeech,
    Transport,
    TurnModel,
    Vad,
    Warms,
)
from flowcat_server.core.language import TurnWords
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Emit, Processor, link, unlink
from flowcat_server.core.speech import Reply
from flowcat_server.core.templates import names, time_variables
from flowcat_server.core.turn import TurnDetector, TurnRules
from flowcat_server.core.usage import UsageMeter
from flowcat_server.errors import ProviderError
from flowcat_server.processors.actions import Actions
from flowcat_server.processors.announce import AnnounceProcessor
from flowcat_server.processors.call import Call
from flowcat_server.processors.control import CallControl
from flowcat_server.processors.dead_air import DeadAir, DeadAirProcessor, Debt
from flowcat_server.processors.deadlines import Deadline
from flowcat_server.processors.echo import EchoProcessor
from flowcat_server.processors.hold import DeafProcessor, Hold, HoldProcessor
from flowcat_server.processors.idle import IdleProcessor, IdleRules
from flowcat_server.processors.judge import Judge
from flowcat_server.processors.lineup import Lineup, Member
from flowcat_server.processors.machine import MachineProcessor, MachineRules
from flowcat_server.processors.play import PlayProcessor
from flowcat_server.processors.prepared import Prepared, keys_clip
from flowcat_server.processors.realtime import RealtimeProcessor
from flowcat_server.processors.record import Recorder, RecordProcessor
from flowcat_server.processors.reply import ReplyProcessor
from flowcat_server.processors.rescue import Rescue, RescueRules
from flowcat_server.processors.speak import SpeakProcessor
from flowcat_server.processors.tones import ToneProcessor
from flowcat_server.processors.transcribe import TranscribeProcessor
from flowcat_server.processors.turn import TurnProcessor
from flowcat_server.tools.toolbox import Toolbox

Plug = TypeVar("Plug")

STT_ANSWERS_MS = 60_000
"""Only a bound: each pause is answered, with nothing where nobody can transcribe it."""
STT_RETRIES = 3
"""A stream that breaks between the caller's turns costs nobody anything: it is opened again."""


@dataclass(frozen=True)
class Candidate(Generic[Plug]):
    """One provider of a kind; the first of a list is used, the others are its fallbacks."""

    name: str
    plug: Plug
    first_ms: int | None = None
    """Own deadline for the first result; None: the kind's."""
    breaker: Breaker = field(default_factory=Breaker)
    """What all calls know of its health."""
    cheap: bool = True
    """A request that is thrown away costs nothing."""


@dataclass(frozen=True)
class Parts:
    """What all calls of one agent share."""

    config: Config
    profile: Profile
    toolbox: Toolbox
    vad: Vad | None = None
    turn: Candidate[TurnModel] | None = None
    stt: Sequence[Candidate[SpeechToText]] = ()
    llm: Sequence[Candidate[LanguageModel]] = ()
    tts: Sequence[Candidate[TextToSpeech]] = ()
    """In the realtime mode: the voice for fixed words, if there is one."""
    realtime: Sequence[Candidate[SpeechToSpeech]] = ()
    prepared: Prepared = field(default_factory=Prepared)
    """Fixed texts that have been spoken ahead of time."""
    hold_sound: Callable[[AudioFormat], bytes] = waiting_tone
    """What a caller hears who waits, in a format; empty: nothing."""


class CallLine:
    """A linked pipeline and the two things that happen at its ends: greeting and goodbye."""

    def __init__(
        self,
        call: Call,
        parts: Parts,
        transport: Transport,
        recorder: Recorder | None = None,
        variables: Mapping[str, Any] | None = None,
        machine: MachineRules | None = None,
        *,
        comeback: Comeback | None = None,
        hears_keys: bool = False,
    ) -> None:
        """Build the processors for `parts.config.topology.mode` and link them.

        Args:
            call: The owner; its tasks can be started from now on.
            parts: Providers and agent.
            transport: The way to the far end.
            recorder: Where both sides are recorded; None: nowhere.
            variables: Call variables on top of the agent's own.
            machine: What is done about who answers; None: the call came to us.
            comeback: The call was passed on before, and nobody was reached: it goes on.
            hears_keys: Keys are heard in the caller's audio: the carrier does not tell of them.
        """
        self._call = call
        self._parts = parts
        self._transport = transport
        self.playout = Playout(
            transport.output_format, delay_ms=transport.delay_ms, marks=transport.buffers
        )
        self._usage = UsageMeter()
        self._comeback = comeback
        self._hanging_up: Callable[[], None] = lambda: None
        self._ask: Callable[[str], object] = lambda text: None
        """Has the agent say a text as a turn of its own."""
        self._counting: Callable[[], None] = lambda: None
        """Has the stages enter what they have not told yet."""
        if recorder is not None:
            self.playout.tap(*recorded(recorder))
        mode = parts.config.topology.mode
        self.agent: Agent | None = None
        self._actions: Actions | None = None
        if mode != "echo":
            self.agent = Agent(parts.profile, _clock_variables(parts.profile, variables))
            if comeback is not None:
                self.agent.variables.update(comeback.progress.variables)
                self.agent.resume(comeback.progress.node)
            self._actions = Actions(
                call,
                self.agent,
                self.playout,
                parts.toolbox.run,
                parts.toolbox.fillers,
                parts.toolbox.harmless,
            )
        self._play = PlayProcessor(call, self.playout, transport, self.agent, self._on_settled)
        self._opening: Callable[[], None] = lambda: None
        self._reopening: Callable[[str], None] = lambda words: None
        """Begins a call that comes back, with these words."""
        self._rules = machine
        self.machine: MachineProcessor | None = None
        """Where it is found out who answered; None: nowhere."""
        self._conversation = Conversation(
            self.playout, earlier=comeback.progress.messages if comeback is not None else ()
        )
        self._hold = Hold(call, self.playout, transport, parts.hold_sound)
        self.control = CallControl(
            call,
            self.agent,
            self.playout,
            self._conversation,
            self._hold,
            [candidate.plug for candidate in parts.llm],
            self._relink,
            parts.config.hold.tools_after,
            _rescue_rules(parts.config).transfer,
        )
        if self._actions is not None:
            self._actions.send_keys = self.control.send_keys
            self._actions.tool_runs = self.control.tool_runs
        middle = {"cascaded": self._cascaded, "realtime": self._realtime, "echo": self._echo}[
            mode
        ]()
        self._first: list[Processor] = []
        if recorder is not None:
            self._first.append(RecordProcessor(recorder, transport.input_format))
        if hears_keys:
            self._first.append(ToneProcessor(transport.input_format))
        self._middle = middle
        self.processors: list[Processor] = [*self._first, *middle, self._play]
        self.entry: Emit = link(self.processors)
        """Pushes a frame through the chain."""
        self._stopped = False

    def begin(self) -> None:
        """The call is up: speak first."""
        if self._comeback is None or self._actions is None:
            self._opening()
        elif self._actions.transfer_failed(self._comeback.target):
            self._reopening(self.control.render(self._comeback.target.failed))

    def on_event(self, event: CallEvent) -> None:
        """A subscriber of the call, for what is found out from its transcript."""
        if self.machine is not None:
            self.machine.on_event(event)

    def detected(self, answerer: Answerer, *, greeting_over: bool) -> None:
        """The carrier says who answered."""
        if self.machine is not None:
            self.machine.told(answerer, greeting_over=greeting_over)

    def played(self) -> None:
        """The far end has played more: a reply may have been heard to its end."""
        self._play.watch()

    def stop(self) -> None:
        """The call is over: what has been heard by now is all that will be."""
        self._stopped = True
        self._hanging_up()
        self._play.interrupt()
        self._counting()
        for used in self._usage.told(self._call.now_ms()):
            self._call.publish(used)

    def close(self) -> None:
        """The call is over: take the line apart.

        Stages, ledger and the functions between them know each other in circles. Apart, they are
        freed now; together they would wait for a garbage collection, which stops all calls.
        """
        self.playout.untap()
        for stage in self.processors:
            stage.forget()
        unlink(self.processors)
        self.control.close()
        vars(self).clear()
        self.machine = None  # the call's end has yet to be told

    def transfer_failed(self, target: TransferTarget) -> None:
        """Nobody could be reached: say so, and go on or end."""
        if self._actions is None:
            self._call.end(ended.AGENT_ENDED, f"{target.name} could not be reached")
        elif self._actions.transfer_failed(target):
            self._ask(self.control.render(target.failed))

    def _relink(self, deaf: bool, waiting: bool) -> None:
        ears = [DeafProcessor(self._transport.input_format)] if deaf else []
        sound = [HoldProcessor(self._hold)] if waiting else []
        self.entry = link([*self._first, *ears, *self._middle, *sound, self._play])

    # --- the three lists --------------------------------------------------------------------

    def _cascaded(self) -> list[Processor]:
        call, parts, transport, playout = self._call, self._parts, self._transport, self.playout
        assert parts.vad is not None and self.agent is not None and self._actions is not None  # noqa: S101, PT018
        turn_config = parts.config.turn
        words = turn_words(spoken(parts.config.topology.stt))
        agent, endpointing = self.agent, _endpointing(turn_config.endpointing, words)
        echo = Echo(transport.output_format, playout.said)
        playout.tap(echo.played, echo.cleared)
        detector = TurnDetector(
            _turn_rules(parts),
            floor=playout,
            endpointing=endpointing,
            expects=lambda: endpointing.expects(agent.node.slots, agent.variables),
            keys=lambda: agent.node.keypad,
            backchannel=words.is_backchannel if words is not None else lambda text: False,
            echo=echo.explains,
            after_echo=echo.after,
        )
        smart = turn_config.endpointing.mode == "smart"
        judge = (
            Judge(call, parts.turn.name, parts.turn.plug, transport.input_format)
            if parts.turn is not None and smart
            else None
        )
        turn = TurnProcessor(call, detector, parts.vad, transport.input_format, echo, judge)
        rescue = Rescue(call, self._actions, _rescue_rules(parts.config))
        deadlines = turn_config.deadlines

        def ask(text: str, *, at_once: bool = False) -> int:
            number = detector.skip()
            reply.begin(number, speak.overtake(number) if at_once else None)
            if text:
                idle.emit(AgentText(number, text, call.now_ms()))
            idle.emit(ReplyEnded(number))
            return number

        def fill(debt: Debt, text: str) -> bool:
            if self._holds():
                return False
            if debt.stage == "tts":
                if not speak.can_say(text):
                    return False
                ask(text, at_once=True)
            elif debt.stage == "stt":
                ask(text)
            else:
                reply.fill(text)
            return True

        def muted(error: ProviderError) -> None:
            text = "" if rescue.over else rescue.give_up(error)
            if not (text and speak.can_say(text)):
                rescue.finish(error)
                return
            ask(text, at_once=True)
            reply.abandon()
            speak.give_up()

        def bearable_ms() -> int:
            return dead_air.bearable_ms()

        def lost(error: ProviderError, waiting: bool) -> bool:
            text = rescue.turn_failed(error)
            if rescue.over or (waiting and text and not detector.text):
                ask(text)
            if rescue.over:
                reply.abandon()
            return not rescue.over

        transcribe = TranscribeProcessor(
            call,
            Lineup(call, "stt", members(parts.stt, deadlines.stt), retries=STT_RETRIES),
            transport.input_format,
            turn.transcript,
            lost,
            self._usage,
        )
        self._counting = transcribe.count
        reply = ReplyProcessor(
            call,
            Lineup(call, "llm", members(parts.llm, deadlines.llm)),
            self.agent,
            self._conversation,
            playout,
            self._actions,
            rescue,
            self._usage,
            turn_config.dead_air.hedge_after,
            speculates=_speculates(parts),
        )
        idle = self._idle(lambda: detector.open or detector.keying or self._holds(), ask)
        speak = SpeakProcessor(
            call,
            Lineup(call, "tts", members(parts.tts, deadlines.tts)),
            transport.output_format,
            lambda: playout.buffered_ms(call.now_ms()),
            parts.prepared,
            bearable_ms,
            muted,
            self._usage,
        )
        dead_air = DeadAirProcessor(
            call,
            DeadAir(
                turn_config.dead_air.filler_after,
                turn_config.dead_air.filler,
                turn_config.dead_air.give_up_after,
            ),
            playout,
            (speak.owes, reply.owes, transcribe.owes),
            fill,
            reply.give_up,
        )
        self._opening, self._hanging_up = reply.greet, turn.hang_up
        self._ask = self.control.press = ask
        self._reopening = reply.greet
        machine = self._answering(
            words, reply.greet, ask, self._cut, self._greets, transcribed=True
        )
        if isinstance(parts.llm[0].plug, Warms):
            self._warming = call.spawn("warm", parts.llm[0].plug.warm())
        return [turn, *machine, transcribe, reply, idle, dead_air, speak]

    def _realtime(self) -> list[Processor]:
        call, parts, transport, playout = self._call, self._parts, self._transport, self.playout
        assert self.agent is not None and self._actions is not None  # noqa: S101, PT018
        turn = parts.config.turn
        rescue = Rescue(call, self._actions, _rescue_rules(parts.config))
        voices = members(parts.tts, turn.deadlines.tts)

        def can_say(text: str) -> bool:
            return announce.can_say(text)

        def fill(debt: Debt, text: str) -> bool:
            return debt.stage != "tts" and not self._holds() and realtime.fill(text)

        def watch() -> None:
            dead_air.watch()

        def bearable_ms() -> int:
            return dead_air.bearable_ms()

        realtime = RealtimeProcessor(
            call,
            Lineup(call, "realtime", members(parts.realtime, turn.deadlines.llm)),
            self.agent,
            self._conversation,
            playout,
            transport.input_format,
            transport.output_format,
            self._actions,
            rescue,
            self._usage,
            interruption=turn.interruption.enabled,
            can_say=can_say,
            watch=watch,
            vad=parts.vad,
        )
        announce = AnnounceProcessor(
            call,
            Lineup(call, "tts", voices) if voices else None,
            transport.output_format,
            playout,
            lambda text: (
                keys_clip(text, transport.output_format)
                or parts.prepared.any_clip(text, transport.output_format)
            ),
            bearable_ms,
            realtime.voice_lost,
            self._usage,
        )
        dead_air = DeadAirProcessor(
            call,
            DeadAir(
                turn.dead_air.filler_after,
                turn.dead_air.filler if voices else (),
                turn.dead_air.give_up_after,
            ),
            playout,
            (announce.owes, *realtime.owing),
            fill,
            realtime.give_up,
        )
        self._counting = realtime.count
        self._opening, self._hanging_up = realtime.greet, realtime.hang_up
        self._ask, self.control.press = realtime.ask, realtime.announce
        self._reopening = realtime.greet
        idle = self._idle(lambda: realtime.caller_speaks or self._holds(), realtime.ask)
        words = turn_words(spoken(parts.config.topology.stt))
        late = self._rules is not None and self._rules.wait
        greet = realtime.greet_late if late else realtime.greet
        machine = self._answering(words, greet, realtime.announce, realtime.cut)
        return [*machine, realtime, idle, dead_air, announce]

    def _answering(
        self,
        words: TurnWords | None,
        greet: Callable[[], None],
        say: Callable[[str], int],
        cut: Callable[[], None],
        greets: Callable[[], bool] = lambda: False,
        *,
        transcribed: bool = False,
    ) -> list[Processor]:
        """Finds out who answered, in a call that we made."""
        if self._rules is None:
            return []
        machine = MachineProcessor(
            self._call,
            self._rules,
            self._transport.input_format,
            words,
            greet,
            cut,
            say,
            greets,
            transcribed=transcribed,
        )
        self.machine = machine
        self._opening = machine.begin
        return [machine]

    def _cut(self) -> None:
        """Have the agent fall silent, as if the callee had interrupted it."""
        active = self.playout.active()
        if self.machine is not None and active is not None:
            self.machine.emit(Interrupted(active, self._call.now_ms()))

    def _greets(self) -> bool:
        return self.playout.active() == 0

    def _holds(self) -> bool:
        return self.machine is not None and self.machine.holds

    def _idle(self, caller_open: Callable[[], bool], ask: Callable[[str], object]) -> IdleProcessor:
        idle = self._parts.config.turn.idle
        rules = IdleRules(idle.after, idle.say, idle.times, idle.then == "hangup")
        return IdleProcessor(
            self._call, rules, self.playout, lambda: self.control.deaf or caller_open(), ask
        )

    def _echo(self) -> list[Processor]:
        transport = self._transport
        return [EchoProcessor(self.playout, transport.input_format, transport.output_format)]

    # --- the end ------------------------------------------------------------------------------

    def _on_settled(self, reply: Reply) -> None:
        """A reply was heard or cut off: goodbyes and transfers wait for this."""
        self._usage.settled(reply)
        self._hold.rest()
        if self.machine is not None and not self._stopped and self.machine.settled(reply):
            return
        actions = self._actions
        if actions is None or self._stopped or self.playout.active() is not None:
            return
        if reply.interrupted and actions.failure is None:
            # The caller has more to say: a goodbye is taken back.
            if actions.closing:
                actions.revive()
            return
        actions.finish()


def _speculates(parts: Parts) -> bool:
    """Whether replies are begun while endpointing waits."""
    wanted = parts.config.turn.speculation
    return parts.llm[0].cheap if wanted == "auto" else wanted


def _turn_rules(parts: Parts) -> TurnRules:
    turn = parts.config.turn
    return TurnRules(
        pause_ms=turn.endpointing.pause,
        transcript_wait_ms=STT_ANSWERS_MS,
        barge_in=BargeInRules(
            enabled=turn.interruption.enabled,
            min_speech_ms=turn.interruption.min_speech,
            min_words=turn.interruption.min_words,
            resume_after_ms=turn.interruption.resume_after,
        ),
        supposes=_speculates(parts),
    )


def recorded(recorder: Recorder) -> tuple[Callable[[int, bytes], None], Callable[[int], None]]:
    """What of the agent's speech is recorded, and where it was cut off."""
    per_ms = recorder.sample_rate / 1000
    return (
        lambda at_ms, audio: recorder.agent(int(at_ms * per_ms), audio),
        lambda at_ms: recorder.agent_cleared(int(at_ms * per_ms)),
    )


def _endpointing(waits: EndpointingConfig, words: TurnWords | None) -> Endpointing:
    smart = waits.mode == "smart"
    return Endpointing(
        waits.min_delay, waits.max_delay, waits.number_delay, words if smart else None
    )


def members(candidates: Sequence[Candidate[Plug]], deadline: DeadlineConfig) -> list[Member[Plug]]:
    """Candidates with their deadlines."""
    return [
        Member(c.name, c.plug, Deadline(c.first_ms or deadline.first, deadline.gap), c.breaker)
        for c in candidates
    ]


def _rescue_rules(config: Config) -> RescueRules:
    rules = config.turn.dead_air
    target = rules.transfer
    return RescueRules(
        rules.say,
        rules.give_up_turns,
        TransferTarget(target.name, target.phone, say=target.say) if target else None,
        rules.goodbye,
    )


def _clock_variables(profile: Profile, variables: Mapping[str, Any] | None) -> dict[str, Any]:
    """The call's own variables, with the clock variables that the agent's texts refer to."""
    graph = profile.graph
    texts = [graph.global_prompt, profile.facts]
    texts += [text for node in graph.nodes.values() for text in (node.prompt, node.greeting)]
    wanted = set().union(*(names(text) for text in texts))
    now = datetime.now(UTC).astimezone()
    return {
        "_today": now.date().isoformat(),
        **time_variables(wanted, now),
        **(variables or {}),
    }
