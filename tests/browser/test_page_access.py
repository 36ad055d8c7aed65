"""Keyboard, assistive technology, colour schemes, small screens, size."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.cdp import Page, eventually
from tests.browser.fake_server import LATENCY, WEB, FakeServer, record

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Awaitable[Page]]

AXE_VERSION = "4.10.3"

STILL = {"prefers-reduced-motion": "reduce"}
"""Colours in the middle of a transition are nobody's contrast."""

TURN = {
    "turn": 1,
    "caller": "Hours?",
    "agent": "From nine",
    "unheard": "to five.",
    "interrupted": True,
    "started_ms": 0,
    "latency": LATENCY,
    "node": "",
}


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from npm, kept between runs."""
    kept = Path(tempfile.gettempdir()) / f"flowcat-axe-core-{AXE_VERSION}.js"
    if kept.exists():
        return kept.read_text()
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch axe-core with")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", "--silent", f"axe-core@{AXE_VERSION}"],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=30,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"axe-core could not be fetched: {error}")
        archive = next(Path(folder).glob("*.tgz")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        member = package.extractfile("package/axe.min.js")
        assert member is not None
        source = member.read().decode()
    kept.write_text(source)
    return source


async def violations(page: Page, axe: str) -> list[str]:
    await page.evaluate(f"{axe}; undefined", timeout=30)
    found: list[dict[str, Any]] = await page.evaluate(
        "axe.run({resultTypes: ['violations']}).then(({violations}) => violations.flatMap("
        "(each) => each.nodes.map((node) => ({id: each.id, what: node.failureSummary,"
        " html: node.html}))))",
        timeout=30,
    )
    return [f"{each['id']}: {each['html'][:120]} {each['what']}" for each in found]


async def talk(page: Page, server: FakeServer) -> None:
    """A call with one of everything on the page."""
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await server.emit("node_entered", node="a", name="Reception")
    await server.emit("caller_text", turn=1, text="Hours?", final=True)
    await server.emit("tool_started", tool_call_id="t", name="hours", arguments={"day": "Friday"})
    await server.emit("tool_ended", tool_call_id="t", name="hours", result="9-17", duration_ms=12)
    await server.emit("agent_text", turn=1, text="From nine to five.")
    await server.emit("agent_text", turn=0, text="Good morning.")
    await server.emit("agent_paused", turn=0, paused=True)
    await server.emit("agent_heard", turn=1, text="From nine", unheard="to five.", interrupted=True)
    await server.emit(
        "turn_completed", turn=1, caller="a", agent="b", started_ms=0, latency=LATENCY
    )
    await server.emit("notice", level="warning", code="slow", text="The model is slow.")
    await server.emit("notice", level="error", code="stt", text="The transcriber failed.")
    await server.emit("digit_pressed", digit="5")
    await server.emit("caller_text", turn=2, text="And on", final=False)
    await page.wait_for_text("#interim", "And on")
    await page.click("#keys")
    await page.evaluate("document.querySelectorAll('#log details').forEach((d) => d.open = true)")


WIDTHS = [320, 360, 412, 768, 1024, 1280]

SIZES = [(1280, 800), (360, 740)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(
    open_page: OpenPage, server: FakeServer, axe: str, scheme: str
) -> None:
    server.records["a"] = record("a", [TURN])
    page = await open_page(media={"prefers-color-scheme": scheme, **STILL})
    assert await violations(page, axe) == []
    await talk(page, server)
    for size in SIZES:
        await page.set_size(*size)
        assert await violations(page, axe) == [], f"in a call, {size}"
    await page.evaluate("location.hash = '#/history/a'")
    await page.wait_for("document.querySelector('#detail .wave')?.dataset.drawn")
    for size in SIZES:
        await page.set_size(*size)
        assert await violations(page, axe) == [], f"in the history, {size}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_an_alert(open_page: OpenPage, axe: str, scheme: str) -> None:
    gone = "Object.defineProperty(Navigator.prototype, 'mediaDevices', {get: () => undefined});"
    page = await open_page(scripts=[gone], media={"prefers-color-scheme": scheme, **STILL})
    await page.click("#call")
    await page.wait_for_text("[role=alert]", "microphone")
    assert await violations(page, axe) == []


async def test_a_whole_call_with_the_keyboard(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page()
    for _ in range(12):
        await page.press("Tab")
        if await page.evaluate("document.activeElement.id") == "call":
            break
    assert await page.evaluate("document.activeElement.id") == "call"
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(ring) == "solid", "focus is seen"
    await page.press("Enter")
    await page.wait_for_text("#status", "Connected")
    await page.press("t")
    assert await page.evaluate("document.activeElement.id") == "text"
    await page.press("m")  # typed, not a shortcut
    assert await page.evaluate("document.querySelector('#mute').ariaPressed") == "false"
    await page.press("Enter")
    await eventually(lambda: server.call.messages == [{"type": "text", "text": "m"}])
    await page.evaluate("document.activeElement.blur()")
    await page.press("k")
    await page.press("7")
    await eventually(lambda: server.call.messages[-1] == {"type": "digit", "digit": "7"})
    await page.press("Escape")
    await page.press("?")
    assert await page.evaluate("document.querySelector('#shortcuts').open")
    await page.press("Escape")
    assert not await page.evaluate("document.querySelector('#shortcuts').open")
    now = await page.evaluate("performance.now()")
    await page.wait_for(f"performance.now() > {now + 500}")  # not a double press any more
    await page.evaluate("document.querySelector('#call').focus()")
    await page.press("Enter")
    await page.wait_for_text("#status", "You hung up")


async def test_single_key_shortcuts_can_be_switched_off(
    open_page: OpenPage, server: FakeServer
) -> None:
    """WCAG 2.1, success criterion 2.1.4."""
    page = await open_page()
    await page.click("#help")
    await page.click("#shortcuts-on")
    await page.press("Escape")
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await page.press("m")
    assert await page.evaluate("document.querySelector('#mute').ariaPressed") == "false"


async def test_the_order_of_focus_is_the_order_of_the_page(open_page: OpenPage) -> None:
    page = await open_page()
    seen = []
    for _ in range(20):
        await page.press("Tab")
        seen.append(
            await page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    order = [
        "skip",
        "nav-call",
        "nav-history",
        "call",
        "text-call",
        "microphone",
        "scroller",
        "chip",
        "text",
    ]
    assert [each for each in dict.fromkeys(seen) if each in order] == order


async def test_nothing_scrolls_sideways(open_page: OpenPage, server: FakeServer) -> None:
    server.records["a"] = record("a", [TURN])
    page = await open_page(size=(360, 740))
    await talk(page, server)
    await server.emit("caller_text", turn=2, text="supercalifragilistic" * 6, final=True)
    await page.wait_for_text("#log", "supercali")
    wide = "document.documentElement.scrollWidth"
    box = "document.querySelector('#scroller')"
    for width in WIDTHS:
        await page.set_size(width, 740)
        assert await page.evaluate(wide) <= width
        assert await page.evaluate(f"{box}.scrollWidth - {box}.clientWidth") <= 0, width
    await page.evaluate("location.hash = '#/history/a'")
    await page.wait_for_text("#detail", "Hours?")
    for width in WIDTHS:
        await page.set_size(width, 740)
        assert await page.evaluate(wide) <= width


async def test_the_controls_do_not_move_when_a_call_starts(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    places = (
        "['call', 'mute', 'meter-caller', 'more', 'composer', 'scroller'].map((id) =>"
        " JSON.stringify(document.getElementById(id).getBoundingClientRect()))"
    )
    before = await page.evaluate(places)
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await server.emit("caller_text", turn=1, text="Hours?", final=True)
    await server.emit("agent_speaking", speaking=True, turn=1)
    await page.wait_for_text("#activity", "Speaking")
    await page.wait_for_text("#quality", "round trip")
    assert await page.evaluate(places) == before


async def test_the_theme_is_chosen_and_kept(open_page: OpenPage) -> None:
    page = await open_page(media={"prefers-color-scheme": "light"})
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)
    await page.click("#theme")
    assert await page.evaluate(ground) == light
    await page.click("#theme")
    dark = await page.evaluate(ground)
    assert dark != light
    await page.send("Page.reload")
    await asyncio.sleep(0)
    await page.wait_for(f"document.body && {ground} === '{dark}'")


async def test_reduced_motion_keeps_the_portrait_still(open_page: OpenPage) -> None:
    page = await open_page(media={"prefers-reduced-motion": "reduce"})
    picture = "document.querySelector('#orb canvas').toDataURL()"
    two_frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    await page.evaluate(two_frames)
    before = await page.evaluate(picture)
    for _ in range(5):
        await page.evaluate(two_frames)
    assert await page.evaluate(picture) == before
    moving = await open_page()
    await moving.evaluate(two_frames)
    first = await moving.evaluate(picture)
    await moving.wait_for(f"{picture} !== {first!r}", timeout=2)


def test_the_page_stays_small() -> None:
    files = {path.name: path.read_bytes() for path in WEB.iterdir()}
    sizes = {name: len(data) for name, data in files.items()}
    assert sum(sizes.values()) <= 100_000, sizes
    assert sum(len(gzip.compress(data)) for data in files.values()) <= 36_000


def test_the_page_names_no_other_host() -> None:
    for path in WEB.iterdir():
        text = path.read_text()
        for scheme in ("http://", "https://", "//cdn"):
            left = text.replace("http://www.w3.org/2000/svg", "").replace(
                "http://localhost:${port()}", ""
            )
            assert scheme not in left, path.name
