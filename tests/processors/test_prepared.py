"""Texts that were spoken before the call: they are heard whatever has become of the voice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcat_server.core import events
from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_24K, AudioFormat
from flowcat_server.errors import ProviderError
from flowcat_server.pipeline import Parts
from flowcat_server.processors.prepared import MAX_MS, Prepared
from flowcat_server.providers.tts.scripted import ScriptedTts, ScriptedTtsOptions
from flowcat_server.startup import first_texts, last_words
from tests.callscript import Script, call, loaded, parts
from tests.fakes.thinker import Thinker
from tests.virtual import on_virtual_time

YAML = """
agent: {prompt: Help., greeting: "Hello there. How are you?"}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [when do you open], loop: true, delay_ms: 50}}
  llm: {provider: scripted, options: {replies: ["We open at nine. We close at five."]}}
  tts: {provider: scripted, options: {ms_per_char: 50, TROUBLE}}
"""


def voice(**options: object) -> ScriptedTts:
    return ScriptedTts(ScriptedTtsOptions.model_validate(options))


async def process(trouble: str = "") -> Parts:
    """What calls share, with a voice that is in trouble from its first call on."""
    texts = {*first_texts(await _parts("")), *last_words(await _parts(""))}
    shared = await _parts(f"fail_after: {len(texts)}, {trouble}" if trouble else "")
    await shared.prepared.add(shared.tts[0].plug, sorted(texts))
    return shared


async def _parts(trouble: str) -> Parts:
    return await parts(loaded(YAML.replace("TROUBLE", trouble or "first_audio_ms: 0")))


@pytest.mark.parametrize("audio", [PCM_8K, MULAW_8K, PCM_24K], ids=str)
@on_virtual_time
async def test_a_clip_is_what_the_voice_says_in_the_format_of_the_call(audio: AudioFormat):
    speaker, prepared = voice(ms_per_char=50), Prepared()
    await prepared.add(speaker, ["Hello there.", "Goodbye."])
    clip = prepared.clip(speaker, "Hello there.", audio)
    assert clip is not None
    assert audio.duration_ms(len(clip.audio)) == pytest.approx(13 * 50, abs=20)
    assert [word.text for word in clip.words] == ["Hello", "there."]
    assert prepared.clip(speaker, "Hello there.", audio) is clip
    assert prepared.clip(speaker, "Hello.", audio) is None
    assert prepared.clip(voice(), "Hello there.", audio) is None
    assert prepared.any_clip("Goodbye.", audio) is not None


@on_virtual_time
async def test_only_so_much_is_kept():
    speaker, prepared = voice(ms_per_char=50), Prepared()
    long = "one word " * (MAX_MS // 450 // 2)
    await prepared.add(speaker, [f"{long} one.", f"{long} two.", f"{long} three."])
    assert prepared.any_clip(f"{long} two.", PCM_8K) is not None
    assert prepared.any_clip(f"{long} three.", PCM_8K) is None


@on_virtual_time
async def test_a_voice_that_fails_leaves_what_it_has_said():
    speaker, prepared = voice(fail="close", fail_after=1), Prepared()
    with pytest.raises(ProviderError):
        await prepared.add(speaker, ["Hello.", "Goodbye."])
    assert prepared.any_clip("Hello.", PCM_8K) is not None
    assert prepared.any_clip("Goodbye.", PCM_8K) is None


async def one_question(script: Script, *, heard: int) -> None:
    await script.until(events.AgentHeard)
    await script.speaks(silence_ms=0)
    await script.until(events.AgentHeard, count=heard, within_ms=30_000)


@on_virtual_time
async def test_a_greeting_needs_no_voice():
    async with call("", shared=await process("fail: refuse")) as script:
        first = await script.until(events.AgentSpeaking)
        greeting = await script.until(events.AgentHeard)
    assert first.at_ms <= 20
    assert greeting.text == "Hello there. How are you?"
    assert not greeting.interrupted


@pytest.mark.parametrize("buffers", [True, False], ids=["carrier", "browser"])
@on_virtual_time
async def test_a_filler_is_heard_before_the_sentence_that_is_late(buffers: bool):
    trouble = "fail: slow, slow_ms: 2500, fail_times: 1"
    thinker = Thinker(["We open at nine. We close at five."], ["You are welcome."])
    shared = await process(trouble)
    models = (await parts(loaded(YAML.replace("TROUBLE", "")), extra={"llm": [thinker]})).llm
    async with call("", shared=replace(shared, llm=models), buffers=buffers) as script:
        await one_question(script, heard=3)
        await script.speaks(silence_ms=0)
        await script.until(events.TurnCompleted, count=4)
    assert script.agent_lines[1:3] == ["One moment.", "We open at nine. We close at five."]
    told = [m.text for m in thinker.requests[-1].messages if m.role == "assistant"]
    assert told[1:] == ["One moment.", "We open at nine. We close at five."]


@on_virtual_time
async def test_a_filler_in_the_middle_of_a_reply_parts_it_in_two():
    thinker = Thinker(["We open at nine. We close at five."], ["You are welcome."])
    shared = await process("fail: slow, slow_ms: 2900")
    models = (await parts(loaded(YAML.replace("TROUBLE", "")), extra={"llm": [thinker]})).llm
    async with call("", shared=replace(shared, llm=models)) as script:
        await one_question(script, heard=4)
        await script.speaks(silence_ms=0)
        await script.until(events.TurnCompleted, count=5, within_ms=30_000)
    told = [m.text for m in thinker.requests[-1].messages if m.role == "assistant"]
    assert told[1:] == [
        "One moment.",
        "We open at nine.",
        "I am still on it.",
        "We close at five.",
    ]


@pytest.mark.parametrize("fault", ["refuse", "hang", "close"])
@on_virtual_time
async def test_a_call_whose_only_voice_is_dead_ends_with_words(fault: str):
    async with call("", shared=await process(f"fail: {fault}")) as script:
        await script.until(events.AgentHeard)
        await script.speaks(silence_ms=0)
        over = await script.until(events.CallEnded, within_ms=30_000)
    assert script.agent_lines[-1].endswith("Please call again a little later.")
    assert over.reason == "provider.failed"
    assert over.detail.startswith("tts ")


@on_virtual_time
async def test_what_a_dying_voice_has_said_is_all_that_counts():
    async with call("", shared=await process("fail: close")) as script:
        await script.until(events.AgentHeard)
        await script.speaks(silence_ms=0)
        await script.until(events.CallEnded, within_ms=30_000)
    broken = next(e for e in script.all(events.AgentHeard) if "nine" in f"{e.text} {e.unheard}")
    assert broken.interrupted
    assert broken.text != "We open at nine. We close at five."
    assert "We open at nine. We close at five.".startswith(broken.text)
