"""What goes wrong, and what the page says about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.browser.cdp import Browser, Page, eventually
from tests.browser.fake_server import FakeServer

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Awaitable[Page]]


def failing(name: str) -> str:
    """A getUserMedia that fails with a DOMException of this name."""
    return (
        "navigator.mediaDevices.getUserMedia = () => "
        f"Promise.reject(new DOMException('no', '{name}'));"
    )


@pytest.mark.parametrize(
    ("name", "title", "fix"),
    [
        ("NotAllowedError", "microphone is blocked", "site settings"),
        ("NotFoundError", "No microphone was found", "Plug one in"),
        ("NotReadableError", "in use", "Close other programs"),
        ("OverconstrainedError", "not there any more", "set back"),
    ],
)
async def test_a_microphone_that_does_not_open(
    open_page: OpenPage, server: FakeServer, name: str, title: str, fix: str
) -> None:
    page = await open_page(scripts=[failing(name)])
    await page.click("#call")
    await page.wait_for_text("[role=alert]", title)
    assert fix in await page.text("[role=alert]")
    assert await page.text("#status") == "Ready"
    assert await page.text("#call") == "Start call"
    assert server.calls == []


async def test_denied_in_earnest_then_typed(server: FakeServer) -> None:
    """The browser's own refusal, not a script's."""
    async with await Browser.launch(
        auto_accept=False, flags=["--deny-permission-prompts"]
    ) as browser:
        page = await browser.new_page(server.url, microphone="prompt")
        await page.wait_for_text("#agent-name", "Willow")
        await page.click("#call")
        await page.wait_for_text("[role=alert]", "The microphone is blocked for this page")
        await page.click("[role=alert] button")  # type instead
        await page.wait_for_text("#status", "Connected, typing")
        assert await page.text("#alert") == ""


async def test_a_machine_without_any_microphone(server: FakeServer) -> None:
    async with await Browser.launch(fake_devices=False) as browser:
        page = await browser.new_page(server.url)
        await page.wait_for_text("#agent-name", "Willow")
        if await page.evaluate(
            "navigator.mediaDevices.enumerateDevices()"
            ".then((all) => all.some((each) => each.kind === 'audioinput'))"
        ):
            pytest.skip("this machine has a microphone")
        await page.click("#call")
        await page.wait_for_text("[role=alert]", "No microphone was found")
        assert page.errors == []


async def test_an_insecure_address_names_the_way_out(
    open_page: OpenPage, server: FakeServer
) -> None:
    gone = "Object.defineProperty(Navigator.prototype, 'mediaDevices', {get: () => undefined});"
    page = await open_page(scripts=[gone])
    await page.click("#call")
    await page.wait_for_text("[role=alert]", "keeps the microphone closed")
    port = server.url.rstrip("/").rsplit(":", 1)[1]
    assert f"ssh -L {port}:localhost:{port}" in await page.text("[role=alert]")
    await page.type("#text", "Hello")
    await page.press("Enter")
    await page.wait_for_text("#status", "Connected, typing")


@pytest.mark.parametrize(
    ("status", "body", "title", "detail"),
    [
        (503, {"error": "full", "message": "20 of 20 calls"}, "All lines are busy", "20 of 20"),
        (503, {"error": "overloaded", "message": "Very busy."}, "All lines are busy", "Very busy"),
        (503, {"error": "draining", "message": ""}, "The server is restarting", "in a minute"),
        (503, {"error": "ports", "message": "no UDP port"}, "refused the call", "no UDP port"),
        (422, "no audio section", "refused the call", "no audio section"),
        (401, "", "signed out", "carries the key"),
    ],
)
async def test_an_offer_that_is_refused(
    open_page: OpenPage,
    server: FakeServer,
    status: int,
    body: object,
    title: str,
    detail: str,
) -> None:
    page = await open_page(errors=True)  # the console lists the answer
    server.refuse = (
        web.json_response(body, status=status)
        if isinstance(body, dict)
        else web.Response(text=str(body), status=status)
    )
    await page.click("#call")
    await page.wait_for_text("[role=alert]", title)
    assert detail in await page.text("[role=alert]")
    assert await page.text("#call") == "Start call"


async def test_start_again_after_a_busy_line(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page(errors=True)
    server.refuse = web.json_response({"error": "full", "message": "full"}, status=503)
    await page.click("#call")
    await page.wait_for_text("[role=alert]", "busy")
    await page.click("[role=alert] button")
    await page.wait_for_text("#status", "Connected")
    assert await page.text("#alert") == ""


async def test_a_server_that_dies_in_mid_call(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page(errors=True)
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await server.emit("agent_text", turn=0, text="Good morning.")
    await page.wait_for_text("#log", "Good morning.")
    await server.stop()
    await page.wait_for_text("[role=alert]", "The connection was lost")
    assert "Good morning." in await page.text("#log")
    assert await page.text("#call") == "Start call"


async def test_a_server_that_is_not_there(open_page: OpenPage, server: FakeServer) -> None:
    page = await open_page(errors=True)
    await server.stop()
    await page.click("#call")
    await page.wait_for_text("[role=alert]", "The server does not answer")


async def test_the_events_socket_comes_back_while_sound_goes_on(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await eventually(lambda: server.call.socket is not None)
    assert server.call.socket is not None
    await server.call.socket.close()
    await eventually(lambda: server.call.sockets == 2)
    await server.emit("agent_text", turn=1, text="Still here.")
    await page.wait_for_text("#log", "Still here.")
    await page.wait_for_text("#status", "Connected")
    assert await page.text("#alert") == ""


async def test_what_was_typed_into_a_broken_socket_is_sent_once_more(
    open_page: OpenPage, server: FakeServer
) -> None:
    page = await open_page()
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await eventually(lambda: server.call.socket is not None)
    call = server.call

    async def say(text: str) -> None:
        await page.type("#text", text)
        await page.press("Enter")

    await say("This arrives.")
    await eventually(lambda: len(call.lines) == 1)
    call.deaf = True
    await say("This is lost.")
    await eventually(lambda: len(call.lost) == 1)
    assert call.socket is not None
    await call.socket.close()
    call.deaf = False
    await eventually(lambda: call.sockets == 2)
    await say("This arrives too.")
    await eventually(lambda: len(call.lines) == 3)
    assert [line["text"] for line in call.lines] == [
        "This arrives.",
        "This is lost.",
        "This arrives too.",
    ]


async def test_no_path_for_the_sound(open_page: OpenPage, server: FakeServer) -> None:
    hurry = """
      const later = window.setTimeout;
      window.setTimeout = (what, ms, ...rest) => later(what, ms === 15000 ? 400 : ms, ...rest);
    """
    page = await open_page(scripts=[hurry])
    server.mute_answer = True
    await page.click("#call")
    await page.wait_for_text("[role=alert]", "No sound path to the server")
    assert "webrtc.port_range" in await page.text("[role=alert]")


async def test_a_silent_microphone_is_noticed(open_page: OpenPage, server: FakeServer) -> None:
    """A track without any sound, and a clock that runs ahead."""
    silent = """
      navigator.mediaDevices.getUserMedia = async () => {
        const context = new AudioContext();
        return context.createMediaStreamDestination().stream;
      };
    """
    page = await open_page(scripts=[silent])
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await page.evaluate(
        "(() => { const now = performance.now.bind(performance);"
        " performance.now = () => now() + 8000; })()"
    )
    await page.wait_for_text("#quality", "Nothing heard from your microphone")


async def test_an_unplugged_microphone_does_not_end_the_call(
    open_page: OpenPage, server: FakeServer
) -> None:
    keep = """
      const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (what) => {
        const stream = await open(what);
        window.track = stream.getAudioTracks()[0];
        return stream;
      };
    """
    page = await open_page(scripts=[keep])
    await page.click("#call")
    await page.wait_for_text("#status", "Connected")
    await page.evaluate("window.track.dispatchEvent(new Event('ended'))")
    await page.wait_for_text("[role=alert]", "The microphone was unplugged")
    assert await page.text("#status") == "Connected"
