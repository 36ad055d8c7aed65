"""The line to a call's speech-to-speech sessions: what each of them begins with, and its input."""

from __future__ import annotations

from flowcat_server.core.agent import Agent
from flowcat_server.core.audio import AudioFormat, Transcoder
from flowcat_server.core.interfaces import (
    Probe,
    RealtimeInput,
    RealtimeSetup,
    Speak,
    SpeechToSpeech,
    Usage,
)
from flowcat_server.core.playout import Playout
from flowcat_server.core.usage import UsageMeter
from flowcat_server.processors.answers import Answer, Answers, CallerTurns
from flowcat_server.processors.caller_audio import KEPT_MS, CallerAudio
from flowcat_server.processors.history import History
from flowcat_server.processors.inbox import Inbox
from flowcat_server.processors.items import Items
from flowcat_server.processors.lineup import Lineup
from flowcat_server.processors.transcribe import choose_format


class Connection:
    """Feeds the session of the provider in use; the next one is told what it has to know."""

    def __init__(
        self,
        providers: Lineup[SpeechToSpeech],
        agent: Agent,
        playout: Playout,
        source: AudioFormat,
        target: AudioFormat,
        history: History,
        items: Items,
        caller: CallerAudio,
        answers: Answers,
        turns: CallerTurns,
        usage: UsageMeter,
    ) -> None:
        """Connect to the provider in use.

        Args:
            providers: The provider and its fallbacks.
            agent: Where the call is in the graph.
            playout: The ledger.
            source: The call's input format.
            target: The call's output format.
            history: What was heard before.
            items: What the session says.
            caller: What it hears.
            answers: What it owes.
            turns: Whose words it has yet to tell.
            usage: Told of audio and tokens.
        """
        self._providers = providers
        self._agent = agent
        self._playout = playout
        self._source, self._target = source, target
        self._history = history
        self._items = items
        self._caller = caller
        self._answers = answers
        self._turns = turns
        self._usage = usage
        self.used = Usage()
        """Tokens of the session so far."""
        self.made_bytes = 0
        """Audio of the session that `count` has not counted."""
        self._first = True
        self._connect()

    def signal(self, item: RealtimeInput) -> None:
        """Input of the session under way."""
        self.inbox.signal(item)

    def begin(self, *, hold: bool, probe: bool) -> tuple[RealtimeSetup, Inbox[RealtimeInput]]:
        """What the next session begins with.

        Args:
            hold: The caller's audio is held back.
            probe: It is in doubt whether the caller was heard.
        """
        greeting, history, owed = "", [], self._answers.owed
        if not self._first:
            self.count()
            self._connect()
            history = self._history.begin(owed)
            if owed is not None:
                self._ask(owed)
        elif owed is not None and owed.turn == 0:  # a caller who has typed already was passed on
            greeting = owed.exact
            if not greeting:
                self.signal(Speak())
        if probe and owed is None:
            self.signal(Probe())
        if not hold:
            self._caller.send()
        self._first = False
        agent = self._agent
        setup = RealtimeSetup(
            instructions=agent.system_prompt(),
            tools=agent.tools(),
            input=self.input,
            output=self.output,
            greeting=greeting,
            history=history,
        )
        return setup, self.inbox

    def count(self) -> None:
        """The session is over: tell what it has used and not told of yet."""
        amount = self._usage.of("realtime", self._name)
        amount.audio_ms += self.input.duration_ms(self.inbox.taken_bytes)
        amount.audio_ms += self.output.duration_ms(self.made_bytes)
        amount.add_tokens(self.used)
        self.inbox.taken_bytes = self.made_bytes = 0
        self.used = Usage()

    def _connect(self) -> None:
        self._name = self._providers.current.name
        provider = self._providers.current.plug
        self.input = choose_format(self._source, provider.formats)
        self.output = choose_format(self._target, provider.formats)
        self._items.connect(Transcoder(self.output, self._target))
        self.inbox: Inbox[RealtimeInput] = Inbox(
            chunk_ms=provider.chunk_ms,
            bytes_per_ms=self.input.bytes_for(1000) / 1000,
            limit_ms=KEPT_MS,  # what was held back comes all at once
        )
        self._caller.connect(self.input, self.inbox.audio)

    def _ask(self, answer: Answer) -> None:
        """Have the session say what its predecessor owed."""
        again, rest = self._turns.hear_again(answer.turn), answer.rest(self._playout)
        if again and rest is not None:
            again = False
            self._turns.forget()
            self._caller.answered(self._turns.voice_ms)
        if not again:  # else it hears the caller's words once more, and answers unasked
            self.signal(rest or Speak())
