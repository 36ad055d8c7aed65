"""From the agent's PCM to one packet every 20 ms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_24K, encode
from flowcat_server.core.rates import Downsampler
from flowcat_server.transports.webrtc import opus
from flowcat_server.transports.webrtc.inbound import Codec

FORMAT = PCM_24K
"""Super-wideband: what voices are made at, and half again the cost of 16 kHz."""
PIECE = FORMAT.bytes_for(20)
LEAD_IN = 15
"""Packets of silence before the first sound: a browser's jitter buffer finds its depth in the
first 300 ms and shortens what is played meanwhile."""
TAIL = 5
"""Silent frames really encoded after speech, so that the voice fades as the codec wants it."""


class OpusVoice:
    """Encodes speech; settled silence costs nothing."""

    def __init__(self, max_bitrate: int | None) -> None:
        self._encoder = opus.Encoder(FORMAT.sample_rate, max_bitrate=max_bitrate)
        self._silence = opus.silence_packet(FORMAT.sample_rate)
        self._tail = 0
        self.expect_loss = self._encoder.expect_loss

    def encode(self, pcm: bytes) -> bytes:
        """20 ms of PCM, or nothing, to one packet."""
        if not pcm:
            if not self._tail:
                return self._silence
            self._tail -= 1
            return self._encoder.encode(bytes(PIECE))
        if not self._tail:
            # The far decoder has heard silence since; ours must not lean on older speech.
            self._encoder.reset()
        self._tail = TAIL
        return self._encoder.encode(pcm)


class G711Voice:
    """For peers without Opus."""

    def __init__(self, codec: Literal["pcmu", "pcma"]) -> None:
        target = MULAW_8K if codec == "pcmu" else ALAW_8K
        self._encoding = target.encoding
        self._resampler = Downsampler(FORMAT.sample_rate // target.sample_rate)
        self._silence = target.silence(20)
        self._fading = False

    def expect_loss(self, percent: int) -> None:
        """G.711 has nothing to offer against loss."""

    def encode(self, pcm: bytes) -> bytes:
        """20 ms of PCM, or nothing, to one packet."""
        if not pcm and not self._fading:
            return self._silence
        # One more frame lets the filter ring out.
        self._fading = bool(pcm)
        return encode(self._resampler.feed(pcm or bytes(PIECE)), self._encoding)


class Outbound:
    """The speaking side of one peer connection."""

    def __init__(self, pull: Callable[[int], bytes], max_bitrate: int | None = None) -> None:
        """`pull(size)` returns up to `size` bytes of `FORMAT` that are to be sent now.

        `max_bitrate`: of Opus, bits a second; the peer wants no more.
        """
        self._pull = pull
        self._max_bitrate = max_bitrate
        self._voice: OpusVoice | G711Voice | None = None
        self._lead_in = LEAD_IN
        self.ticks = opus.CLOCK_RATE * opus.FRAME_MS // 1000
        """RTP timestamp units of one packet."""

    def configure(self, codec: Codec) -> None:
        """Choose the codec; before the first packet."""
        if codec == "opus":
            self._voice = OpusVoice(self._max_bitrate)
        elif codec != "telephone-event":
            self._voice = G711Voice(codec)
            self.ticks = MULAW_8K.sample_rate * 20 // 1000

    def expect_loss(self, percent: int) -> None:
        """What the far end reports as lost, in percent."""
        if self._voice is not None:
            self._voice.expect_loss(percent)

    def packet(self) -> bytes:
        """The next 20 ms."""
        return self._voice.encode(self.pcm()) if self._voice is not None else b""

    def pcm(self) -> bytes:
        """The next 20 ms before encoding; empty when there is nothing to say."""
        if self._lead_in:
            self._lead_in -= 1
            return b""
        pcm = self._pull(PIECE)
        return pcm + bytes(PIECE - len(pcm)) if pcm else b""
