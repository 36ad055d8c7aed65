"""The default agent, called over the wires of switches: what is said is heard and answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from flowcat_server.carriers.audiosocket import HEADER, Frames
from flowcat_server.core.audio import PCM_8K, PCM_16K, AudioFormat
from tests.e2e.conftest import ROOT, Server, Speech, free_port, launch

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.alone, pytest.mark.timeout(150)]

UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
FRAME_S = 0.02


class Phone:
    """The far end of a switch: sends a frame every 20 ms, records what comes."""

    def __init__(self, audio: AudioFormat, send: Callable[[bytes], None]) -> None:
        self.audio = audio
        self.heard = bytearray()
        self.frames: list[tuple[float, int]] = []
        self._send = send
        self._speech = b""

    def hears(self, pcm: bytes) -> None:
        self.frames.append((time.monotonic(), len(pcm)))
        self.heard += pcm

    async def talk(self) -> None:
        """Speech if there is any, silence else, for ever."""
        size = self.audio.bytes_for(20)
        begun, count = time.monotonic(), 0
        while True:
            frame, self._speech = self._speech[:size], self._speech[size:]
            self._send(frame.ljust(size, b"\x00"))
            count += 1
            await asyncio.sleep(max(0.0, begun + count * FRAME_S - time.monotonic()))

    def says(self, pcm: bytes) -> None:
        self._speech += pcm

    async def quiet(self, seconds: float, within_s: float) -> bytes:
        """What is heard from now on until there is nothing more for so long."""
        start = len(self.heard)
        size = self.audio.bytes_for(20)
        spoke, last = False, time.monotonic()
        seen = start
        async with asyncio.timeout(within_s):
            while not spoke or time.monotonic() - last < seconds:
                await asyncio.sleep(0.05)
                while seen + size <= len(self.heard):
                    if any(self.heard[seen : seen + size]):
                        spoke, last = True, time.monotonic()
                    seen += size
        return bytes(self.heard[start:])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, int]]:
    port = free_port()
    started = launch(
        tmp_path_factory.mktemp("switches"), ROOT / "configs" / "default.yaml",
        "--set", f"carriers.audiosocket.bind=127.0.0.1:{port}",
    )  # fmt: skip
    yield started, port
    started.stop()


@asynccontextmanager
async def audiosocket(port: int) -> AsyncIterator[Phone]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    phone = Phone(PCM_8K, lambda pcm: writer.write(HEADER.pack(0x10, len(pcm)) + pcm))
    frames = Frames()

    async def listen() -> None:
        while data := await reader.read(4096):
            for frame in frames.cut(data):
                if frame[0] == 0x10:
                    phone.hears(frame[3:])

    writer.write(HEADER.pack(1, 16) + UUID)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen()), group.create_task(phone.talk())]
        try:
            yield phone
        finally:
            for task in tasks:
                task.cancel()
            writer.close()


@asynccontextmanager
async def asterisk(url: str) -> AsyncIterator[Phone]:
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{url}/telephony/ws/asterisk", protocols=["media"]) as socket,
    ):
        outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        phone = Phone(PCM_16K, outgoing.put_nowait)
        await socket.send_str(
            "MEDIA_START connection_id:c channel:n channel_id:1.1 format:slin16 "
            "optimal_frame_size:640 ptime:20"
        )

        async def listen() -> None:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    assert len(message.data) % 640 == 0
                    phone.hears(message.data)
                elif message.data.startswith("MARK_MEDIA"):
                    name = message.data.split()[1]
                    await socket.send_str(f"MEDIA_MARK_PROCESSED correlation_id:{name}")

        async def pass_on() -> None:
            while True:
                await socket.send_bytes(await outgoing.get())

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for work in (listen, pass_on, phone.talk)]
            try:
                yield phone
            finally:
                for task in tasks:
                    task.cancel()


@pytest.mark.parametrize("wire", ["audiosocket", "asterisk"])
async def test_the_agent_greets_and_answers(
    server: tuple[Server, int], speech: Speech, wire: str, tmp_path: Path
):
    del tmp_path
    running, port = server
    line = audiosocket(port) if wire == "audiosocket" else asterisk(running.url)
    async with line as phone:
        greeting = await phone.quiet(1.0, 20)
        assert "how can i help" in await speech.hear(greeting, phone.audio)
        phone.says(await speech.say("When are you open?", phone.audio))
        answer = await phone.quiet(1.5, 30)
        heard = await speech.hear(answer, phone.audio)
        assert "open" in heard or "nine" in heard or "monday" in heard, heard
    if wire == "audiosocket":  # one frame on every tick, neither early nor late
        times = [at for at, _ in phone.frames]
        elapsed = times[-1] - times[0]
        assert {size for _, size in phone.frames} == {320}
        assert abs(len(times) - 1 - elapsed / FRAME_S) <= 5
