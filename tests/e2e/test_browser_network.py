"""What the network does to a call from Chromium: delay and lost packets."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.cdp import Browser, Page
from tests.e2e.conftest import ROOT, Server, Speech, StartServer
from tests.e2e.impair import NO_CANDIDATES, LossyRelay
from tests.e2e.pages import (
    VOICE,
    channels,
    ended_call,
    fetch_recording,
    hang_up,
    script,
    start_call,
    starved,
    steadily,
    transcripts,
    utterances,
    wait_for_event,
    write_wav,
)

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(180), pytest.mark.alone]

ECHO = ROOT / "configs" / "echo.yaml"
MOUTH_TO_EAR_MS = 120
BURSTS = 15

SENTENCES = (
    "Good morning, we would like to come for dinner.",
    "Could we come on Friday at half past seven in the evening?",
    "My name is Alexander and my number is five five five one two three.",
    "Can I pay for it with a credit card?",
)

LISTEN = """
(() => {
  const onsets = { mouth: [], ear: [] };
  window.__onsets = onsets;
  const listen = async (track, name) => {
    const reader = new MediaStreamTrackProcessor({ track: track.clone() }).readable.getReader();
    let quiet = 1e9;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const came = performance.now();
      const samples = new Float32Array(value.numberOfFrames);
      value.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
      const perMs = value.sampleRate / 1000;
      const length = samples.length / perMs;
      value.close();
      for (let n = 0; n < samples.length; n++) {
        if (Math.abs(samples[n]) < 0.05) { quiet++; continue; }
        if (quiet > 200 * perMs) onsets[name].push(came - length + n / perMs);
        quiet = 0;
      }
    }
  };
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (what) => {
    const stream = await open(what);
    listen(stream.getAudioTracks()[0], "mouth");
    return stream;
  };
  const Original = RTCPeerConnection;
  window.RTCPeerConnection = class extends Original {
    constructor(...given) {
      super(...given);
      this.addEventListener("track", ({ track }) => listen(track, "ear"));
    }
  };
})();
"""
"""Notes when a burst leaves the microphone and when it comes out of the loudspeaker's track."""


def bursts(path: Path) -> Path:
    """Short tones, unevenly spaced, so that each can be recognised."""
    rate = VOICE.sample_rate
    chance = np.random.default_rng(5)
    parts = [np.zeros(rate * 2)]
    for _ in range(BURSTS + 2):
        at = np.arange(rate // 10) / rate
        parts += [
            np.sin(2 * np.pi * 1000 * at) * 16_000,
            np.zeros(int(rate * chance.uniform(0.5, 0.9))),
        ]
    return write_wav(path, np.concatenate(parts).astype("<i2").tobytes())


async def test_echo_takes_no_longer_than_a_good_telephone(
    start_server: StartServer, tmp_path: Path
):
    wav = bursts(tmp_path / "bursts.wav")
    server = start_server(ECHO)

    async def attempt() -> None:
        async with await Browser.launch(mic_wav=wav) as browser:
            page = await browser.new_page(server.url + "/?raw=1", scripts=[LISTEN])
            await page.wait_for("document.querySelector('#agent-name').textContent.trim()")
            await start_call(page)
            await page.wait_for(f"window.__onsets.ear.length > {BURSTS}", timeout=30)
            onsets = await page.evaluate("window.__onsets")
            await hang_up(page)
        delays = pair(onsets["mouth"], onsets["ear"])
        middle = statistics.median(delays)
        sys.stderr.write(
            f"\nbrowser: mouth to ear {middle:.0f} ms, {min(delays):.0f} to {max(delays):.0f} ms,"
            f" {len(delays)} bursts\n"
        )
        assert len(delays) >= BURSTS - 3
        assert middle <= MOUTH_TO_EAR_MS

    await steadily(server, attempt)


def pair(mouth: list[float], ear: list[float]) -> list[float]:
    """How long after it was said each burst was heard; some of the first may be missing."""
    delays = []
    for heard in ear:
        said = [onset for onset in mouth if 0 < heard - onset < 450]
        if len(said) == 1:
            delays.append(heard - said[0])
    return delays


@pytest.mark.models
async def test_lost_packets_cost_no_word(start_server: StartServer, speech: Speech, tmp_path: Path):
    parts: list[str | int] = [1_500]
    for sentence in SENTENCES:
        parts += [sentence, 1_200]
    pcm = await script(speech, [*parts, 1_000])
    wav, said_ms = write_wav(tmp_path / "sentences.wav", pcm), VOICE.duration_ms(len(pcm))
    async with LossyRelay(0) as relay:
        server = start_server(ECHO, *relay.arguments)
        heard: dict[int, list[str]] = {}
        for percent in (0, 3, 8):
            relay.lose(percent)

            async def attempt(percent: int = percent) -> None:
                heard[percent] = await _heard(server, relay, speech, wav, said_ms, percent)
                assert heard[percent] == heard[0]

            await steadily(server, attempt)
    assert len(heard[0]) == len(SENTENCES)


async def _heard(
    server: Server, relay: LossyRelay, speech: Speech, wav: Path, said_ms: int, percent: int
) -> list[str]:
    """What the server recorded of the caller, as an ear understands it."""
    carried, lost = relay.carried, relay.lost
    async with await Browser.launch(mic_wav=wav) as browser:
        page = await browser.new_page(server.url + "/?raw=1", scripts=[NO_CANDIDATES])
        await page.wait_for("document.querySelector('#agent-name').textContent.trim()")
        await start_call(page)
        call_id = (await wait_for_event(page, "call_started"))["call_id"]
        await page.wait_for(f"performance.now() > {await _now(page)} + {said_ms}", timeout=60)
        await hang_up(page)
        await page.wait_for_text("#status", "You hung up")
    await ended_call(server, call_id)
    carried, lost = relay.carried - carried, relay.lost - lost
    assert carried > said_ms // 20 * 0.9, "the call did not go through the relay"
    assert abs(lost / carried * 100 - percent) <= percent / 2
    caller, _, rate = channels(await fetch_recording(server, call_id))
    heard = await transcripts(speech, utterances(caller, rate))
    sys.stderr.write(
        f"\nbrowser: {lost} of {carried} packets lost, {starved(server)} stalls: {heard}\n"
    )
    return heard


async def _now(page: Page) -> Any:
    return await page.evaluate("performance.now()")
