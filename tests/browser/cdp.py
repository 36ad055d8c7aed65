"""Drives a real Chromium over the DevTools protocol, with aiohttp and nothing else.

    async with await Browser.launch(mic_wav=wav) as browser:
        page = await browser.new_page("http://127.0.0.1:6210/")
        await page.click("#call")
        await page.wait_for("document.querySelector('#status').textContent === 'Connected'")

`Browser.launch` skips the test where no Chromium is installed. A page lives in a context of its
own (cookies, storage, permissions), so that one process serves many tests: start a `Chromium`
once and `Browser.connect` to it from each test.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest

Permission = Literal["granted", "denied", "prompt"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Without the background flags Chromium looks up its maker's hosts, which closed networks refuse.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--autoplay-policy=no-user-gesture-required",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)

START_TIMEOUT = 20.0
"""Seconds until the debugging port is there; a loaded machine needs several."""


class BrowserError(Exception):
    """The browser refused a command, or a script on the page threw."""


def find_chromium() -> str | None:
    """Path of a Chromium: ``$CHROMIUM``, else the first of the usual names."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


def require_chromium() -> str:
    """The same, or a skipped test."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here (set CHROMIUM, or install the package chromium)")
    return path


class Chromium:
    """A browser process with a profile of its own; `stop` leaves neither process nor file."""

    def __init__(
        self,
        *,
        mic_wav: Path | None = None,
        fake_devices: bool = True,
        auto_accept: bool = True,
        flags: Sequence[str] = (),
    ) -> None:
        """Starts it.

        Args:
            mic_wav: played once as the microphone (WAV, end it with a second of silence); without
                it the fake microphone beeps.
            fake_devices: False leaves the machine's own devices: none in a container.
            auto_accept: False shows permission prompts, which nobody answers; needed for
                `new_page(microphone="denied")`.
            flags: more command line flags.
        """
        self._profile = Path(tempfile.mkdtemp(prefix="flowcat-chromium-"))
        command = [require_chromium(), *FLAGS, f"--user-data-dir={self._profile}", *flags]
        if fake_devices:
            command.append("--use-fake-device-for-media-stream")
        if auto_accept:
            command.append("--use-fake-ui-for-media-stream")
        if mic_wav is not None:
            command.append(f"--use-file-for-fake-audio-capture={mic_wav}%noloop")
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.url = self._await_port()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Of the browser process."""
        return self._process.pid

    @property
    def profile(self) -> Path:
        """Its folder; every process of this browser names it in its command line."""
        return self._profile

    def _await_port(self) -> str:
        """The WebSocket of the DevTools, read from the file Chromium writes when it listens."""
        told = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BrowserError(f"Chromium ended at once ({self._process.returncode})")
            lines = told.read_text().splitlines() if told.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.02)
        raise BrowserError(f"Chromium opened no debugging port within {START_TIMEOUT:.0f} s")

    def stop(self) -> None:
        """Ends the whole process group and waits for it; may be called twice."""
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        # Helpers outlive the browser by a moment and would write into the folder again.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        shutil.rmtree(self._profile, ignore_errors=True)

    def kill(self) -> None:
        """Ends it as a crash would: no goodbye to anyone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5.0)


class Browser:
    """A connection to a Chromium; an async context manager."""

    def __init__(
        self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse
    ) -> None:
        self._http = http
        self._socket = socket
        self._ids = iter(range(1, 1 << 30))
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._contexts: list[str] = []
        self._reader = asyncio.create_task(self._read(), name="cdp-reader")
        self.process: Chromium | None = None

    @classmethod
    async def launch(cls, **options: Any) -> Self:
        """Starts a `Chromium` with these options and connects; closing ends the process too."""
        process = await asyncio.to_thread(Chromium, **options)
        try:
            browser = await cls.connect(process.url)
        except BaseException:
            process.stop()
            raise
        browser.process = process
        return browser

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Connects to a running one."""
        http = aiohttp.ClientSession()
        try:
            socket = await http.ws_connect(url, max_msg_size=0, heartbeat=None)
        except BaseException:
            await http.close()
            raise
        return cls(http, socket)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the pages of this connection, and the process if `launch` started it."""
        try:
            for context in self._contexts:
                with contextlib.suppress(BrowserError, TimeoutError, ConnectionError):
                    await self.send("Target.disposeBrowserContext", {"browserContextId": context})
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            await self._socket.close()
            await self._http.close()
        finally:
            if self.process is not None:
                await asyncio.to_thread(self.process.stop)

    async def send(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        session: str = "",
        timeout: float = 15.0,
    ) -> dict[str, Any]:
        """One command, one result.

        Raises:
            BrowserError: Chromium refused it, or is gone.
            TimeoutError: no result within `timeout` seconds.
        """
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if self._reader.done():
                raise BrowserError(f"{method}: the browser is gone")
            await self._socket.send_str(json.dumps(message))
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._waiting.pop(number, None)

    async def new_page(
        self,
        url: str = "about:blank",
        *,
        size: tuple[int, int] = (1280, 800),
        scale: float = 1.0,
        media: dict[str, str] | None = None,
        microphone: Permission = "granted",
        capture: bool = False,
        scripts: Sequence[str] = (),
    ) -> Page:
        """Opens a page in a context of its own and waits until it has loaded.

        Args:
            url: where to.
            size: CSS pixels; below 500 wide it is a telephone with a touch screen.
            scale: device pixels per CSS pixel.
            media: media features, such as ``{"prefers-color-scheme": "dark"}``.
            microphone: what the browser answers when the page asks.
            capture: keep remote audio for `Page.remote_audio`.
            scripts: run before the page's own, in every document.
        """
        context = (await self.send("Target.createBrowserContext"))["browserContextId"]
        self._contexts.append(context)
        # Clipboard comes from the same place: a page that copies should not hang in a prompt.
        settings = {"microphone": microphone, "clipboard-write": "granted"}
        await asyncio.gather(
            *(
                self.send(
                    "Browser.setPermission",
                    {"permission": {"name": name}, "setting": each, "browserContextId": context},
                )
                for name, each in settings.items()
            )
        )
        target = (
            await self.send(
                "Target.createTarget", {"url": "about:blank", "browserContextId": context}
            )
        )["targetId"]
        session = (await self.send("Target.attachToTarget", {"targetId": target, "flatten": True}))[
            "sessionId"
        ]
        page = Page(self, session, target)
        self._listeners[session] = page._on_event
        domains = ("Page", "Runtime", "Network", "Log")
        await asyncio.gather(*(page.send(f"{domain}.enable") for domain in domains))
        await page.set_size(*size, scale=scale)
        if media:
            await page.emulate_media(media)
        if capture:
            await page.add_init_script(CAPTURE)
        for script in scripts:
            await page.add_init_script(script)
        if url != "about:blank":
            await page.goto(url)
        return page

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._dispatch(json.loads(message.data))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(BrowserError("the browser is gone"))

    def _dispatch(self, message: dict[str, Any]) -> None:
        future = self._waiting.get(message.get("id", 0))
        if future is not None and not future.done():
            if "error" in message:
                future.set_exception(BrowserError(message["error"].get("message", "")))
            else:
                future.set_result(message["result"])
        elif "method" in message:
            listener = self._listeners.get(message.get("sessionId", ""))
            if listener is not None:
                listener(message["method"], message.get("params", {}))


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self._loaded = asyncio.Event()
        self.errors: list[str] = []
        """Errors of the console, uncaught exceptions and policy violations, in order."""
        self.requests: list[str] = []
        """Addresses of all requests, WebSockets included."""

    async def send(
        self, method: str, params: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """A raw command of the protocol for this page."""
        return await self._browser.send(method, params, session=self._session, **options)

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                entry = params["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}".strip())
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(" ".join(_spell(each) for each in params["args"]))
            case "Runtime.exceptionThrown":
                self.errors.append(_exception(params["exceptionDetails"]))

    async def goto(self, url: str, *, timeout: float = 15.0) -> None:
        """Opens an address and waits for its load event."""
        self._loaded.clear()
        result = await self.send("Page.navigate", {"url": url})
        if "errorText" in result:
            raise BrowserError(f"{url}: {result['errorText']}")
        async with asyncio.timeout(timeout):
            await self._loaded.wait()

    async def evaluate(self, expression: str, *, timeout: float = 15.0) -> Any:
        """Value of an expression on the page; promises are awaited, scripts count as a click.

        Raises:
            BrowserError: it threw.
        """
        result = await self.send(
            "Runtime.evaluate",
            {
                "expression": expression,
                "awaitPromise": True,
                "returnByValue": True,
                "userGesture": True,
            },
            timeout=timeout,
        )
        if "exceptionDetails" in result:
            raise BrowserError(_exception(result["exceptionDetails"]))
        return result["result"].get("value")

    async def wait_for(self, expression: str, *, timeout: float = 10.0) -> Any:
        """Waits until an expression is true on the page, and returns its value.

        Raises:
            TimeoutError: with the expression, its last value and the console's errors.
        """
        value: Any = None
        # An element has no value of its own: that it is there is what is asked.
        script = (
            f"(async () => {{ const v = await ({expression}); return v instanceof Node || v }})()"
        )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = await self.evaluate(script)
            if value:
                return value
            await asyncio.sleep(0.02)
        raise TimeoutError(f"{expression} stayed {value!r}; console: {self.errors}")

    async def text(self, selector: str) -> str:
        """Visible text of an element, blanks collapsed."""
        found = f"document.querySelector({json.dumps(selector)})"
        return " ".join(str(await self.evaluate(f"{found}.innerText")).split())

    async def wait_for_text(self, selector: str, text: str, *, timeout: float = 10.0) -> None:
        """Waits until an element holds a text."""
        query = f"document.querySelector({json.dumps(selector)})?.textContent"
        await self.wait_for(f"({query} ?? '').includes({json.dumps(text)})", timeout=timeout)

    async def click(self, selector: str) -> None:
        """Presses the mouse in the middle of an element, as a person would.

        Raises:
            BrowserError: it is not there, not visible, or something lies over it.
        """
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            if (!element) return "is not there";
            element.scrollIntoView({{block: "nearest", inline: "nearest"}});
            const box = element.getBoundingClientRect();
            if (!box.width || !box.height) return "is not visible";
            const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
            const top = document.elementFromPoint(x, y);
            const over = top?.outerHTML.slice(0, 80);
            if (!element.contains(top)) return `is under ${{over}}`;
            return [x, y];
        }})()"""
        place = await self.evaluate(script)
        if isinstance(place, str):
            raise BrowserError(f"{selector} {place}")
        x, y = place
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            event = {"type": kind, "x": x, "y": y, "button": button, "clickCount": 1}
            await self.send("Input.dispatchMouseEvent", event)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key: a character, or a name such as ``Enter``, ``Tab``, ``Escape``."""
        code, text = _KEYS.get(key, (ord(key.upper()[0]), key))
        event: dict[str, Any] = {
            "key": key,
            "windowsVirtualKeyCode": code,
            "modifiers": 8 if shift else 0,
        }
        await self.send("Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **event})
        await self.send("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    async def type(self, selector: str, text: str) -> None:
        """Focuses a field and types into it."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.send("Input.insertText", {"text": text})

    async def screenshot(self, path: Path, *, full: bool = False) -> Path:
        """Writes a PNG of what is seen, or of the whole page."""
        result = await self.send(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": full}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(result["data"]))
        return path

    async def set_size(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """Size of the window in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": scale,
                "mobile": width < 500,
            },
        )

    async def emulate_media(self, features: dict[str, str]) -> None:
        """Sets media features; earlier ones are forgotten."""
        listed = [{"name": name, "value": value} for name, value in features.items()]
        await self.send("Emulation.setEmulatedMedia", {"features": listed})

    async def set_offline(self, offline: bool) -> None:
        """Cuts HTTP and new WebSockets; media and open sockets go on."""
        await self.send(
            "Network.emulateNetworkConditions",
            {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )

    async def add_init_script(self, source: str) -> None:
        """Runs before the page's own scripts in every document from now on."""
        await self.send("Page.addScriptToEvaluateOnNewDocument", {"source": source})

    async def remote_audio(self) -> tuple[npt.NDArray[np.int16], int]:
        """What the page has received so far: mono samples and their rate in Hertz.

        Needs `capture=True`. Silence that Chromium fills in itself is part of it.
        """
        told = await self.evaluate("window.__capture.read()", timeout=60.0)
        return np.frombuffer(base64.b64decode(told["pcm"]), dtype="<i2"), int(told["rate"])

    async def close(self) -> None:
        """Closes the tab as a person does: the page hears of it."""
        await self._browser.send("Target.closeTarget", {"targetId": self._target})


async def eventually(check: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Waits for something on this side of the wire.

    Raises:
        TimeoutError: it did not come true.
    """
    async with asyncio.timeout(timeout):
        while not check():  # noqa: ASYNC110 - what is awaited belongs to others
            await asyncio.sleep(0.01)


_KEYS: dict[str, tuple[int, str]] = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Backspace": (8, ""),
    " ": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}


def _spell(value: dict[str, Any]) -> str:
    return str(value.get("description") or value.get("value") or value.get("type"))


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))


CAPTURE = """
(() => {
  const chunks = [];
  let rate = 48000;
  const keep = async (track) => {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const samples = new Float32Array(value.numberOfFrames);
      value.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
      rate = value.sampleRate;
      value.close();
      chunks.push(Int16Array.from(samples, (each) => Math.max(-1, Math.min(1, each)) * 32767));
    }
  };
  const Original = RTCPeerConnection;
  window.RTCPeerConnection = class extends Original {
    constructor(...given) {
      super(...given);
      this.addEventListener("track", ({ track }) => track.kind === "audio" && keep(track.clone()));
    }
  };
  window.__capture = {
    async read() {
      const bytes = new Blob(chunks);
      const url = await new Promise((done) => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result);
        reader.readAsDataURL(bytes);
      });
      return { rate, pcm: url.slice(url.indexOf(",") + 1) };
    },
  };
})();
"""
"""Keeps what arrives, without an audio device: MediaStreamTrackProcessor needs none."""
