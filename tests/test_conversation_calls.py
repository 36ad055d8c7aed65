"""Whole calls on virtual time, with scripted providers and the real pipeline."""

from __future__ import annotations

import pytest

from flowcat_server.core import ended, events
from tests.callscript import Script, call
from tests.virtual import on_virtual_time

TOPOLOGY = """
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there, second line, third line], delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [First answer., Second answer is longer.], first_token_ms: 120}}
  tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}
"""  # noqa: E501
AGENT = "agent: {prompt: Be kind., greeting: Good morning to you.}\n" + TOPOLOGY


both_wires = pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])


@both_wires
@on_virtual_time
async def test_the_agent_greets_listens_and_answers(buffers: bool):
    async with call(AGENT, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines == ["Good morning to you.", "First answer."]
    assert [e.text for e in script.all(events.CallerText) if e.final] == ["hello there"]


@both_wires
@on_virtual_time
async def test_latency_parts_add_up_to_what_the_caller_waited(buffers: bool):
    async with call(AGENT + "turn: {speculation: false}\n", buffers=buffers) as script:
        await script.until(events.AgentHeard)
        began = len(script.transport.heard)
        await script.passes(800, b"\x00\x40" * 160)
        last_voice = script.session.now_ms()
        completed = await script.until(events.TurnCompleted, count=2)
    latency = completed.latency
    assert latency is not None
    assert latency.total_ms == sum(latency.parts().values())
    first_sound = script.transport.heard[began][0] - script.transport.delay_ms
    # The far end agrees within a VAD chunk and a frame.
    assert abs(last_voice + latency.total_ms - first_sound) <= 32 + 20
    assert latency.llm_first_token_ms == pytest.approx(120, abs=5)
    assert latency.tts_first_audio_ms == pytest.approx(100, abs=5)


@both_wires
@on_virtual_time
async def test_an_interruption_stops_the_agent_and_keeps_what_was_heard(buffers: bool):
    async with call(AGENT, buffers=buffers) as script:
        await script.passes(600)  # in the middle of the greeting
        await script.speaks(640)
        heard = (await script.until(events.AgentHeard)).text
        await script.until(events.AgentHeard, count=2)
    assert script.all(events.AgentHeard)[0].interrupted
    assert heard
    assert "Good morning to you.".startswith(heard)
    assert heard != "Good morning to you."
    assert len(script.transport.cleared) == 1
    assert script.agent_lines[1] == "First answer."


GREETING = "Good morning to you. Calls are recorded, and you may ask for the recording."
PROTECTED = AGENT.replace("Good morning to you.", f'"{GREETING}", protect_greeting: true')
PROTECTED_NODE = f"""
agent: {{graph_inline: {{edges: [], nodes: [{{id: start, type: startCall, data: {{
  prompt: Be kind., greeting: "{GREETING}", protect_greeting: true}}}}]}}}}
{TOPOLOGY}"""
PROTECTED_REALTIME = f"""
agent: {{prompt: Be kind., greeting: "{GREETING}", protect_greeting: true}}
topology: {{mode: realtime, provider: scripted, options: {{
  hears: [hello there], replies: [First answer. It takes a while to say all of it.]}}}}
"""
KINDS = {"cascaded": PROTECTED, "node": PROTECTED_NODE, "speech to speech": PROTECTED_REALTIME}


@both_wires
@pytest.mark.parametrize("kind", KINDS)
@on_virtual_time
async def test_what_is_said_over_a_protected_greeting_is_answered_afterwards(
    kind: str, buffers: bool
):
    async with call(KINDS[kind], buffers=buffers) as script:
        await script.passes(600)
        await script.speaks(640, silence_ms=1500)
        assert not script.all(events.AgentHeard), "the greeting was over before the caller"
        greeting = await script.until(events.AgentHeard)
        await script.until(events.AgentHeard, count=2)
    assert (greeting.text, greeting.interrupted) == (GREETING, False)
    assert not script.transport.cleared
    assert not script.all(events.AgentPaused)
    assert [e.text for e in script.all(events.CallerText) if e.final] == ["hello there"]
    assert script.agent_lines[1].startswith("First answer.")


@both_wires
@pytest.mark.parametrize("kind", KINDS)
@on_virtual_time
async def test_only_the_greeting_is_protected(kind: str, buffers: bool):
    yaml = KINDS[kind].replace("First answer.,", "First answer. It takes a while to say it.,")
    async with call(yaml, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        await script.speaks(640)
        await script.until(events.AgentSpeaking, count=3)
        await script.passes(400)
        await script.speaks(640)
        answer = await script.until(events.AgentHeard, count=2)
    assert answer.interrupted


@both_wires
@on_virtual_time
async def test_a_noise_without_words_is_a_short_pause_of_the_agent(buffers: bool):
    yaml = AGENT.replace("lines: [", 'lines: ["", ')
    async with call(yaml, buffers=buffers) as script:
        await script.passes(600)
        await script.speaks(160, silence_ms=1500)
        greeting = await script.until(events.AgentHeard)
        await script.passes(2000)
    assert greeting.text == "Good morning to you."
    assert not greeting.interrupted
    assert [event.paused for event in script.all(events.AgentPaused)] == [True, False]
    paused, resumed = script.all(events.AgentPaused)
    assert resumed.at_ms - paused.at_ms < 600
    assert len(script.all(events.AgentHeard)) == 1
    assert not [event for event in script.all(events.CallerText) if event.final]


@both_wires
@on_virtual_time
async def test_the_call_ends_after_the_goodbye_was_heard(buffers: bool):
    yaml = """
agent:
  graph_inline:
    nodes:
      - {id: start, type: startCall, data: {prompt: Help., greeting: Hello.}}
      - {id: done, type: endCall, data: {prompt: Say goodbye., greeting: "Goodbye, and thank you for calling."}}
    edges:
      - {id: e, source: start, target: done, label: Wrap up, data: {condition: The caller is done}}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [goodbye]}}
  llm: {provider: scripted, options: {replies: [{tool: wrap_up}]}}
  tts: {provider: scripted, options: {ms_per_char: 50}}
"""  # noqa: E501
    async with call(yaml, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        before = script.transport.heard_ms()
        await script.speaks()
        ended_event = await script.until(events.CallEnded)
    assert ended_event.reason == ended.AGENT_ENDED
    assert script.agent_lines[-1] == "Goodbye, and thank you for calling."
    goodbye_ms = len("Goodbye, and thank you for calling.") * 50
    assert script.transport.heard_ms() - before == pytest.approx(goodbye_ms, abs=60)
    assert script.transport.hung_up == ended.AGENT_ENDED


def used(script: Script) -> dict[str, events.UsageCounted]:
    return {event.kind: event for event in script.all(events.UsageCounted)}


@both_wires
@on_virtual_time
async def test_what_a_call_has_used_is_told_at_its_end(buffers: bool):
    async with call(AGENT, buffers=buffers) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
    found = used(script)
    assert list(found) == ["tts", "heard", "llm", "stt"]
    said = "Good morning to you." + "First answer."
    assert found["tts"].characters == found["heard"].characters == len(said)
    assert found["heard"].audio_ms == sum(e.heard_ms for e in script.all(events.AgentHeard))
    assert abs(found["tts"].audio_ms - found["heard"].audio_ms) <= 1
    assert (found["llm"].input_tokens > 10, found["llm"].output_tokens) == (True, 2)
    # The transcriber takes what came up to the caller's last pause, and not what follows it.
    turn = script.all(events.TurnCompleted)[-1]
    assert 0 <= found["stt"].audio_ms - turn.started_ms < 700
    assert type(script.events[-1]) is events.CallEnded


@both_wires
@on_virtual_time
async def test_words_that_were_never_heard_were_paid_for_all_the_same(buffers: bool):
    async with call(AGENT, buffers=buffers) as script:
        await script.passes(600)
        await script.speaks(640)
        await script.until(events.AgentHeard, count=2)
    found = used(script)
    cut, answer = script.all(events.AgentHeard)
    assert cut.interrupted
    assert found["heard"].characters == len(cut.text) + len("First answer.")
    assert found["heard"].audio_ms == cut.heard_ms + answer.heard_ms
    assert found["tts"].characters == len("Good morning to you.") + len("First answer.")
    assert found["tts"].audio_ms > found["heard"].audio_ms


@on_virtual_time
async def test_each_provider_that_took_part_has_its_own_usage():
    yaml = AGENT.replace(
        "tts: {provider: scripted, options: {first_audio_ms: 100, ms_per_char: 50}}",
        "tts: {provider: scripted, options: {fail: close, ms_per_char: 50}, "
        "fallback: [{provider: scripted}]}",
    )
    async with call(yaml) as script:
        await script.until(events.AgentHeard)
    voices = [e for e in script.all(events.UsageCounted) if e.kind == "tts"]
    assert [voice.provider for voice in voices] == ["topology.tts", "topology.tts.fallback.0"]
    # The first is asked twice, the second only for what was still to be said.
    assert voices[0].characters > len("Good morning to you.") > voices[1].characters > 0


@on_virtual_time
async def test_typed_text_is_a_turn():
    async with call(AGENT) as script:
        await script.until(events.AgentHeard)
        script.session.receive_text("What are your hours?")
        await script.until(events.AgentHeard, count=2)
    (said,) = [event for event in script.all(events.CallerText) if event.final]
    assert said.typed
    assert script.agent_lines[-1] == "First answer."


@on_virtual_time
async def test_keys_reach_the_agent():
    async with call(AGENT) as script:
        await script.until(events.AgentHeard)
        for digit in "42#":
            script.session.receive_digit(digit)
        await script.until(events.AgentHeard, count=2)
    assert [event.digit for event in script.all(events.DigitPressed)] == ["4", "2", "#"]
    assert [event.text for event in script.all(events.CallerText)] == ["[keypad: 4 2 #]"]


@on_virtual_time
async def test_a_silent_caller_is_asked_and_then_left():
    yaml = AGENT + "turn: {idle: {after: 3s, say: [Still there?], times: 2}}\n"
    async with call(yaml) as script:
        ended_event = await script.until(events.CallEnded, within_ms=60_000)
    assert ended_event.reason == ended.CALLER_IDLE
    assert script.agent_lines == ["Good morning to you.", "Still there?", "Still there?"]


@on_virtual_time
async def test_a_slow_model_is_covered_by_a_filler_and_then_by_an_apology():
    yaml = AGENT.replace("first_token_ms: 120", "first_token_ms: 60000")
    yaml += (
        "turn: {dead_air: {filler_after: 1s, filler: [One moment.], give_up_after: 4500ms, "
        "say: [Sorry.]}, deadlines: {llm: {first: 30s, gap: 30s}}}\n"
    )
    async with call(yaml) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[-1] == "One moment. One moment. One moment. Sorry."
    assert [notice.code for notice in script.all(events.Notice)] == ["llm_failed"]


@pytest.mark.parametrize("kind", ["stt", "llm", "tts"])
@on_virtual_time
async def test_a_provider_that_refuses_ends_the_call_with_its_name(kind: str):
    yaml = AGENT + f"# {kind}\n"
    yaml = yaml.replace(
        f"{kind}: {{provider: scripted, options: {{",
        f"{kind}: {{provider: scripted, options: {{fail: refuse, ",
    )
    async with call(yaml) as script:
        await script.passes(2000)
        await script.speaks()
        ended_event = await script.until(events.CallEnded)
    assert ended_event.reason == ended.PROVIDER_FAILED
    assert ended_event.detail


@pytest.mark.parametrize("kind", ["stt", "llm", "tts"])
@on_virtual_time
async def test_a_fallback_takes_over(kind: str):
    broken = f"{kind}: {{provider: scripted, fallback: [{{provider: scripted, options: {{SPARE}}}}], options: {{fail: refuse, "  # noqa: E501
    spare = {
        "stt": "lines: [hello there]",
        "llm": "replies: [Spare answer.]",
        "tts": "ms_per_char: 50",
    }[kind]
    yaml = AGENT.replace(
        f"{kind}: {{provider: scripted, options: {{", broken.replace("SPARE", spare)
    )
    async with call(yaml) as script:
        await script.until(events.AgentHeard)
        await script.speaks()
        await script.until(events.AgentHeard, count=2)
    assert script.agent_lines[0] == "Good morning to you."
    assert script.agent_lines[1] == ("Spare answer." if kind == "llm" else "First answer.")
    assert f"{kind}_fallback" in [notice.code for notice in script.all(events.Notice)]


@on_virtual_time
async def test_a_call_without_audio_is_over():
    async with call(AGENT + "limits: {media_timeout: 5s}\n") as script:
        await script.passes(200)
        import asyncio

        await asyncio.sleep(7)
    assert script.ended == ended.CALLER_MEDIA_LOST


@on_virtual_time
async def test_a_call_ends_at_its_limit():
    async with call(AGENT + "limits: {max_call: 10s}\n") as script:
        await script.passes(11_000)
    assert script.ended == ended.SERVER_LIMIT


@on_virtual_time
async def test_echo_gives_back_every_frame():
    async with call("topology: {mode: echo}\n", buffers=False) as script:
        await script.passes(1000, b"\x12\x34" * 160)
    heard = b"".join(audio for _, audio in script.transport.heard)
    assert heard == b"\x12\x34" * (len(heard) // 2)
    assert len(heard) >= 16_000 - 640
