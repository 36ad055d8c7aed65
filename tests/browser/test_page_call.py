"""Calls on the page: start, captions, cards, latency, typing, keys, end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from tests.browser.cdp import Page, eventually
from tests.browser.fake_server import INFO, LATENCY, SUGGESTIONS, FakeServer

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Awaitable[Page]]


async def start(page: Page) -> None:
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")


async def no_double_press(page: Page) -> None:
    """Waits as long as the page takes a second press of its big button for a slip."""
    now = await page.evaluate("performance.now()")
    await page.wait_for(f"performance.now() > {now + 500}")


async def test_a_call_connects_and_carries_sound_both_ways(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page(capture=True)
    await start(page)
    server.call.tone.speaking = True
    await page.wait_for("Number(document.querySelector('#meter-agent').dataset.level) > 0.3")
    await page.wait_for("Number(document.querySelector('#meter-caller').dataset.level) > 0.3")
    await eventually(lambda: server.call.loudest() > 1000)
    await page.wait_for_text("#quality", "round trip")
    samples, rate = await page.remote_audio()
    assert rate == 48000
    assert abs(samples[-24000:]).max() > 3000


async def test_the_offer_asks_for_in_band_error_correction(
    open_page: OpenPage, server: FakeServer
) -> None:
    await start(await open_page())
    assert "useinbandfec=1" in server.call.offer
    assert "a=sendrecv" in server.call.offer
    assert "stun:" not in server.call.offer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a=rtpmap:96 opus/48000/2\r\n", "a=fmtp:96 minptime=10;useinbandfec=1"),
        ("a=rtpmap:96 opus/48000/2\r\na=fmtp:96 stereo=0\r\n", "stereo=0;useinbandfec=1"),
        ("a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n", "a=fmtp:96 useinbandfec=1\r"),
        ("a=rtpmap:0 PCMU/8000\r\n", "a=rtpmap:0 PCMU/8000\r\n"),
    ],
    ids=["no parameters", "other parameters", "there already", "no Opus"],
)
async def test_error_correction_is_written_once(
    open_page: OpenPage, given: str, expected: str
) -> None:
    page = await open_page()
    sdp = await page.evaluate(
        f"import('./web/call.js').then((call) => call.withFec({json.dumps(given)}))"
    )
    assert expected in sdp
    assert sdp.count("useinbandfec") <= 1


async def test_hanging_up_tells_the_server_and_keeps_the_talk(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("agent_text", turn=0, text="Good morning.")
    await page.wait_for_text("#log", "Good morning.")
    await no_double_press(page)
    assert await page.text("#call") == "Hang up"
    await page.click("#call")
    await page.wait_for_text("#status", "You hung up")
    assert server.call.hung_up
    assert await page.text("#call") == "Start call"
    assert "Good morning." in await page.text("#log")
    await eventually(lambda: server.call.peer.connectionState == "closed")


async def test_a_double_click_does_not_hang_up(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await page.evaluate("for (const _ of 'ab') document.querySelector('#call').click()")
    await page.wait_for_text("#status", "Connected")
    assert len(server.calls) == 1


async def test_interim_text_stays_outside_the_live_region(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("caller_text", turn=1, text="What are", final=False)
    await page.wait_for_text("#interim", "What are")
    await server.emit("caller_text", turn=1, text="What are your hours", final=False)
    await page.wait_for_text("#interim", "What are your hours")
    assert await page.evaluate("document.querySelector('#interim').closest('[aria-live]')") is None
    assert await page.text("#log") == ""
    await server.emit("caller_text", turn=1, text="What are your hours?", final=True)
    await page.wait_for_text("#log .line.caller", "What are your hours?")
    assert await page.evaluate("document.querySelector('#interim').hidden")
    assert (
        await page.evaluate("document.querySelector('#log').getAttribute('aria-live')") == "polite"
    )


async def test_pieces_of_a_reply_join_into_one_line(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("agent_text", turn=1, text="We are open.")
    await server.emit("agent_text", turn=1, text="From nine to five.")
    await page.wait_for_text("#log", "five.")
    assert await page.text(".line.agent .said") == "We are open. From nine to five."


async def test_what_an_interruption_cut_off_is_struck(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("agent_text", turn=1, text="We are open from nine to five on weekdays.")
    await server.emit(
        "agent_heard",
        turn=1,
        text="We are open from nine",
        unheard="to five on weekdays.",
        interrupted=True,
    )
    await page.wait_for_text("s.unheard", "to five on weekdays.")
    assert await page.text(".line.agent .said") == "We are open from nine"
    struck = "getComputedStyle(document.querySelector('s.unheard')).textDecorationLine"
    assert await page.evaluate(struck) == "line-through"
    assert "interrupted" in await page.text(".line.agent")
    await server.emit("agent_text", turn=1, text="Are you still there?")
    await page.wait_for_text("#log", "still there?")
    said = "[...document.querySelectorAll('.line.agent .said')].map((each) => each.innerText)"
    assert await page.evaluate(said) == ["We are open from nine", "Are you still there?"]


async def test_markup_in_speech_is_text(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await server.emit("caller_text", turn=1, text="<img src=x onerror=boom()>", final=True)
    await page.wait_for_text("#log", "<img src=x")
    assert await page.evaluate("document.querySelectorAll('#log img').length") == 0


async def test_a_tool_is_a_card_with_its_arguments_and_result(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("node_entered", node="booking", name="Booking")
    await server.emit(
        "tool_started", tool_call_id="t1", name="find_slot", arguments={"day": "Friday"}
    )
    await page.wait_for_text(".card", "running")
    await server.emit(
        "tool_ended", tool_call_id="t1", name="find_slot", result='{"free":true}', duration_ms=184
    )
    await page.wait_for_text(".card summary", "done · 184 ms")
    await page.click(".card summary")
    card = await page.text(".card")
    assert '"day": "Friday"' in card
    assert '"free": true' in card
    assert "Step: Booking" in await page.text("#log")


async def test_a_failed_tool_says_so(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await server.emit(
        "tool_ended", tool_call_id="t9", name="pay", result="declined", ok=False, duration_ms=2500
    )
    await page.wait_for_text(".card.failed summary", "failed · 2.50 s")


async def test_the_waterfall_shows_every_part_and_they_add_up(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("caller_text", turn=1, text="Hours?", final=True)
    await server.emit("agent_text", turn=1, text="Nine to five.")
    await server.emit(
        "turn_completed", turn=1, caller="Hours?", agent="", started_ms=0, latency=LATENCY
    )
    await page.wait_for_text("turn-latency summary", "600 ms")
    assert await page.text("#median") == "Typical response 600 ms"
    await page.click("turn-latency summary")
    shown = await page.evaluate(
        "[...document.querySelectorAll('turn-latency .ms')].map((cell) => parseInt(cell.innerText))"
    )
    assert shown == [310, 95, 22, 14, 138, 21]
    assert sum(shown) == LATENCY["total"]
    boxes = await page.evaluate(
        "[...document.querySelectorAll('turn-latency .track i')]"
        ".map((bar) => bar.getBoundingClientRect()).map(({left, right}) => [left, right])"
    )
    for (_, right), (left, _) in zip(boxes, boxes[1:], strict=False):
        assert abs(right - left) < 1, "each part begins where the one before it ends"
    widths = [right - left for left, right in boxes]
    assert widths[0] / widths[4] == pytest.approx(310 / 138, rel=0.02)


KEYS = [
    "turn.endpointing.min_delay",
    "topology.stt",
    "topology.llm",
    "topology.llm",
    "topology.tts",
    "limits.max_calls",
]


@pytest.mark.parametrize("size", [(1280, 800), (360, 740)], ids=["desk", "phone"])
async def test_each_part_names_the_key_that_moves_it(
    open_page: OpenPage, server: FakeServer, size: tuple[int, int]
) -> None:
    page = await open_page(size=size)
    await start(page)
    await server.emit(
        "turn_completed", turn=1, caller="a", agent="b", started_ms=0, latency=LATENCY
    )
    await page.wait_for_text("turn-latency summary", "600 ms")
    await page.click("turn-latency summary")
    shown = await page.evaluate(
        "[...document.querySelectorAll('turn-latency code')]"
        ".filter((code) => code.checkVisibility()).map((code) => code.innerText)"
    )
    assert shown == KEYS
    bars = await page.evaluate(
        "[...document.querySelectorAll('turn-latency .track i')]"
        ".map((bar) => bar.getBoundingClientRect().width)"
    )
    assert min(bars) >= 2
    assert bars[0] == max(bars) > 30
    tips = await page.evaluate("[...document.querySelectorAll('.spark i')].map((bar) => bar.title)")
    assert tips[0] == "Sure that you had finished: 310 ms, moved by turn.endpointing.min_delay"
    overflows = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await page.evaluate(overflows) <= 0


async def test_speech_to_speech_has_keys_of_its_own(
    open_page: OpenPage, server: FakeServer
) -> None:
    server.info = {**INFO, "topology": {"mode": "realtime"}}
    page = await open_page()
    await start(page)
    await server.emit(
        "turn_completed", turn=1, caller="a", agent="b", started_ms=0, latency=LATENCY
    )
    await page.wait_for_text("turn-latency summary", "600 ms")
    await page.click("turn-latency summary")
    shown = await page.evaluate(
        "[...document.querySelectorAll('turn-latency code')].map((code) => code.innerText)"
    )
    assert shown == ["topology.options", *["topology.model"] * 4, "limits.max_calls"]


async def test_an_agent_that_holds_its_breath_says_so(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("agent_text", turn=1, text="We are open from nine to five.")
    await server.emit("agent_speaking", turn=1, speaking=True)
    await page.wait_for_text("#activity", "Speaking")
    await server.emit("agent_paused", turn=1, paused=True)
    await page.wait_for_text("#activity", "Agent paused")
    assert await page.text(".line.agent .tag.held") == "paused"
    hidden = "document.querySelector('.tag.held').getAttribute('aria-hidden')"
    assert await page.evaluate(hidden) == "true", "it would be read out at every cough"
    await server.emit("agent_paused", turn=1, paused=False)
    await page.wait_for_text("#activity", "Speaking")
    assert await page.evaluate("document.querySelectorAll('.tag.held').length") == 0
    await server.emit("agent_paused", turn=1, paused=True)
    await server.emit("agent_speaking", turn=1, speaking=False)
    await server.emit("agent_heard", turn=1, text="We are", unheard="open.", interrupted=True)
    await page.wait_for_text(".line.agent", "interrupted")
    await page.wait_for_text("#activity", "Listening")
    assert await page.evaluate("document.querySelectorAll('.tag.held').length") == 0


async def test_a_slower_turn_has_a_longer_bar(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    for turn, endpointing in ((1, 300), (2, 2700)):
        parts = {"endpointing": endpointing, "total": endpointing}
        await server.emit(
            "turn_completed", turn=turn, caller="a", agent="b", started_ms=0, latency=parts
        )
    await page.wait_for("document.querySelectorAll('turn-latency').length === 2")
    widths = await page.evaluate(
        "[...document.querySelectorAll('.spark i')].map((bar) => bar.getBoundingClientRect().width)"
    )
    assert widths[1] / widths[0] == pytest.approx(9, rel=0.05)


async def test_typing_works_during_a_call(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await page.type("#text", "  Do you take children? ")
    await page.press("Enter")
    await eventually(lambda: bool(server.call.messages))
    assert server.call.messages == [{"type": "text", "text": "Do you take children?"}]
    assert await page.evaluate("document.querySelector('#text').value") == ""
    await server.emit("caller_text", turn=1, text="Do you take children?", final=True, typed=True)
    await page.wait_for_text(".line.caller .tag", "typed")


async def test_typing_without_a_call_starts_one_without_a_microphone(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page(microphone="denied")
    await page.type("#text", "Hello")
    await page.press("Enter")
    await page.wait_for_text("#status", "Connected, typing")
    await eventually(lambda: bool(server.call.messages))
    assert server.call.messages == [{"type": "text", "text": "Hello"}]
    assert "a=recvonly" in server.call.offer
    assert await page.text("#alert") == ""
    assert await page.evaluate("document.querySelector('#mute').disabled")


async def test_a_suggestion_is_asked_on_a_click(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await page.click(".chip")
    await eventually(lambda: bool(server.calls and server.call.messages))
    assert server.call.messages == [{"type": "text", "text": SUGGESTIONS[0]}]


async def test_the_keypad_sends_digits(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await page.click("#keys")
    await page.click('[data-digit="5"]')
    await page.press("#")
    await eventually(lambda: len(server.call.messages) == 2)
    assert [told["digit"] for told in server.call.messages] == ["5", "#"]
    await page.press("Escape")
    assert await page.evaluate("document.querySelector('#keypad').hidden")
    assert await page.evaluate("document.activeElement.id") == "keys"


async def test_mute_silences_the_microphone(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await eventually(lambda: server.call.loudest() > 1000)
    await page.press("m")
    pressed = "document.querySelector('#mute').getAttribute('aria-pressed')"
    assert await page.evaluate(pressed) == "true"
    await eventually(lambda: server.call.loudest() < 50)
    await page.press("m")
    assert await page.evaluate(pressed) == "false"
    await eventually(lambda: server.call.loudest() > 1000)


async def test_the_agents_end_is_told_in_words(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await server.emit("call_ended", reason="agent.ended")
    await page.wait_for_text("#status", "The agent said goodbye")
    await page.wait_for_text("#log .end", "The agent said goodbye")
    assert await page.text("#alert") == ""


async def test_a_second_call_starts_on_a_clean_page(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("agent_text", turn=0, text="First call.")
    await server.emit("call_ended", reason="agent.ended")
    await page.wait_for_text("#status", "goodbye")
    await no_double_press(page)
    await start(page)
    await server.emit("agent_text", turn=0, text="Second call.")
    await page.wait_for_text("#log", "Second call.")
    assert "First call." not in await page.text("#log")
    assert len(server.calls) == 2


async def test_closing_the_tab_sends_a_beacon(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await start(page)
    await page.goto("about:blank")
    await eventually(lambda: server.beacons == [server.call.pc_id])


async def test_the_microphone_is_opened_on_the_click_and_closed_after(
    open_page: OpenPage, server: FakeServer
) -> None:
    script = """
      const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      window.asked = [];
      window.tracks = [];
      navigator.mediaDevices.getUserMedia = async (what) => {
        window.asked.push(what.audio);
        const stream = await open(what);
        window.tracks.push(...stream.getTracks());
        return stream;
      };
    """
    page = await open_page("?raw=1", scripts=[script])
    assert await page.evaluate("window.asked") == []
    await start(page)
    (asked,) = await page.evaluate("window.asked")
    assert asked["echoCancellation"] is False
    await server.emit("call_ended", reason="agent.ended")
    await page.wait_for("window.tracks.every((track) => track.readyState === 'ended')")
    plain = await open_page(scripts=[script])
    await start(plain)
    assert (await plain.evaluate("window.asked"))[0]["echoCancellation"] is True


async def test_the_microphone_can_be_changed_in_mid_call(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    names = "[...document.querySelectorAll('#microphone option')].map((each) => each.text)"
    assert "Fake Audio Input 1" in await page.evaluate(names)
    assert await page.evaluate("document.querySelectorAll('#speaker option').length") > 1
    await eventually(lambda: server.call.loudest() > 1000)
    await page.evaluate(
        "(() => { const list = document.querySelector('#microphone');"
        " list.selectedIndex = list.options.length - 1;"
        " list.dispatchEvent(new Event('change')); })()"
    )
    chosen = await page.evaluate("document.querySelector('#microphone').value")
    assert await page.evaluate("localStorage.getItem('flowcat.microphone')") == chosen != ""
    before = len(server.call.heard)
    await eventually(lambda: len(server.call.heard) > before + 30 and server.call.loudest() > 1000)
    assert await page.text("#status") == "Connected"


async def test_the_transcript_can_be_copied(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page(
        scripts=["navigator.clipboard.writeText = async (text) => { window.copied = text; };"]
    )
    await start(page)
    await server.emit("caller_text", turn=1, text="Hours?", final=True)
    await server.emit("agent_text", turn=1, text="From nine to five.")
    await server.emit("agent_heard", turn=1, text="From nine", unheard="to five.")
    await page.wait_for_text("s.unheard", "to five.")
    await page.click("#copy")
    await page.wait_for_text("#status", "Transcript copied")
    assert await page.evaluate("window.copied") == "Caller: Hours?\nAgent: From nine"


async def test_the_demo_says_what_it_is(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    await page.wait_for_text("#demo", "offline demo")
    assert await page.evaluate("document.querySelector('#demo').checkVisibility()")
    server.info["demo"] = False
    other = await open_page()
    assert not await other.evaluate("document.querySelector('#demo').checkVisibility()")


async def test_raw_events_are_kept_for_those_who_build(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await start(page)
    await server.emit("variables", values={"name": "Ada"})
    await page.wait_for_text("#raw-count", "1")
    line = await page.evaluate("document.querySelector('#raw').textContent")
    assert json.loads(line)["values"] == {"name": "Ada"}


async def test_a_choice_of_agents_is_offered_where_there_are_several(
    open_page: OpenPage, server: FakeServer
) -> None:
    links = "[...document.querySelectorAll('#about a')].map((a) => a.getAttribute('href'))"
    server.info["agents"] = ["desk"]
    page = await open_page()
    assert await page.evaluate(links) == []
    server.info["agents"] = ["the desk", "sales"]
    page = await open_page("?agent=sales")
    assert await page.evaluate(links) == ["?agent=the%20desk", "?agent=sales"]
    await start(page)
    own = [url for url in page.requests if "api/info" in url or "webrtc/offer" in url]
    assert len(own) == 2
    assert all(url.endswith("?agent=sales") for url in own)
