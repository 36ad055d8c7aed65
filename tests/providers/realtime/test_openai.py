"""The OpenAI Realtime client against a vendor that keeps the vendor's rules."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K, AudioFormat, encode
from flowcat_server.core.interfaces import (
    AgentAudio,
    AgentTranscript,
    Alive,
    Audio,
    CallerSpeaking,
    CallerTranscript,
    Correct,
    GoOn,
    Message,
    Probe,
    RealtimeEvent,
    RealtimeInput,
    RealtimeSetup,
    ResponseEnded,
    Say,
    Speak,
    ToolCall,
    ToolResult,
    Truncate,
    Update,
    Usage,
)
from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from flowcat_server.providers.http import Http
from flowcat_server.providers.realtime import openai
from flowcat_server.providers.realtime._openai import Conversation
from flowcat_server.providers.realtime.openai import PROVIDER, OpenAiRealtime
from tests.fakes.inbox import Inbox
from tests.fakes.model_requests import LOOK_UP
from tests.fakes.openai_realtime_server import RealtimeServer, Reply
from tests.fakes.settings import KEY, settings

CORPUS = Path(__file__).parents[2] / "corpus" / "openai_realtime" / "call.jsonl"


@pytest.fixture
async def server() -> AsyncIterator[RealtimeServer]:
    async with RealtimeServer() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http()
    yield client
    await client.close()


def setup(greeting: str = "", audio: AudioFormat = MULAW_8K) -> RealtimeSetup:
    return RealtimeSetup("You answer the phone.", (LOOK_UP,), audio, audio, greeting)


def connect(server: RealtimeServer, http: Http, **block: Any) -> OpenAiRealtime:
    base_url = block.pop("base_url", server.base_url)
    return OpenAiRealtime(settings(PROVIDER, name="openai", http=http, base_url=base_url, **block))


class Call:
    """A session whose events are collected in the background."""

    def __init__(self) -> None:
        self.inbox: Inbox[RealtimeInput] = Inbox()
        self.events: list[RealtimeEvent] = []
        self._news = asyncio.Condition()

    async def listen(self, stream: Any) -> None:
        try:
            async for event in stream:
                async with self._news:
                    self.events.append(event)
                    self._news.notify_all()
        finally:
            await stream.aclose()

    async def until(self, kind: type, count: int = 1) -> Any:
        async with asyncio.timeout(5), self._news:
            await self._news.wait_for(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def all(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def call(
    server: RealtimeServer, http: Http, about: RealtimeSetup | None = None, **block: Any
):
    """A running call, hung up by our side at the end."""
    running = Call()
    stream = connect(server, http, **block).converse(about or setup(), running.inbox)
    task = asyncio.create_task(running.listen(stream))
    await server.got("session.update")
    yield running
    running.inbox.end()
    async with asyncio.timeout(5):
        await task


def tone(form: AudioFormat, ms: int, level: int = 8000) -> bytes:
    samples = form.sample_rate * ms // 1000
    return encode(level.to_bytes(2, "little", signed=True) * samples, form.encoding)


# --- a session --------------------------------------------------------------------------------


async def test_settings_are_the_first_message(server: RealtimeServer, http: Http):
    async with call(server, http, language="en-GB", turn_detection={"silence_duration_ms": 300}):
        pass
    assert server.received[0]["session"] == {
        "type": "realtime",
        "instructions": "You answer the phone.",
        "output_modalities": ["audio"],
        "tools": [
            {
                "type": "function",
                "name": "look_up",
                "description": "Look up free times.",
                "parameters": LOOK_UP.parameters,
            }
        ],
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
                "transcription": {"model": "gpt-transcribe", "language": "en"},
            },
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
        },
    }
    assert server.query == {"model": "gpt-realtime-2.1"}
    assert server.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("form", "wire"),
    [
        (MULAW_8K, {"type": "audio/pcmu"}),
        (ALAW_8K, {"type": "audio/pcma"}),
        (PCM_24K, {"type": "audio/pcm", "rate": 24000}),
    ],
    ids=lambda value: getattr(value, "encoding", ""),
)
async def test_audio_goes_through_untouched(
    server: RealtimeServer, http: Http, form: AudioFormat, wire: dict[str, Any]
):
    server.replies.append(Reply("Good day.", audio_ms=130))
    async with call(server, http, setup("Good day.", form)) as phone:
        quiet = form.silence(20)
        pieces = [bytes(value ^ n for value in quiet) for n in (0, 1, 0)]
        phone.inbox.put(*(Audio(piece, 0) for piece in pieces))
        append = await server.got("input_audio_buffer.append")
        await phone.until(ResponseEnded)
    assert base64.b64decode(append["audio"]) == b"".join(pieces)
    heard = phone.all(AgentAudio)
    assert b"".join(piece.audio for piece in heard) == form.silence(130)
    assert server.received[0]["session"]["audio"]["input"]["format"] == wire
    assert {piece.item for piece in heard} == {phone.all(ResponseEnded)[0].item}
    assert "".join(piece.text for piece in phone.all(AgentTranscript)) == "Good day."


async def test_the_greeting_is_said_word_for_word_and_calls_no_tool(
    server: RealtimeServer, http: Http
):
    async with call(server, http, setup("Clinic, good day.")) as phone:
        asked = await server.got("response.create")
        await phone.until(ResponseEnded)
    assert "Clinic, good day." in asked["response"]["instructions"]
    assert "You answer the phone." in asked["response"]["instructions"]
    assert asked["response"]["tool_choice"] == "none"


async def test_it_speaks_unasked_in_the_words_it_is_given(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        phone.inbox.put(Update("You sell flowers.", ()), Speak("Are you still there?"))
        asked = await server.got("response.create")
        await phone.until(ResponseEnded)
        phone.inbox.put(Speak())
        free = await server.got("response.create", 2)
        await phone.until(ResponseEnded, 2)
    instructions = asked["response"]["instructions"]
    assert "You sell flowers." in instructions
    assert instructions.endswith("Are you still there?")
    assert asked["response"]["tool_choice"] == "none"
    assert "response" not in free


async def test_a_failed_transcription_is_an_empty_one(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        await server.say("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="item_7")
        kind = "conversation.item.input_audio_transcription.failed"
        await server.say(kind, item_id="item_7", content_index=0, error={"message": "no"})
        told = await phone.until(CallerTranscript)
    assert (told.text, told.final, told.item) == ("", True, "item_7")
    assert phone.all(CallerSpeaking)[0].item == "item_7"


async def test_without_a_greeting_the_caller_speaks_first(server: RealtimeServer, http: Http):
    server.hears.append("Are you open?")
    server.replies.append(Reply("Yes, we are."))
    async with call(server, http) as phone:
        phone.inbox.put(Audio(tone(MULAW_8K, 300), 300), Audio(MULAW_8K.silence(300), 600))
        await phone.until(ResponseEnded)
    assert server.all("response.create") == []
    assert [event.speaking for event in phone.all(CallerSpeaking)] == [True, False]
    assert phone.all(CallerTranscript) == [
        CallerTranscript("Are ", final=False),
        CallerTranscript("Are you ", final=False),
        CallerTranscript("Are you open?", final=True),
    ]
    assert phone.all(Usage)[-1] == Usage(20, 10, 5)


async def test_usage_is_that_of_the_whole_session(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        phone.inbox.put(Say("One?"))
        await phone.until(ResponseEnded)
        phone.inbox.put(Say("Two?"))
        await phone.until(ResponseEnded, 2)
    assert phone.all(Usage)[-1] == Usage(40, 20, 10)


# --- tools ------------------------------------------------------------------------------------


async def test_a_tool_result_is_answered_by_speech(server: RealtimeServer, http: Http):
    server.replies.append(Reply("One moment.", calls=[("look_up", '{"day": "Friday"}')]))
    server.replies.append(Reply("At nine."))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Friday?"))
        wanted = await phone.until(ToolCall)
        assert (wanted.name, wanted.arguments) == ("look_up", {"day": "Friday"})
        phone.inbox.put(ToolResult(wanted.id, "9:00"))
        await phone.until(ResponseEnded, 2)
    said = "".join(piece.text for piece in phone.all(AgentTranscript))
    assert said == "One moment.At nine."
    assert not [event for event in server.sent if event["type"] == "error"]


async def test_several_tools_get_one_answer_after_the_last_result(
    server: RealtimeServer, http: Http
):
    server.replies.append(Reply(calls=[("look_up", "{}"), ("look_up", "")]))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Friday?"))
        second = await phone.until(ToolCall, 2)
        first = phone.all(ToolCall)[0]
        phone.inbox.put(ToolResult(second.id, "9:00"))
        await server.got("conversation.item.create", 2)
        assert len(server.all("response.create")) == 1
        phone.inbox.put(ToolResult(first.id, "10:00"))
        await server.got("response.create", 2)
        await phone.until(ResponseEnded, 2)


async def test_a_result_may_be_left_without_an_answer(server: RealtimeServer, http: Http):
    server.replies.append(Reply(calls=[("end_call", "{}")]))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Bye."))
        wanted = await phone.until(ToolCall)
        phone.inbox.put(ToolResult(wanted.id, "ok", respond=False))
        await server.got("conversation.item.create", 2)
    assert len(server.all("response.create")) == 1


async def test_a_result_during_a_response_waits_for_its_end(server: RealtimeServer, http: Http):
    hold = asyncio.Event()
    server.replies.append(Reply(calls=[("look_up", "{}")]))
    server.replies.append(Reply("Still here.", hold=hold))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Friday?"))
        wanted = await phone.until(ToolCall)
        await phone.until(ResponseEnded)
        phone.inbox.put(Audio(tone(MULAW_8K, 200), 0), Audio(MULAW_8K.silence(300), 0))
        await phone.until(AgentAudio)
        phone.inbox.put(ToolResult(wanted.id, "9:00"))
        await server.got("conversation.item.create", 2)
        assert len(server.all("response.create")) == 1
        hold.set()
        await server.got("response.create", 2)
        await phone.until(ResponseEnded, 3)
    assert not [event for event in server.sent if event["type"] == "error"]


async def test_unreadable_arguments_are_given_back_to_the_model(server: RealtimeServer, http: Http):
    server.replies.append(Reply(calls=[("look_up", '{"day": ')]))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Friday?"))
        output = await server.got("conversation.item.create", 2)
        await server.got("response.create", 2)
        await phone.until(ResponseEnded, 2)
    assert "not a JSON object" in output["item"]["output"]
    assert phone.all(ToolCall) == []


async def test_another_node_changes_instructions_and_tools(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        phone.inbox.put(Update("Take the booking.", ()))
        update = await server.got("session.update", 2)
    assert update["session"] == {
        "type": "realtime",
        "instructions": "Take the booking.",
        "tools": [],
    }


# --- taking over ------------------------------------------------------------------------------

BEFORE = (
    Message("assistant", "Good day."),
    Message("user", "When are you free?"),
    Message("assistant", "Let me", (ToolCall("call-7", "look_up", {"day": "Friday"}),)),
    Message("tool", "9:00", tool_call_id="call-7"),
    Message("assistant", "At nine", interrupted=True),
)


def resumed(*history: Message) -> RealtimeSetup:
    return replace(setup(), history=history or BEFORE)


def no_errors(server: RealtimeServer) -> bool:
    return not [event for event in server.sent if event["type"] == "error"]


async def test_a_session_that_takes_over_knows_what_was_said(server: RealtimeServer, http: Http):
    async with call(server, http, resumed()):
        await server.got("conversation.item.create", 6)
    items = [message["item"] for message in server.all("conversation.item.create")]
    assert [(item["type"], item.get("role")) for item in items] == [
        ("message", "assistant"),
        ("message", "user"),
        ("message", "assistant"),
        ("function_call", None),
        ("function_call_output", None),
        ("message", "assistant"),
    ]
    assert items[1]["content"] == [{"type": "input_text", "text": "When are you free?"}]
    assert items[2]["content"] == [{"type": "output_text", "text": "Let me"}]
    assert items[3]["call_id"] == items[4]["call_id"] == "call-7"
    assert json.loads(items[3]["arguments"]) == {"day": "Friday"}
    assert items[5]["content"][0]["text"] == "At nine [interrupted by the caller]"
    assert server.all("response.create") == []
    assert no_errors(server)


async def test_an_answer_is_gone_on_with(server: RealtimeServer, http: Http):
    async with call(server, http, resumed()) as phone:
        phone.inbox.put(GoOn("At nine"))
        await phone.until(ResponseEnded)
    (asked,) = server.all("response.create")
    assert asked["response"]["instructions"].startswith("You answer the phone.")
    assert '"At nine"' in asked["response"]["instructions"]
    assert "tool_choice" not in asked["response"]


@pytest.mark.parametrize("index", [0, 2, 4])
async def test_words_that_were_not_heard_are_replaced_in_their_place(
    server: RealtimeServer, http: Http, index: int
):
    async with call(server, http, resumed()) as phone:
        phone.inbox.put(Correct(index, "At"))
        created = await server.got("conversation.item.create", 7)
    assert created["item"]["content"][0]["text"] == "At [interrupted by the caller]"
    before = {0: "root", 2: "said_1", 4: "said_3"}[index]
    assert created["previous_item_id"] == before
    (gone,) = server.all("conversation.item.delete")
    assert gone["item_id"] == f"said_{index}"
    assert no_errors(server)


async def test_words_of_which_none_was_heard_are_taken_away(server: RealtimeServer, http: Http):
    async with call(server, http, resumed()) as phone:
        phone.inbox.put(Correct(4, ""), Say("Go on."))
        await phone.until(ResponseEnded)
    assert len(server.all("conversation.item.delete")) == 1
    assert len(server.all("conversation.item.create")) == 7
    assert no_errors(server)


async def test_it_gives_a_sign_of_life_and_changes_nothing(server: RealtimeServer, http: Http):
    async with call(server, http, setup()) as phone:
        phone.inbox.put(Update("Take the booking.", ()), Probe())
        await phone.until(Alive)
    assert server.all("session.update")[2]["session"] == {
        "type": "realtime",
        "instructions": "Take the booking.",
    }
    assert server.session["tools"] == []


async def test_an_error_is_a_sign_of_life_too(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        await asyncio.sleep(0.05)
        await server.error("rate_limit_exceeded", "not so fast", about="probe")
        await phone.until(Alive)


# --- barge-in ---------------------------------------------------------------------------------


async def interrupted(server: RealtimeServer, http: Http, heard_ms: int) -> Call:
    hold = asyncio.Event()
    server.replies.append(Reply("We open at nine or ten.", audio_ms=400, hold=hold))
    async with call(server, http) as phone:
        phone.inbox.put(Say("When?"))
        first = await phone.until(AgentAudio)
        phone.inbox.put(Audio(tone(MULAW_8K, 100), 0))
        await phone.until(CallerSpeaking)
        phone.inbox.put(Truncate(first.item, heard_ms))
        phone.inbox.put(Audio(MULAW_8K.silence(300), 0))
        await phone.until(ResponseEnded, 2)
    return phone


async def test_what_was_not_heard_is_forgotten(server: RealtimeServer, http: Http):
    phone = await interrupted(server, http, heard_ms=20)
    assert server.all("conversation.item.truncate") == [
        {
            "type": "conversation.item.truncate",
            "item_id": phone.all(AgentAudio)[0].item,
            "content_index": 0,
            "audio_end_ms": 20,
        }
    ]
    assert [event for event in server.sent if event["type"] == "conversation.item.truncated"]


async def test_what_was_not_heard_at_all_is_deleted(server: RealtimeServer, http: Http):
    await interrupted(server, http, heard_ms=0)
    assert server.all("conversation.item.truncate") == []
    assert [event for event in server.sent if event["type"] == "conversation.item.deleted"]


async def test_what_was_heard_whole_is_kept(server: RealtimeServer, http: Http):
    await interrupted(server, http, heard_ms=5000)
    assert not server.all("conversation.item.truncate")
    assert not server.all("conversation.item.delete")


async def test_our_own_interruption_cancels_and_lets_no_late_audio_through(
    server: RealtimeServer, http: Http
):
    hold = asyncio.Event()
    server.replies.append(Reply("We open at nine.", audio_ms=400, hold=hold))
    async with call(server, http) as phone:
        phone.inbox.put(Say("When?"))
        first = await phone.until(AgentAudio)
        phone.inbox.put(Truncate(first.item, 20))
        await server.got("response.cancel")
        where = {"item_id": first.item, "response_id": "r", "output_index": 0, "content_index": 0}
        late = base64.b64encode(b"\x00" * 80).decode()
        await server.say("response.output_audio.delta", delta=late, **where)
        await phone.until(ResponseEnded)
        phone.inbox.put(Say("And now?"))
        await phone.until(ResponseEnded, 2)
    assert [piece.item for piece in phone.all(AgentAudio)].count(first.item) == 1


# --- failures ---------------------------------------------------------------------------------


async def fails(server: RealtimeServer, http: Http, kind: type[ProviderError]) -> str:
    inbox: Inbox[RealtimeInput] = Inbox()
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(5):
            await Call().listen(connect(server, http).converse(setup("Hello."), inbox))
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ProviderRefused), (429, ProviderBusy), (503, ProviderUnavailable)],
)
async def test_a_refused_handshake_is_named(
    server: RealtimeServer, http: Http, status: int, kind: type[ProviderError]
):
    server.refuse = web.Response(status=status)
    assert str(status) in await fails(server, http, kind)


async def test_a_vendor_that_is_away_is_unavailable(http: Http):
    server = RealtimeServer()
    server.base_url = "ws://127.0.0.1:9/v1"
    await connect(server, http).start()
    await fails(server, http, ProviderUnavailable)


async def test_a_vendor_that_takes_no_settings_in_time_is_given_up(
    server: RealtimeServer, http: Http, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(openai, "SETUP_TIMEOUT_S", 0.05)
    server.mute.set()
    await fails(server, http, ProviderTimeout)
    async with asyncio.timeout(2):
        await server.closed.wait()


async def test_refused_settings_end_the_session(server: RealtimeServer, http: Http):
    server.mute.set()
    failing = asyncio.create_task(fails(server, http, ProviderRefused))
    update = await server.got("session.update")
    await server.error("invalid_value", f"voice? {KEY}", update["event_id"])
    assert "voice? [key]" in await failing


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda server: server.hang_up(1011), ProviderUnavailable),
        (lambda server: server.hang_up(1000), ProviderUnavailable),
        (lambda server: asyncio.sleep(0, server.cut()), ProviderUnavailable),
        (lambda server: server.send_raw("no json"), ProviderProtocol),
        (lambda server: server.send_raw("[1]"), ProviderProtocol),
        (lambda server: server.send_raw(b"\x00"), ProviderProtocol),
        (lambda server: server.send_raw("[" * 100_000), ProviderProtocol),
        (lambda server: server.say("response.output_audio.delta"), ProviderProtocol),
        (
            lambda server: server.say("response.output_audio.delta", item_id="i", delta="?"),
            ProviderProtocol,
        ),
        (lambda server: server.say("response.done", response=None), ProviderProtocol),
        (lambda server: server.error("session_expired", "60 minutes"), ProviderUnavailable),
        (lambda server: server.error("insufficient_quota", "pay"), ProviderRefused),
    ],
    ids=[
        "closes with an error",
        "closes politely",
        "breaks",
        "no json",
        "no object",
        "binary",
        "deep",
        "no fields",
        "no base64",
        "null",
        "expired",
        "no quota",
    ],
)
async def test_a_session_that_breaks_is_named(
    server: RealtimeServer, http: Http, fault: Any, kind: type[ProviderError]
):
    failing = asyncio.create_task(fails(server, http, kind))
    await server.got("response.create")
    await fault(server)
    await failing
    async with asyncio.timeout(2):
        await server.closed.wait()


async def test_other_errors_leave_the_session_in_order(server: RealtimeServer, http: Http):
    async with call(server, http) as phone:
        await server.error("some_code", "something")
        await server.say("rate_limits.updated", rate_limits=[])
        await server.say("something.new")
        phone.inbox.put(Say("Hello?"))
        await phone.until(ResponseEnded)


async def test_a_failed_response_is_asked_for_once_more(server: RealtimeServer, http: Http):
    server.replies.append(Reply(fail={"type": "server_error", "message": "oops"}))
    server.replies.append(Reply("Here I am."))
    async with call(server, http) as phone:
        phone.inbox.put(Say("Hello?"))
        await phone.until(ResponseEnded)
    assert "".join(piece.text for piece in phone.all(AgentTranscript)) == "Here I am."


async def test_two_failed_responses_end_the_session(server: RealtimeServer, http: Http):
    fail = {"type": "server_error", "code": "rate_limit_exceeded", "message": "oops"}
    server.replies.extend([Reply(fail=fail), Reply(fail=fail)])
    assert "oops" in await fails(server, http, ProviderBusy)


async def test_a_response_that_may_not_be_asked_for_is_asked_for_again(
    server: RealtimeServer, http: Http
):
    async with call(server, http) as phone:
        server.mute.set()
        phone.inbox.put(Say("Hello?"))
        asked = await server.got("response.create")
        server.mute.clear()
        await server.error("bad", "not now", asked["event_id"], "server_error")
        await phone.until(ResponseEnded)


async def test_a_consumer_that_leaves_closes_the_socket(server: RealtimeServer, http: Http):
    server.replies.append(Reply("Good day.", hold=asyncio.Event()))
    phone = Call()
    stream = connect(server, http).converse(setup("Good day."), phone.inbox)
    task = asyncio.create_task(phone.listen(stream))
    await phone.until(AgentAudio)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(2):
        await server.closed.wait()


VALUE = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.sampled_from(["completed", "YQ==", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "status", "call_id", "name", "arguments", "usage", "error", "code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "response.output_item.done",
        "response.created",
        "response.done",
        "session.updated",
        "error",
    ]
)
FIELDS = st.dictionaries(
    st.sampled_from(["item_id", "delta", "transcript", "item", "response", "error"]), VALUE
)


@given(st.lists(st.tuples(KINDS, FIELDS), max_size=6))
def test_any_events_are_events_or_known_errors(parts: list[tuple[str, dict[str, Any]]]):
    conversation = Conversation("openai", KEY, {}, setup("Hello."))
    try:
        for kind, fields in parts:
            list(conversation.receive({"type": kind, **fields}))
            conversation.take()
    except (ProviderError, ValueError, KeyError, TypeError, AttributeError):
        return


def test_a_recorded_call_gives_exactly_these_events():
    conversation = Conversation("openai", KEY, {}, setup("Good day."))
    events: list[RealtimeEvent] = []
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        events.extend(conversation.receive(json.loads(line)))
        conversation.take()
    spoken: dict[str, str] = {}
    for event in events:
        if isinstance(event, AgentTranscript):
            spoken[event.item] = spoken.get(event.item, "") + event.text
    assert list(spoken.values()) == ["Good day.", "A moment.", "At nine or ten.", "Yes."]
    assert [event for event in events if isinstance(event, CallerTranscript | CallerSpeaking)] == [
        CallerSpeaking(True),
        CallerSpeaking(False),
        CallerTranscript("Two ", final=False),
        CallerTranscript("Two words", final=True),
    ]
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [("look_up", {"day": "Friday"})]
    ended = [event.item for event in events if isinstance(event, ResponseEnded)]
    assert ended == list(spoken)
    assert events[-1] == ResponseEnded(ended[-1])
    assert [event for event in events if isinstance(event, Usage)][-1] == Usage(80, 40, 20)
