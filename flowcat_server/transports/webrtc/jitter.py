"""Puts received packets in order and accounts for every moment of the sender's clock.

Theory of operation. A loudspeaker needs audio evenly, a listening program does not: a packet
that is next in order is handed on the moment it arrives, so without loss the buffer adds no
delay, and after a burst it is empty at once. It waits only

- at a hole in the sequence numbers, `hold_ms` for the missing packet (reordering). `hold_ms`
  grows when packets turn up after they were given up, and shrinks again when none do. Then the
  packet after the hole gives back the last lost one (in-band FEC), what was lost before it is
  concealed, and everything held follows at once;
- at a silent line, `STALL_MS` (`PAUSE_MS` where the sender announced a pause) before it makes
  up audio in real time, so that whoever counts the caller's silence in samples goes on counting.

What arrives after its time was made up (the network stalled and then delivered everything) is
still played, because it is speech: the output grows by the made-up time, which is taken back
from later pauses. Only what is older than `STALE_MS` is dropped: a browser that was frozen for
15 s delivers 15 s of the past. But a sender whose clock stood still (a page that makes its
"microphone" itself and was silent) looks the same at first, and what it begins to say is new;
so the first packets that come so late are held for `JUDGE_MS`: the past comes faster than time.

Pure: the time is an argument in milliseconds, timestamps are in RTP units. The buffer never
decodes; it says what the decoder has to do. RFC 3550 section A.1 for sequence numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

HOLD_MS = 20
HOLD_MAX_MS = 100
HOLD_DECAY_MS = 2_000
"""So long without a late packet takes 20 ms off the hold."""
STALL_MS = 200
PAUSE_MS = 60
FILL_MS = 20
"""What is made up at once while nothing comes."""
STALE_MS = 1_000
JUDGE_MS = 100
BUNCHED_MS = 60
"""So much more than the time that passed may come at once from a sender that is on time."""
CONCEAL_MS = 100
"""Concealment repeats what was heard; after this long it would be noise: silence."""
MAX_PENDING = 100
MAX_DROPOUT = 3_000
"""Packets; a larger step of the sequence number is another stream (RFC 3550 A.1)."""
MAX_GAP_MS = 10_000
"""A larger step of the timestamp is a new clock, not a pause."""
MAX_TICK_MS = 100
"""After a longer time without `tick` it was us who stood still, not the network."""
REMEMBERED = 256
"""Sequence numbers given up that are still recognised when they come after all."""
WINDOW_MS = 5_000
"""The fastest way through the network is remembered for one to two of these."""


@dataclass(slots=True)  # not frozen, as `Packet`: there are fifty a second of each
class Play:
    """Decode this packet."""

    payload: bytes
    payload_type: int


@dataclass(slots=True, frozen=True)
class Recover:
    """One packet of `ticks` was lost; `following` may carry a copy of it."""

    following: bytes
    payload_type: int
    ticks: int


@dataclass(slots=True, frozen=True)
class Conceal:
    """`ticks` of audio were lost for good."""

    ticks: int


@dataclass(slots=True, frozen=True)
class Silence:
    """`ticks` during which the sender sent nothing."""

    ticks: int


Action = Play | Recover | Conceal | Silence


@dataclass(slots=True)
class Packet:
    """One received packet. `ticks` is 0 for what carries no audio (DTMF, comfort noise)."""

    timestamp: int
    """Extended: does not wrap."""
    payload: bytes
    payload_type: int
    ticks: int
    pause: bool
    """The sender announces that it will send nothing for a while."""
    arrived_ms: int


@dataclass(slots=True)
class JitterStats:
    """Counts of packets, except where a unit is given."""

    received: int = 0
    lost: int = 0
    duplicate: int = 0
    late: int = 0
    stale: int = 0
    resyncs: int = 0
    silence_ms: int = 0
    """Made up while nothing came."""


def signed(value: int, bits: int) -> int:
    """The shortest way round a counter of `bits` bits."""
    half = 1 << (bits - 1)
    return ((value + half) & ((1 << bits) - 1)) - half


class JitterBuffer:
    """The buffer of one stream.

    `clock_rate` is that of the timestamps, Hertz. `frame_ticks` is what to assume of a lost
    packet before any has arrived.
    """

    def __init__(self, clock_rate: int, frame_ticks: int, emit: Callable[[Action], None]) -> None:
        self.stats = JitterStats()
        self.hold_ms = HOLD_MS
        self._rate = clock_rate
        self._frame = frame_ticks
        self._emit = emit
        self._pending: dict[int, Packet] = {}
        self._given_up: dict[int, None] = {}
        self._running = False
        self._next_seq = 0
        self._position = 0
        """Extended timestamp of the next sample to be emitted."""
        self._sender = 0
        """Extended timestamp at which the last packet ended."""
        self._arrived_ms = 0
        self._debt = 0
        """Ticks emitted beyond the sender's clock."""
        self._quiet = False
        self._stalled = 0
        """Ticks made up since the last packet."""
        self._suspect: int | None = None
        self._stale_from: tuple[int, int] | None = None
        self._backlog = False
        """The past is being delivered."""
        self._held: list[Packet] = []
        """In order, and far too late."""
        self._offset = self._offset_next = 0
        self._window_ends = self._hold_checked = self._ticked = 0

    # --- in ---------------------------------------------------------------------------------

    def push(
        self,
        seq: int,
        timestamp: int,
        payload: bytes,
        now_ms: int,
        *,
        payload_type: int = 0,
        ticks: int = 0,
        pause: bool = False,
    ) -> None:
        """Take a packet. Emits whatever is in order after it."""
        self.stats.received += 1
        extended = self._sender + signed(timestamp - self._sender, 32)
        packet = Packet(extended, payload, payload_type, ticks, pause, now_ms)
        if not self._running:
            self._start(seq, packet, now_ms)
        step = signed(seq - self._next_seq, 16)
        if abs(step) > MAX_DROPOUT:
            if not self._is_new_stream(seq, packet, now_ms):
                return
            step = 0
        self._suspect = None
        if step < 0:
            self._came_late(seq, packet, now_ms)
        elif seq in self._pending:
            self.stats.duplicate += 1
        elif ticks and self._is_jump(packet, now_ms):
            self.restart(now_ms)
            self.stats.resyncs += 1
            self._start(seq, packet, now_ms)
            self._release(packet, now_ms)
        elif ticks and self._is_stale(packet, now_ms):
            while self._pending and signed(self._first()[0] - seq, 16) < 0:
                self._give_up(now_ms)
                self._drain(now_ms)
            self._next_seq = (seq + 1) & 0xFFFF
            self._hold_back(packet, now_ms)
        elif step == 0:
            # The common case passes through without being stored.
            self._measure(packet, now_ms)
            self._release(packet, now_ms)
            if self._pending:
                self._drain(now_ms)
        else:
            self._measure(packet, now_ms)
            self._pending[seq] = packet
            self._settle(now_ms)

    def restart(self, now_ms: int) -> None:
        """Another source begins (new SSRC): what is held is emitted, numbers start anew."""
        if not self._running:
            return
        while self._pending:
            self._give_up(now_ms)
            self._drain(now_ms)
        self._given_up.clear()
        self._held.clear()
        self._running = False
        self._silence_until(now_ms)

    def _silence_until(self, now_ms: int) -> None:
        """What would have been made up, had it been waited longer."""
        behind = now_ms - self._offset - self._ms(self._position)
        if 0 < behind <= STALL_MS:
            self._emit(Silence(behind * self._rate // 1000))

    # --- time -------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Time has passed: give up holes that were held long enough, make up for stalls."""
        if not self._running:
            return
        self._settle(now_ms)
        self._judge(now_ms)
        if now_ms - self._hold_checked >= HOLD_DECAY_MS:
            self._hold_checked = now_ms
            self.hold_ms = max(HOLD_MS, self.hold_ms - 20)
        idle = not self._pending and not self._held
        if idle and now_ms - self._ticked <= MAX_TICK_MS:
            self._fill(now_ms)
        self._ticked = now_ms

    def _settle(self, now_ms: int) -> None:
        while self._pending and self._is_due(now_ms):
            self._give_up(now_ms)
            self._drain(now_ms)

    def _is_due(self, now_ms: int) -> bool:
        # Enough later packets say the same as the time, without waiting for a clock.
        held_ms = max(
            now_ms - self._first()[1].arrived_ms, (len(self._pending) - 1) * self._ms(self._frame)
        )
        return held_ms >= self.hold_ms or len(self._pending) >= MAX_PENDING

    def _fill(self, now_ms: int) -> None:
        patience = PAUSE_MS if self._quiet else STALL_MS
        late = now_ms - self._offset - self._ms(self._position) - patience
        if late < 0:
            return
        step = self._rate * FILL_MS // 1000
        for _ in range(min(late // FILL_MS + 1, MAX_PENDING)):
            self._made_up(step)
            self._position += step

    def _made_up(self, ticks: int) -> None:
        if not self._quiet and self._ms(self._stalled) < CONCEAL_MS:
            self._emit(Conceal(ticks))
        else:
            self._emit(Silence(ticks))
        self._stalled += ticks
        self.stats.silence_ms += self._ms(ticks)

    # --- in order ---------------------------------------------------------------------------

    def _drain(self, now_ms: int) -> None:
        while (packet := self._pending.pop(self._next_seq, None)) is not None:
            self._release(packet, now_ms)

    def _release(self, packet: Packet, now_ms: int) -> None:
        self._next_seq = (self._next_seq + 1) & 0xFFFF
        self._play(packet, now_ms)

    def _play(self, packet: Packet, now_ms: int) -> None:
        self._quiet = packet.pause
        self._arrived_ms = packet.arrived_ms
        if packet.ticks:
            self._catch_up(packet, now_ms)
            self._emit(Play(packet.payload, packet.payload_type))
            self._position = self._sender = packet.timestamp + packet.ticks
            self._frame = packet.ticks
            self._stalled = 0

    def _catch_up(self, packet: Packet, now_ms: int) -> None:
        """Bring the output to the packet's timestamp: the sender paused, or we went ahead."""
        gap = packet.timestamp - self._position
        if gap < 0:
            # Made-up time turns out to have been a delay.
            self._debt -= gap
            self._rebase(now_ms - self._ms(packet.timestamp))
        elif gap > 0:
            self._silence(gap)

    def _silence(self, ticks: int) -> None:
        paid = min(ticks, self._debt)
        self._debt -= paid
        ticks = min(ticks - paid, self._rate * MAX_GAP_MS // 1000)
        if ticks:
            self._emit(Silence(ticks))

    def _give_up(self, now_ms: int) -> None:
        """Make up for the packets missing before the first one held."""
        seq, first = self._first()
        missing = signed(seq - self._next_seq, 16)
        self.stats.lost += missing
        for number in range(seq - min(missing, REMEMBERED), seq):
            self._given_up[number & 0xFFFF] = None
        while len(self._given_up) > REMEMBERED:
            del self._given_up[next(iter(self._given_up))]
        gap = first.timestamp - self._position
        if gap > 0 and first.ticks:
            lost = min(gap, missing * self._frame)
            if gap > lost:
                self._silence(gap - lost)
            if lost:  # nothing is, where the one before was held back as far too late
                self._conceal(first, lost)
            self._position = first.timestamp
        self._next_seq = seq

    def _conceal(self, first: Packet, ticks: int) -> None:
        last = min(self._frame, ticks)
        ticks -= last
        limit = self._rate * CONCEAL_MS // 1000
        while ticks > 0 and limit > 0:
            step = min(self._frame, ticks)
            self._emit(Conceal(step))
            limit -= step
            ticks -= step
        if ticks > 0:
            self._silence(ticks)
        self._emit(Recover(first.payload, first.payload_type, last))

    def _first(self) -> tuple[int, Packet]:
        seq = min(self._pending, key=lambda number: signed(number - self._next_seq, 16))
        return seq, self._pending[seq]

    # --- out of order -----------------------------------------------------------------------

    def _came_late(self, seq: int, packet: Packet, now_ms: int) -> None:
        if seq not in self._given_up:
            self.stats.duplicate += 1
            return
        del self._given_up[seq]
        self.stats.late += 1
        late = now_ms - self._offset - self._ms(packet.timestamp)
        if 0 <= late <= STALE_MS:
            self.hold_ms = min(max(self.hold_ms, late + 10), HOLD_MAX_MS)
            self._hold_checked = now_ms

    def _is_stale(self, packet: Packet, now_ms: int) -> bool:
        late = now_ms - self._offset - self._ms(packet.timestamp)
        if late <= STALE_MS:
            self._forget_held()
            self._backlog, self._stale_from = False, None
            return False
        since, first = self._stale_from or (now_ms, late)
        self._stale_from = (since, first)
        if now_ms - since >= STALE_MS and late > first - STALE_MS // 2:
            # It is not a backlog being worked off: the way has become longer for good.
            self._backlog, self._stale_from = False, None
            self._rebase(now_ms - self._ms(packet.timestamp))
            return False
        return True

    def _hold_back(self, packet: Packet, now_ms: int) -> None:
        self._sender = packet.timestamp + packet.ticks
        self._arrived_ms = now_ms
        if self._backlog:
            self.stats.stale += 1
        else:
            self._held.append(packet)
            self._judge(now_ms)

    def _judge(self, now_ms: int) -> None:
        """Whether what was held back is the past, or the present of a clock that stood still."""
        if not self._held:
            return
        first, last = self._held[0], self._held[-1]
        waited = now_ms - first.arrived_ms
        if waited < JUDGE_MS:
            return
        if self._ms(last.timestamp + last.ticks - first.timestamp) > waited + BUNCHED_MS:
            self._backlog = True
            self._forget_held()
            return
        self._silence_until(first.arrived_ms)
        self._rebase(min(each.arrived_ms - self._ms(each.timestamp) for each in self._held))
        self._stale_from = None
        # What was made up meanwhile was time that did pass: nothing is owed for it.
        self._position = first.timestamp
        held, self._held = self._held, []
        for packet in held:
            self._play(packet, now_ms)

    def _forget_held(self) -> None:
        self.stats.stale += len(self._held)
        self._held.clear()

    def _is_jump(self, packet: Packet, now_ms: int) -> bool:
        """The sender's clock neither went on from its last packet nor with the time."""
        limit = MAX_GAP_MS
        moved = self._ms(packet.timestamp - self._sender)
        if -limit <= moved <= limit:
            return False
        return not -limit <= moved - (now_ms - self._arrived_ms) <= limit

    def _is_new_stream(self, seq: int, packet: Packet, now_ms: int) -> bool:
        """Two packets in order far from where we are (RFC 3550 A.1); one may be garbage."""
        if seq != self._suspect:
            self._suspect = (seq + 1) & 0xFFFF
            return False
        self.restart(now_ms)
        self.stats.resyncs += 1
        self._start(seq, packet, now_ms)
        return True

    def _start(self, seq: int, packet: Packet, now_ms: int) -> None:
        self._running = True
        self._next_seq = seq
        self._position = self._sender = packet.timestamp
        self._debt = self._stalled = 0
        self._quiet = False
        self._suspect = self._stale_from = None
        self._backlog = False
        self._held.clear()
        self._arrived_ms = self._hold_checked = self._ticked = now_ms
        self._window_ends = now_ms + WINDOW_MS
        self._rebase(now_ms - self._ms(packet.timestamp))

    # --- the network's delay ----------------------------------------------------------------

    def _measure(self, packet: Packet, now_ms: int) -> None:
        """Follow the smallest difference between our clock and the sender's."""
        if not packet.ticks:
            return
        offset = now_ms - self._ms(packet.timestamp)
        if now_ms >= self._window_ends:
            self._offset, self._offset_next = self._offset_next, offset
            self._window_ends = now_ms + WINDOW_MS
        self._offset = min(self._offset, offset)
        self._offset_next = min(self._offset_next, offset)

    def _rebase(self, offset: int) -> None:
        self._offset = self._offset_next = offset

    def _ms(self, ticks: int) -> int:
        return ticks * 1000 // self._rate
