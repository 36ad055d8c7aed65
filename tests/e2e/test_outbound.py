"""Whole calls that the server makes: dialled, answered by a person or a machine, with real audio.

The carrier is a fake that dials by its own API, signs as the vendor's library does, and opens the
media socket; the providers are the scripted ones, in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from flowcat_server.core import ended
from flowcat_server.core.audio import PCM_8K, Transcoder, rms
from tests.fakes.dialler import OURS, TO, Dialler, dialler
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.peers import Leg, Peer, Plivo, Telnyx, Vonage
from tests.routes.test_outbound import ALLOW, KEYS, ask, becomes

pytestmark = pytest.mark.e2e

AGENT = """
agent:
  prompt: Be kind.
  greeting: "Good morning {{name}}, this is the surgery. I am calling about your appointment, which
    we would like to move to another day, if that is convenient for you and all of your family."
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello], loop: true, delay_ms: 80}}
  llm: {provider: scripted, options: {replies: [Thank you.], loop: true, first_token_ms: 60}}
  tts: {provider: scripted, options: {first_audio_ms: 60, ms_per_char: 40}}
"""
MESSAGE = "Dear {{name}}, please call us back."
LEAVE = {"on_machine": "leave_message", "message": MESSAGE}
PEERS = [Peer(), Plivo(), Vonage(), Telnyx()]
every = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
STEP = 160


@asynccontextmanager
async def surgery(folder: Path, peer: Peer) -> AsyncIterator[tuple[Doors, Dialler]]:
    async with dialler(peer) as api:
        more = {**KEYS[peer.name], "from_number": OURS, "api_url": api.url}
        extra = ", ".join(f"{name}: {json.dumps(value)}" for name, value in more.items())
        yaml = peer.yaml.replace(ECHO, AGENT).replace(peer.block, f"{peer.block}, {extra}") + ALLOW
        async with doors(folder, yaml) as house:
            api.house = house
            yield house, api


class Phone:
    """What picks up: it plays a sound in real time and remembers what it hears, and when."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.heard: list[tuple[float, bytes]] = []
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._out = Transcoder(PCM_8K, leg.stream.says)
        self._hearing = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        back = Transcoder(self.leg.stream.hears, PCM_8K)
        while True:
            message = await self.leg.socket.receive()
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                return
            heard = self.leg.stream.hear(message.data)
            if heard.audio:
                self.heard.append((self._loop.time() - self._begun, back.feed(heard.audio)))
            # A mark comes back when the audio before it has been played.
            if heard.mark and (played := self.leg.stream.played(heard.mark)) is not None:
                await self.leg.send(played)

    async def plays(self, ms: int, sound: Callable[[np.ndarray], np.ndarray]) -> None:
        """Play for so long; `sound` of sample numbers."""
        for step in range(ms // 20):
            samples = sound(np.arange(STEP * step, STEP * (step + 1)))
            pcm = np.clip(samples, -32768, 32767).astype("<i2").tobytes()
            with contextlib.suppress(ConnectionError):
                await self.leg.say(self._out.feed(pcm))
            await asyncio.sleep(0.02)

    async def closed(self, within_s: float = 20) -> None:
        async with asyncio.timeout(within_s):
            await asyncio.wait([self._hearing])

    def loud_since(self, since_s: float) -> bool:
        """Whether anything but silence was heard after a time."""
        return any(rms(pcm) > 100 for at, pcm in self.heard if at >= since_s and pcm)

    @property
    def now_s(self) -> float:
        return self._loop.time() - self._begun


_rng = np.random.default_rng(5)


def voice(at: np.ndarray) -> np.ndarray:
    return _rng.normal(0, 5000, len(at))


def quiet(at: np.ndarray) -> np.ndarray:
    return np.zeros(len(at))


def tone(at: np.ndarray) -> np.ndarray:
    return 8000 * np.sin(2 * np.pi * 1000 * at / 8000)


@every
async def test_a_person_is_greeted_and_talked_to(tmp_path: Path, peer: Peer):
    async with surgery(tmp_path, peer) as (house, api):
        _, made = await ask(house, variables={"name": "Ada"}, machine=LEAVE)
        async with api.talks() as leg:
            phone = Phone(leg)
            await phone.plays(400, quiet)
            assert phone.heard  # the greeting does not wait
            await phone.plays(500, voice)
            await phone.plays(2500, quiet)
            assert (await becomes(house, made["id"], "answered"))["call"]["live"]
        await house.settled(0)
        record = await becomes(house, made["id"], "completed")
        assert record["call"]["answered_by"] == "human"
        assert record["call"]["ended_reason"] == ended.CALLER_HUNG_UP
        (found,) = [e for e in record["events"] if e["type"] == "answer_detected"]
        assert (found["answerer"], found["by"]) == ("human", "own")
        assert found["at_ms"] < 2500
        assert record["turns"][0]["agent"].startswith("Good morning Ada")


@every
async def test_a_machine_gets_the_message_after_its_tone(tmp_path: Path, peer: Peer):
    async with surgery(tmp_path, peer) as (house, api):
        _, made = await ask(house, variables={"name": "Ada"}, machine=LEAVE)
        async with api.talks() as leg:
            phone = Phone(leg)
            await phone.plays(4600, voice)
            cut_s = phone.now_s + 0.3
            await phone.plays(900, voice)
            await phone.plays(500, quiet)
            assert not phone.loud_since(cut_s)  # the greeting was cut off
            await phone.plays(400, tone)
            tone_s = phone.now_s
            keeps_on = asyncio.create_task(phone.plays(8000, quiet))
            await phone.closed()
            keeps_on.cancel()
            assert phone.loud_since(tone_s)
            first = min(at for at, pcm in phone.heard if at > cut_s and rms(pcm) > 100)
            assert 0 <= first - tone_s <= 1.5
        await house.settled(0)
        record = await becomes(house, made["id"], "completed")
        assert record["call"]["ended_reason"] == ended.MACHINE_MESSAGE_LEFT
        assert record["call"]["answered_by"] == "machine"
        assert record["turns"][-1]["agent"] == "Dear Ada, please call us back."
        if isinstance(peer, Vonage | Telnyx):  # closing the socket would leave the line open
            assert any(api.call in path for _, path, _ in api.others)
        metrics = house.metrics.render()[0].decode()
        assert 'flowcat_machine_detection_total{by="own",result="machine"} 1.0' in metrics


async def test_the_carriers_own_result_hangs_up_on_a_machine(tmp_path: Path):
    async with surgery(tmp_path, Peer()) as (house, api):
        _, made = await ask(house, machine={"detect": "carrier"})
        async with api.talks() as leg:
            phone = Phone(leg)
            await phone.plays(300, voice)
            await api.reports(AnsweredBy="machine_start")
            await phone.closed()
        record = await becomes(house, made["id"], "completed")
        assert record["call"]["ended_reason"] == ended.MACHINE_HUNG_UP
        (found,) = [e for e in record["events"] if e["type"] == "answer_detected"]
        assert (found["answerer"], found["by"]) == ("machine", "carrier")


async def test_the_carriers_result_may_come_before_the_sound(tmp_path: Path):
    async with surgery(tmp_path, Peer()) as (house, api):
        _, made = await ask(house)
        await api.reports(AnsweredBy="machine_start")
        async with api.talks() as leg:
            await Phone(leg).closed()
        record = await becomes(house, made["id"], "completed")
        assert record["call"]["ended_reason"] == ended.MACHINE_HUNG_UP
        assert record["call"]["to"] == TO
