"""A real server process, a voice to speak with, an ear to listen with."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from flowcat_server.core.audio import PCM_8K, AudioFormat
from flowcat_server.core.interfaces import (
    Audio,
    Pause,
    SpeechToText,
    SttInput,
    TextToSpeech,
)
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Kind, Settings, find

ROOT = Path(__file__).parent.parent.parent
START_S = 40.0


@dataclass
class Server:
    """A running ``flowcat-server``."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    records: Path
    started_s: float = 0.0
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+)", status)
        assert match is not None
        return int(match[1])

    def children(self) -> list[int]:
        """Processes that the server has started, in the order in which it did."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(child) for child in found.split()]

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)  # do not wait for live calls
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


StartServer = Callable[..., Server]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


CARRIERS = ("TWILIO_", "SIGNALWIRE_", "TELNYX_", "PLIVO_", "VOBIZ_", "VONAGE_")


def plain_environment() -> dict[str, str]:
    """The environment without what would configure the server behind the test's back."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOWCAT_", *CARRIERS)) and not name.endswith("_API_KEY")
    }


def launch(directory: Path, config: str | Path, *arguments: str, **environ: str) -> Server:
    """Start a server and wait until it is ready."""
    if isinstance(config, str):
        file = directory / "agent.yaml"
        file.write_text(config, encoding="utf-8")
        config = file
    port, log = free_port(), directory / f"server-{time.monotonic_ns()}.log"
    records = directory / "calls"
    command = [sys.executable, "-m", "flowcat_server", "run", str(config)]
    command += ["--bind", f"127.0.0.1:{port}", "--set", f"records.dir={records}", *arguments]
    begun = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=output, stdout=output, env={**plain_environment(), **environ}
        )
    server = Server(process, port, log, records)
    while time.monotonic() - begun < START_S:
        assert process.poll() is None, server.text()
        try:
            if server.get("/readyz")[0] == 200:
                server.started_s = time.monotonic() - begun
                return server
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"not ready in {START_S} s:\n{server.text()}")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that are stopped when the test ends."""
    running: list[Server] = []

    def start(config: str | Path, *arguments: str, **environ: str) -> Server:
        running.append(launch(tmp_path, config, *arguments, **environ))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def receptionist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The default agent on the bundled models."""
    server = launch(tmp_path_factory.mktemp("default"), ROOT / "configs" / "default.yaml")
    yield server
    if server.process.poll() is None:
        server.stop()


async def _provider(kind: Kind, name: str) -> object:
    provider = find(kind, name)
    assert provider is not None
    plug = provider.create(
        Settings(
            name,
            provider.default_model,
            provider.default_voice,
            "",
            SecretStr(""),
            "",
            provider.options(),
            Http(),
            ROOT,
        )
    )
    await plug.start()
    return plug


class Speech:
    """A voice and an ear, both of the bundled models, at 8 kHz unless told otherwise."""

    def __init__(self, voice: TextToSpeech, ear: SpeechToText) -> None:
        self._voice, self._ear = voice, ear

    async def say(self, text: str, audio_format: AudioFormat = PCM_8K) -> bytes:
        """PCM16, mono."""
        audio = b""
        async with self._voice.open(audio_format) as voice:
            async for speech in voice.synthesize(text):
                audio += speech.audio
        return audio

    async def hear(self, pcm: bytes, audio_format: AudioFormat = PCM_8K) -> str:
        """What a recording says, in lower case without punctuation."""
        inbox = _Once(pcm, audio_format)
        async for transcript in self._ear.transcribe(inbox, audio_format):
            if transcript.pause is not None:
                inbox.answered.set()
                return re.sub(r"[^a-z0-9' ]", "", transcript.text.lower())
        raise AssertionError("the ear gave no answer")


class _Once:
    def __init__(self, pcm: bytes, audio_format: AudioFormat) -> None:
        self._items: list[SttInput] = [Audio(pcm, audio_format.duration_ms(len(pcm))), Pause(1)]
        self.answered = asyncio.Event()

    async def get(self) -> list[SttInput]:
        items, self._items = self._items, []
        if not items:
            await self.answered.wait()
        return items


@pytest.fixture
async def speech() -> AsyncIterator[Speech]:
    voice, ear = await asyncio.gather(_provider("tts", "piper"), _provider("stt", "whisper"))
    yield Speech(voice, ear)  # type: ignore[arg-type]
    await voice.close()  # type: ignore[attr-defined]
    await ear.close()  # type: ignore[attr-defined]
