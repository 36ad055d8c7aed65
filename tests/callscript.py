"""A call on virtual time, written as a script: what the caller says, what the agent says.

The providers are the built-in scripted ones, the pipeline and the session are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from flowcat_server.config.load import Loaded, load_text
from flowcat_server.core import ended, events
from flowcat_server.core.agent import Profile
from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.control import Comeback, LineControl, Progress
from flowcat_server.core.events import CallEvent
from flowcat_server.core.graph import TransferTarget
from flowcat_server.core.interfaces import CallSink, PlayoutSource
from flowcat_server.pipeline import CallLine, Candidate, Parts
from flowcat_server.processors.machine import MachineRules
from flowcat_server.processors.record import Recorder
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import KINDS, Kind, Settings, find
from flowcat_server.session import Session
from flowcat_server.tools.toolbox import Tool, Toolbox

FRAME_MS = 20
VOICE = (b"\x00\x40" * 4 + b"\x00\xc0" * 4) * 20
"""20 ms of a loud square wave at 8 kHz: speech, to the scripted VAD."""
SILENCE = b"\x00" * 320

Event = TypeVar("Event", bound=CallEvent)


class LoopbackTransport:
    """The far end in memory: paced like a browser, or buffering with marks like a carrier."""

    delay_ms = 40

    def __init__(self, *, buffers: bool, audio: AudioFormat = PCM_8K, marks: bool = True) -> None:
        self.input_format = self.output_format = audio
        self.buffers = buffers
        self.heard: list[tuple[int, bytes]] = []
        """What was played: the time at which it sounded, and the audio."""
        self.handed: list[int] = []
        """When audio was handed to the wire."""
        self.cleared: list[int] = []
        self.hung_up: str | None = None
        self._answers_marks = marks
        self._sink: CallSink | None = None
        self._source: PlayoutSource | None = None
        self._ahead: list[bytes | str] = []

    def attach(self, sink: CallSink, source: PlayoutSource) -> None:
        self._sink, self._source = sink, source

    def wake(self) -> None:
        pass

    def clear(self) -> None:
        assert self._sink is not None
        self.cleared.append(self._sink.now_ms())
        self._ahead.clear()

    async def wait_connected(self) -> None:
        pass

    async def hang_up(self, reason: str) -> None:
        self.hung_up = reason

    def tick(self, voice: bytes) -> None:
        """20 ms pass: the caller's frame goes in, the agent's comes out."""
        sink, source = self._sink, self._source
        if sink is None or source is None:
            return
        size = self.output_format.bytes_for(FRAME_MS)
        if not self.buffers:
            audio = self._pull(sink, source, size)
            if audio:
                self.heard.append((sink.now_ms() + self.delay_ms, audio))
        else:
            self._fill(sink, source, size)
            self._play(sink)
        sink.receive_audio(voice)

    def _pull(self, sink: CallSink, source: PlayoutSource, size: int) -> bytes:
        waits = getattr(source, "waiting", None) is not None
        audio = source.pull(sink.now_ms(), size)
        if audio and not waits:
            self.handed.append(sink.now_ms())
        return audio

    def _fill(self, sink: CallSink, source: PlayoutSource, size: int) -> None:
        while source.queued() and source.lead_ms(sink.now_ms()) < 400:
            audio = self._pull(sink, source, 5 * size)
            self._ahead += [audio[at : at + size] for at in range(0, len(audio), size)]
        mark = source.take_mark()
        if mark is not None:
            self._ahead.append(mark)

    def _play(self, sink: CallSink) -> None:
        played = False
        while self._ahead:
            item = self._ahead[0]
            if isinstance(item, str):
                self._ahead.pop(0)
                if self._answers_marks:
                    sink.receive_mark(item)
            elif played:
                return
            else:
                played = True
                self._ahead.pop(0)
                self.heard.append((sink.now_ms() + self.delay_ms, item))

    def heard_ms(self) -> int:
        """All audio that was played."""
        return sum(self.output_format.duration_ms(len(audio)) for _, audio in self.heard)


def check_latencies(found: Sequence[CallEvent], handed: Sequence[int]) -> None:
    """The parts of every turn add up to what the wire saw, to the millisecond.

    Args:
        found: A call's events.
        handed: When the transport was handed audio.
    """
    speaking: int | None = None
    silent_since = -1
    began: dict[int, int | None] = {}
    """Since when the line had been silent when a reply got its sound; None: it was not."""
    for event in found:
        if isinstance(event, events.AgentSpeaking):
            if event.speaking:
                began[event.turn] = None if silent_since == event.at_ms else silent_since
            speaking = event.turn if event.speaking else None
            silent_since = event.at_ms
        if not isinstance(event, events.TurnCompleted) or event.latency is None:
            continue
        parts = event.latency.parts()
        assert min(parts.values()) >= 0, event
        first_ms = event.started_ms + sum(parts.values())
        assert sum(parts.values()) == event.latency.total_ms
        assert first_ms in handed, f"nothing was sent at {first_ms}: {event}"
        since = began.get(event.turn)
        if since is not None:
            assert first_ms == next(at for at in handed if at > since), event
    assert speaking is None


class Script:
    """One call. Its methods let time pass."""

    def __init__(self, session: Session, transport: LoopbackTransport) -> None:
        self.session = session
        self.transport = transport
        self.events: list[CallEvent] = []
        session.subscribe(self.events.append)

    async def passes(self, ms: int, voice: bytes = SILENCE) -> None:
        """Time passes on the line; with `voice`, the caller speaks."""
        for _ in range(ms // FRAME_MS):
            if self.session.reason is not None:
                return
            self.transport.tick(voice)
            await asyncio.sleep(FRAME_MS / 1000)

    async def speaks(self, ms: int = 800, silence_ms: int = 700) -> None:
        """The caller says something (the scripted transcriber knows what) and waits."""
        await self.passes(ms, VOICE)
        await self.passes(silence_ms)

    async def until(self, kind: type[Event], *, within_ms: int = 20_000, count: int = 1) -> Event:
        """Time passes until the call has published `count` events of a kind; the last of them."""
        for _ in range(within_ms // FRAME_MS):
            found = self.all(kind)
            if len(found) >= count:
                return found[count - 1]
            if self.session.reason is not None:
                await asyncio.sleep(FRAME_MS / 1000)
            else:
                await self.passes(FRAME_MS)
        raise AssertionError(f"no {kind.__name__} within {within_ms} ms: {self.events}")

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def agent_lines(self) -> list[str]:
        """What of each reply was heard."""
        return [event.text for event in self.all(events.AgentHeard)]

    @property
    def ended(self) -> str | None:
        return self.session.reason


class Switchboard:
    """A far end that can be asked for things; it passes every call on, or fails to."""

    def __init__(self, failure: str = "", *, takes_keys: bool = False, takes_ms: int = 0) -> None:
        self.failure = failure
        self.transfers: list[tuple[TransferTarget, str, Progress]] = []
        self.keys: list[str] = []
        self._takes_keys = takes_keys
        self._takes_ms = takes_ms

    async def transfer(
        self, target: TransferTarget, introduction: Awaitable[str], progress: Progress
    ) -> str:
        self.transfers.append((target, await introduction, progress))
        await asyncio.sleep(self._takes_ms / 1000)
        return self.failure

    async def press(self, keys: str) -> bool:
        if self._takes_keys:
            self.keys.append(keys)
        return self._takes_keys


def loaded(yaml: str, folder: Path = Path()) -> Loaded:
    """An agent file; providers that it does not name are the scripted ones."""
    return load_text(yaml, folder / "agent.yaml", environ={})


async def parts(
    file: Loaded,
    tools: Sequence[Tool] = (),
    extra: Mapping[str, Sequence[Any]] | None = None,
    name: str = "test",
) -> Parts:
    config = file.config
    toolbox = Toolbox(tools)
    plugs: dict[str, list[Candidate[Any]]] = {}
    for kind, path, spec in config.topology.used():
        provider = find(_kind(kind), spec.provider)
        assert provider is not None
        plug = provider.create(
            Settings(
                spec.provider,
                spec.model,
                spec.voice,
                spec.language,
                SecretStr(""),
                spec.base_url,
                provider.options(**spec.options),
                Http(),
                Path(),
            )
        )
        await plug.start()
        plugs.setdefault(kind, []).append(Candidate(path, plug, spec.timeout))
    for kind, given in (extra or {}).items():
        plugs[kind] = [Candidate(f"{kind}.{i}", plug) for i, plug in enumerate(given)]
    return Parts(
        config,
        Profile(name, file.graph, config.agent.seed_vars, toolbox.specs, knowledge=file.knowledge),
        toolbox,
        vad=plugs["vad"][0].plug if "vad" in plugs else None,
        turn=plugs["turn"][0] if "turn" in plugs else None,
        stt=plugs.get("stt", ()),
        llm=plugs.get("llm", ()),
        tts=plugs.get("tts", ()),
        realtime=plugs.get("realtime", ()),
    )


def _kind(kind: str) -> Kind:
    assert kind in KINDS
    return kind  # type: ignore[return-value]


@asynccontextmanager
async def call(
    yaml: str,
    *,
    buffers: bool = True,
    marks: bool = True,
    audio: AudioFormat = PCM_8K,
    tools: Sequence[Tool] = (),
    extra: Mapping[str, Sequence[Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    recorder: Recorder | None = None,
    shared: Parts | None = None,
    machine: MachineRules | None = None,
    control: LineControl | None = None,
    comeback: Comeback | None = None,
    hears_keys: bool = False,
) -> AsyncIterator[Script]:
    """A live call of an agent; hung up by the caller at the end of the block.

    `shared`: what several calls of one process share; else they are made of the other arguments.
    `machine`: we made the call.
    """
    shared = shared or await parts(loaded(yaml), tools, extra)
    transport = LoopbackTransport(buffers=buffers, audio=audio, marks=marks)

    def build(owner: Session) -> CallLine:
        line = CallLine(
            owner,
            shared,
            transport,
            recorder,
            variables,
            machine,
            comeback=comeback,
            hears_keys=hears_keys,
        )
        owner.subscribe(line.on_event)
        return line

    session = Session(
        "call-1",
        transport,
        build,
        agent_name="test",
        channel="loopback",
        max_call_ms=shared.config.limits.max_call,
        media_timeout_ms=shared.config.limits.media_timeout,
    )
    session.control = control or Switchboard()
    script = Script(session, transport)
    task = asyncio.get_running_loop().create_task(session.run())
    await asyncio.sleep(0)
    try:
        yield script
    finally:
        session.end(ended.CALLER_HUNG_UP)
        with contextlib.suppress(asyncio.CancelledError):
            await task
    check_latencies(script.events, transport.handed)
