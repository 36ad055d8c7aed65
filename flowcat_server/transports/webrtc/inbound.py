"""From the caller's RTP packets to 20 ms pieces of PCM16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np

from flowcat_server.core.audio import ALAW_8K, MULAW_8K, PCM_16K, decode
from flowcat_server.core.rates import Upsampler
from flowcat_server.transports.webrtc import opus
from flowcat_server.transports.webrtc.dtmf import KeyPresses
from flowcat_server.transports.webrtc.jitter import (
    Action,
    Conceal,
    JitterBuffer,
    JitterStats,
    Play,
    Recover,
)

FORMAT = PCM_16K
PIECE = FORMAT.bytes_for(20)

Codec = Literal["opus", "pcmu", "pcma", "telephone-event"]


class Decoder(Protocol):
    """What a codec can do with the jitter buffer's decisions; `ticks` are RTP timestamp units."""

    clock_rate: int

    def ticks(self, payload: bytes) -> int:
        """Length of a packet; 0 when it is not valid."""

    def decode(self, payload: bytes) -> bytes: ...

    def recover(self, following: bytes, ticks: int) -> bytes: ...

    def conceal(self, ticks: int) -> bytes: ...


class OpusDecoder:
    """Opus, with FEC and concealment by libopus."""

    clock_rate = opus.CLOCK_RATE

    def __init__(self) -> None:
        self._decoder = opus.Decoder(FORMAT.sample_rate)
        self.decode = self._decoder.decode
        self.recover = self._decoder.recover
        self.conceal = self._decoder.conceal
        self.ticks = opus.packet_ticks


class G711Decoder:
    """G.711; a lost packet is the one before, fading (after the idea of ITU-T G.711 App. I)."""

    clock_rate = 8_000

    def __init__(self, codec: Codec) -> None:
        self._encoding = (MULAW_8K if codec == "pcmu" else ALAW_8K).encoding
        self._resampler = Upsampler(FORMAT.sample_rate // self.clock_rate)
        self._last = b""

    def ticks(self, payload: bytes) -> int:
        return len(payload)

    def decode(self, payload: bytes) -> bytes:
        self._last = decode(payload, self._encoding)
        return self._resampler.feed(self._last)

    def recover(self, following: bytes, ticks: int) -> bytes:
        return self.conceal(ticks)

    def conceal(self, ticks: int) -> bytes:
        faded = (np.frombuffer(self._last, dtype="<i2") // 2).tobytes()
        self._last = faded[: ticks * 2].ljust(ticks * 2, b"\0")
        return self._resampler.feed(self._last)


def _decoder(codec: Codec) -> Decoder:
    return OpusDecoder() if codec == "opus" else G711Decoder(codec)


class Inbound:
    """The hearing side of one peer connection."""

    def __init__(self, on_audio: Callable[[bytes], None], on_digit: Callable[[str], None]) -> None:
        """`on_audio` gets PCM16, 16 kHz, always 20 ms; `on_digit` one key per press."""
        self._on_audio = on_audio
        self._on_digit = on_digit
        self._codecs: Mapping[int, Codec] = {}
        self._codec: Codec | None = None
        self._decoder: Decoder | None = None
        self._jitter: JitterBuffer | None = None
        self._ssrc: int | None = None
        self._keys = KeyPresses()
        self._rest = b""

    def configure(self, codecs: Mapping[int, Codec]) -> None:
        """Which payload type is which codec; before the first packet."""
        self._codecs = codecs

    @property
    def stats(self) -> JitterStats:
        """What the network did to the stream."""
        return self._jitter.stats if self._jitter is not None else JitterStats()

    def packet(
        self, ssrc: int, payload_type: int, seq: int, timestamp: int, payload: bytes, now_ms: int
    ) -> None:
        """Take an RTP packet."""
        codec = self._codecs.get(payload_type)
        if ssrc != self._ssrc:
            self._ssrc = ssrc
            self._keys = KeyPresses()
            if self._jitter is not None:
                self._jitter.restart(now_ms)
        if codec is None or codec == "telephone-event":
            self._without_audio(codec, seq, timestamp, payload, now_ms)
            return
        jitter, decoder = self._use(codec, now_ms)
        jitter.push(
            seq,
            timestamp,
            payload,
            now_ms,
            payload_type=payload_type,
            ticks=decoder.ticks(payload),
            pause=codec == "opus" and opus.is_dtx(payload),
        )

    def _without_audio(
        self, codec: Codec | None, seq: int, timestamp: int, payload: bytes, now_ms: int
    ) -> None:
        # It takes a sequence number, so that the jitter buffer must know it was not lost.
        if self._jitter is not None:
            self._jitter.push(seq, timestamp, b"", now_ms, pause=True)
        if codec is not None and (digit := self._keys.receive(timestamp, payload)):
            self._on_digit(digit)

    def _use(self, codec: Codec, now_ms: int) -> tuple[JitterBuffer, Decoder]:
        if self._codec == codec and self._jitter is not None and self._decoder is not None:
            return self._jitter, self._decoder
        if self._jitter is not None:
            self._jitter.restart(now_ms)
        self._codec = codec
        self._decoder = _decoder(codec)
        rate = self._decoder.clock_rate
        jitter = JitterBuffer(rate, rate * 20 // 1000, self._act)
        if self._jitter is not None:
            jitter.stats = self._jitter.stats
        self._jitter = jitter
        return jitter, self._decoder

    def beat(self, now_ms: int) -> None:
        """Time has passed."""
        if self._jitter is not None:
            self._jitter.tick(now_ms)

    def _act(self, action: Action) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        if isinstance(action, Play):
            # An empty answer: not what the packet's first byte promised.
            pcm = decoder.decode(action.payload) or decoder.conceal(decoder.ticks(action.payload))
        elif isinstance(action, Recover):
            pcm = decoder.recover(action.following, action.ticks)
        elif isinstance(action, Conceal):
            pcm = decoder.conceal(action.ticks)
        else:
            pcm = bytes(action.ticks * FORMAT.sample_rate // decoder.clock_rate * 2)
        self.pcm(pcm)

    def pcm(self, pcm: bytes) -> None:
        """Deliver decoded audio of any length in 20 ms pieces."""
        if len(pcm) == PIECE and not self._rest:
            self._on_audio(pcm)
            return
        pcm = self._rest + pcm
        whole = len(pcm) - len(pcm) % PIECE
        for start in range(0, whole, PIECE):
            self._on_audio(pcm[start : start + PIECE])
        self._rest = pcm[whole:]
