"""OpenAI's Realtime conversation as data: our input becomes its events, its events become ours.

https://developers.openai.com/api/docs/guides/realtime-conversations, the generally available form
(``session.type`` is ``realtime``). No I/O and no clock here.

Theory of operation. The vendor allows one response at a time. It starts one by itself when its
voice activity detection hears the caller's turn end, and cancels the running one when the caller
begins to speak. Everything else that should make the model speak (a greeting, a tool's result,
typed text) needs a ``response.create``, which is an error while a response is active. So a wish
to respond is kept in `_wanted` and becomes a message once no response is active, every tool call
has its result, and the caller is not speaking: their turn's own response will cover it.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K, AudioFormat
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Alive,
    Audio,
    CallerSpeaking,
    CallerTranscript,
    Correct,
    GoOn,
    Probe,
    RealtimeEvent,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    Speak,
    ToolCall,
    ToolResult,
    ToolSpec,
    Truncate,
    Update,
    Usage,
)
from flowcat_server.errors import ProviderError, ProviderRefused, ProviderUnavailable
from flowcat_server.providers.faults import redact, stream_error
from flowcat_server.providers.realtime._openai_history import correction, history_items

FORMATS: dict[AudioFormat, dict[str, Any]] = {
    MULAW_8K: {"type": "audio/pcmu"},
    ALAW_8K: {"type": "audio/pcma"},
    PCM_24K: {"type": "audio/pcm", "rate": 24000},
}

MAX_ITEMS = 64
"""How many of the latest items are remembered."""

SETUP = "setup"
"""``event_id`` of the first session.update; an error that names it ends the session."""

RESPOND = "respond"
"""``event_id`` of every response.create."""

PROBE = "probe"
"""``event_id`` of the session.update that only asks for a sign of life."""

# The caller or the vendor was quicker; nothing is wrong.
_HARMLESS = frozenset({"response_cancel_not_active"})
_FATAL = frozenset({"session_expired", "insufficient_quota", "invalid_api_key"})

log = structlog.get_logger()

Json = dict[str, Any]


def wire_tools(tools: Sequence[ToolSpec]) -> list[Json]:
    """Functions in the form of a session, which is flatter than that of chat completions."""
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        }
        for tool in tools
    ]


class Conversation:
    """One session's state. Give it our input with `send` and the vendor's events with `receive`.

    Both return or collect messages for the vendor; `take` hands out what `receive` caused.
    """

    def __init__(self, provider: str, key: str, session: Json, setup: RealtimeSetup) -> None:
        """`session` is what the options say about the session."""
        self._provider, self._key = provider, key
        self._session, self._setup = session, setup
        self._output = setup.output
        self._instructions = setup.instructions
        self.ready = False
        """The vendor has accepted the session's settings."""
        self._replies: list[Json] = []
        self._wanted: Json | None = None
        self._active = False
        self._caller_speaking = False
        self._open_calls: set[str] = set()
        self._played: OrderedDict[str, int] = OrderedDict()
        self._cut: OrderedDict[str, None] = OrderedDict()
        self._heard: OrderedDict[str, str] = OrderedDict()
        self._item = ""
        self._failures = 0
        self._usage = Usage()
        self._probed = 0

    # --- to the vendor ------------------------------------------------------------------------

    def opening(self) -> Json:
        """The first message. The greeting follows when the vendor has accepted it."""
        setup = self._setup
        session = {
            "type": "realtime",
            "instructions": setup.instructions,
            "tools": wire_tools(setup.tools),
            **self._session,
        }
        audio = session.setdefault("audio", {})
        session["audio"] = {
            **audio,
            "input": {**audio.get("input", {}), "format": FORMATS[setup.input]},
            "output": {**audio.get("output", {}), "format": FORMATS[setup.output]},
        }
        return {"type": "session.update", "event_id": SETUP, "session": session}

    def send(self, items: Sequence[RealtimeInput]) -> list[Json]:
        """Messages for a batch of input; audio that follows audio goes as one."""
        messages: list[Json] = []
        sound = bytearray()
        for item in items:
            if isinstance(item, Audio):
                sound += item.payload
                continue
            self._flush(sound, messages)
            messages.extend(self._control(item))
        self._flush(sound, messages)
        messages.extend(self._respond())
        return messages

    def take(self) -> list[Json]:
        """Messages that the vendor's last events have caused."""
        messages, self._replies = self._replies, []
        messages.extend(self._respond())
        return messages

    def _flush(self, sound: bytearray, messages: list[Json]) -> None:
        if sound:
            audio = base64.b64encode(sound).decode()
            messages.append({"type": "input_audio_buffer.append", "audio": audio})
            sound.clear()

    def _control(self, item: RealtimeInput) -> Iterator[Json]:
        if isinstance(item, ToolResult):
            yield self._tool_output(item.call_id, item.result)
            if item.respond:
                self._wanted = self._wanted or {}
        elif isinstance(item, Truncate):
            yield from self._truncate(item)
        elif isinstance(item, Say):
            content = [{"type": "input_text", "text": item.text}]
            message = {"type": "message", "role": "user", "content": content}
            yield {"type": "conversation.item.create", "item": message}
            self._wanted = self._wanted or {}
        elif isinstance(item, Speak):
            self._wanted = self._exactly(item.text) if item.text else self._wanted or {}
        elif isinstance(item, GoOn):
            self._wanted = self._rest(item.said)
        elif isinstance(item, Correct):
            yield from correction(self._setup.history, item)
        elif isinstance(item, Probe):
            self._probed += 1
            same: Json = {"type": "realtime", "instructions": self._instructions}
            yield {"type": "session.update", "event_id": PROBE, "session": same}
        elif isinstance(item, Update):
            self._instructions = item.instructions
            session = {
                "type": "realtime",
                "instructions": item.instructions,
                "tools": wire_tools(item.tools),
            }
            yield {"type": "session.update", "session": session}

    def _tool_output(self, call_id: str, output: str) -> Json:
        self._open_calls.discard(call_id)
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        return {"type": "conversation.item.create", "item": item}

    def _truncate(self, cut: Truncate) -> Iterator[Json]:
        """Make the model forget what was not heard.

        An end beyond the item's audio is an error at the vendor, and so is an item cut to
        nothing: then the whole item is deleted.
        """
        if self._active and cut.item == self._item:
            yield {"type": "response.cancel"}
        if cut.item in self._cut or cut.item not in self._played:
            return
        _remember(self._cut, cut.item, None)
        if cut.heard_ms <= 0:
            yield {"type": "conversation.item.delete", "item_id": cut.item}
        elif cut.heard_ms < self._output.duration_ms(self._played[cut.item]):
            yield {
                "type": "conversation.item.truncate",
                "item_id": cut.item,
                "content_index": 0,
                "audio_end_ms": cut.heard_ms,
            }

    def _respond(self) -> Iterator[Json]:
        waiting = self._active or self._open_calls or self._caller_speaking or not self.ready
        if self._wanted is not None and not waiting:
            response, self._wanted = self._wanted, None
            self._active = True
            message: Json = {"type": "response.create", "event_id": RESPOND}
            yield {**message, "response": response} if response else message

    # --- from the vendor ----------------------------------------------------------------------

    def receive(self, event: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        """Our events for one of the vendor's; kinds that are not known are none.

        Raises `ProviderError` when the session cannot go on, `ValueError`, `KeyError` or
        `TypeError` when the event is not of its documented shape.
        """
        kind = event["type"]
        if kind == "response.output_audio.delta":
            yield from self._audio(event)
        elif kind == "response.output_audio_transcript.delta":
            if event["item_id"] not in self._cut:
                yield AgentTranscript(str(event["delta"]), str(event["item_id"]))
        elif kind.startswith("conversation.item.input_audio_transcription."):
            yield from self._transcription(kind.rpartition(".")[2], event)
        elif kind.startswith("input_audio_buffer.speech_"):
            yield from self._speech(kind.endswith("started"), str(event.get("item_id") or ""))
        elif kind == "response.output_item.done":
            yield from self._item_done(event["item"])
        elif kind == "response.created":
            self._active = True
        elif kind == "response.done":
            yield from self._response_done(event["response"])
        elif kind == "session.updated":
            self._updated()
            if self._probed:
                self._probed -= 1
                yield Alive()
        elif kind == "error" and self._describe(event["error"])[1] == PROBE:
            yield Alive()
        elif kind == "error":
            self._error(event["error"])

    def _updated(self) -> None:
        if self.ready:
            return
        self.ready = True
        self._replies += history_items(self._setup.history)
        if self._setup.greeting:
            self._wanted = self._exactly(self._setup.greeting)

    def _exactly(self, text: str) -> Json:
        """A response of these words."""
        # They replace the session's instructions for this response.
        instructions = (
            f"{self._instructions}\n\nSay exactly these words now, and nothing else:\n{text}"
        )
        return {"instructions": instructions.strip(), "tool_choice": "none"}

    def _rest(self, said: str) -> Json:
        """A response that goes on where another one broke off."""
        instructions = (
            f"{self._instructions}\n\nYour last answer was cut off by a fault of the line. The "
            f'caller has heard this much of it: "{said}" Go on from there with the next word. Do '
            "not repeat what was heard and do not mention the fault."
        )
        return {"instructions": instructions.strip()}

    def _audio(self, event: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        item = str(event["item_id"])
        if item in self._cut:
            return
        payload = base64.b64decode(event["delta"], validate=True)
        self._item = item
        _remember(self._played, item, self._played.get(item, 0) + len(payload))
        if payload:
            yield AgentAudio(payload, item)

    def _transcription(self, step: str, event: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        item = str(event["item_id"])
        if step == "delta":
            text = self._heard.get(item, "") + str(event.get("delta") or "")
            _remember(self._heard, item, text)
            yield CallerTranscript(text, final=False, item=item)
        elif step == "completed":
            self._heard.pop(item, None)
            yield CallerTranscript(str(event["transcript"]), final=True, item=item)
        elif step == "failed":
            self._heard.pop(item, None)
            _, _, text = self._describe(event.get("error"))
            log.warning("s2s_transcription_failed", provider=self._provider, reason=text)
            yield CallerTranscript("", final=True, item=item)

    def _speech(self, speaking: bool, item: str) -> Iterator[RealtimeEvent]:
        self._caller_speaking = speaking
        if not speaking and self._vad_responds():
            # The response to this turn sees everything that was to be responded to; and a tool
            # that was forgotten over it must not hold back the responses after it.
            self._wanted = None
            self._open_calls.clear()
        yield CallerSpeaking(speaking, item)

    def _vad_responds(self) -> bool:
        detection = self._session.get("audio", {}).get("input", {}).get("turn_detection") or {}
        return bool(detection.get("create_response", True))

    def _item_done(self, item: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        # Sent for interrupted items as well: a call that is not complete must not run.
        if item["type"] != "function_call" or item.get("status") != "completed":
            return
        call_id, name = str(item["call_id"]), str(item["name"])
        try:
            arguments = msgspec.json.decode(item["arguments"] or "{}")
        except (msgspec.DecodeError, RecursionError):
            arguments = None
        if isinstance(arguments, dict):
            self._open_calls.add(call_id)
            yield ToolCall(call_id, name, arguments)
        else:
            self._replies.append(
                self._tool_output(call_id, "error: the arguments are not a JSON object")
            )
            self._wanted = self._wanted or {}

    def _response_done(self, response: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        self._active = False
        yield from self._count(response.get("usage") or {})
        item, self._item = self._item, ""
        status = response.get("status")
        if status == "failed":
            self._response_failed((response.get("status_details") or {}).get("error"))
            return
        if status == "incomplete":
            details = response.get("status_details") or {}
            log.warning("s2s_cut", provider=self._provider, reason=str(details.get("reason")))
        else:
            self._failures = 0
        yield ResponseEnded(item)

    def _response_failed(self, error: Any) -> None:
        """One failed response is asked for again, for somebody waits for it; two end it."""
        self._failures += 1
        failure = stream_error(self._provider, {"error": error or "response failed"}, self._key)
        if self._failures > 1 or isinstance(failure, ProviderRefused):
            raise failure
        log.warning("s2s_response_failed", provider=self._provider, reason=str(failure))
        self._wanted = self._wanted or {}

    def _error(self, error: Any) -> None:
        code, about, text = self._describe(error)
        if about == SETUP:
            raise ProviderRefused(self._provider, text)
        if code == "session_expired":
            raise ProviderUnavailable(self._provider, text)
        if code in _FATAL:
            raise self._failure(error)
        if code == "conversation_already_has_active_response":
            self._active = True
            self._wanted = self._wanted or {}
        elif about == RESPOND:
            self._active = False
            self._response_failed(error)
        elif code not in _HARMLESS:
            # The vendor says that most errors leave the session in order.
            log.warning("s2s_error", provider=self._provider, code=code, reason=text)

    def _failure(self, error: Any) -> ProviderError:
        return stream_error(self._provider, {"error": error}, self._key)

    def _describe(self, error: Any) -> tuple[str, str, str]:
        if not isinstance(error, Mapping):
            return "", "", redact(str(error), self._key)[:300]
        text = redact(str(error.get("message") or error.get("type") or ""), self._key)
        return str(error.get("code") or ""), str(error.get("event_id") or ""), text[:300]

    def _count(self, usage: Mapping[str, Any]) -> Iterator[RealtimeEvent]:
        """Usage comes per response; ours is that of the session so far."""
        if not usage:
            return
        details = usage.get("input_token_details") or {}
        before = self._usage
        self._usage = Usage(
            before.input_tokens + int(usage.get("input_tokens") or 0),
            before.output_tokens + int(usage.get("output_tokens") or 0),
            before.cached_tokens + int(details.get("cached_tokens") or 0),
        )
        yield self._usage


def _remember(memory: OrderedDict[str, Any], item: str, value: Any) -> None:
    memory[item] = value
    memory.move_to_end(item)
    if len(memory) > MAX_ITEMS:
        memory.popitem(last=False)
