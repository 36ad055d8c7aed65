"""How late the event loop is, who held it, and whether it keeps up.

Theory of operation. The loop is asked for a tick every 20 ms; how late it comes is the lag. Each
tick winds an alarm, which rings in a thread of its own when the next one is overdue by the bound:
the thread then writes down where the loop's thread stands, while it stands there. The tick that
comes in the end logs one line: how late it was, that place, and what the time went into, as far as
the system tells:

- ``computing``: the thread used the processor;
- ``collecting``: most of it was garbage collection;
- ``waiting``: it did not run, and could not: a file, a lock, a thread that held the interpreter;
- ``starved``: it could have run and was given no core: too many programs, or too few cores. Where
  the kernel does not count this (Linux does, in ``schedstat``), it is counted as waiting.

Code in C that holds the interpreter keeps the watching thread from running too. The time is
measured all the same, because the tick measures it; the place is then the line that called it, or
missing. A block that begins just after a tick is up to 20 ms longer than the lag it makes.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

from flowcat_server.core.overload import Overload
from flowcat_server.metrics import Metrics

log = structlog.get_logger()

TICK_S: Final = 0.02
STALL_MS: Final = 20
"""Later than this, a frame of 20 ms has missed its place."""
LOG_EVERY_S: Final = 5.0
JOIN_S: Final = 1.0
MAX_FRAMES: Final = 8
"""Of a stack that is logged."""
_INNERMOST: Final = 2
"""Frames that are shown whosoever they are; of the others only ours."""
_PACKAGE: Final = str(Path(__file__).parent)
_LOOP: Final = str(Path(asyncio.__file__).parent)
_TURNING: Final = frozenset(
    str(Path(_LOOP, name)) for name in ("base_events.py", "events.py", "runners.py")
)
"""The loop itself; what lies outside of it is the same in every stack."""


class Collections:
    """What garbage collection took, by generation. Plain attributes, read when somebody asks.

    The interpreter calls it in the middle of anything and on any thread: it takes no lock.
    """

    def __init__(self) -> None:
        self.count = [0, 0, 0]
        self.seconds = [0.0, 0.0, 0.0]
        self.longest = [0.0, 0.0, 0.0]
        self.total = 0.0
        """Seconds, of all generations."""
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """A callback of `gc.callbacks`."""
        if phase == "start":
            self._began = time.perf_counter()
            return
        took, generation = time.perf_counter() - self._began, info["generation"]
        self.count[generation] += 1
        self.seconds[generation] += took
        self.total += took
        self.longest[generation] = max(self.longest[generation], took)


class LoopWatch:
    """Watches the running loop from `start` to `close`, both called on its thread.

    Args:
        metrics: Told every lag, stall and collection.
        overload: Told every lag.
        stall_ms: Lags from here on are stalls: counted, and logged at most every `LOG_EVERY_S`;
            0: none is.
        clock: Seconds; the loop's own may stand still for a whole turn.
    """

    def __init__(
        self,
        metrics: Metrics,
        overload: Overload | None = None,
        *,
        stall_ms: int = STALL_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._overload = overload
        self._stall_s = stall_ms / 1000
        self._clock = clock
        self._collections = Collections()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watched = threading.get_ident()
        self._schedstat = -1
        self._due = 0.0
        """When the next tick is due; it changes with every tick."""
        self._cpu = self._gc = 0.0
        """Of the loop's thread, and of collections, at the last tick."""
        self._scheduled = b""
        self._seen: tuple[float, str] = (0.0, "")
        """The tick that was missing, and where the loop stood then."""
        self._quiet_until = 0.0
        self._unlogged = 0
        self._alarm = Alarm.make(TICK_S + self._stall_s) if stall_ms else None
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._schedstat = _open_schedstat()
        gc.callbacks.append(self._collections)
        self._metrics.watch_collections(self._collections)
        self._wind()
        if self._alarm is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self._alarm,), name="loop-watch", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._collections in gc.callbacks:
            gc.callbacks.remove(self._collections)
        if self._thread is not None and self._alarm is not None:
            self._alarm.ring()
            self._thread.join(JOIN_S)
            self._alarm.close()
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    # --- on the loop --------------------------------------------------------------------------

    def _wind(self) -> None:
        """Ask for the next tick, and remember how things stand until it comes."""
        self._cpu, self._gc = time.thread_time(), self._collections.total
        self._scheduled = _read(self._schedstat)
        self._due = self._clock() + TICK_S
        if self._alarm is not None:
            self._alarm.wind()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self._clock()
        lag = max(0.0, now - self._due)
        self._metrics.loop_lag(lag)
        if self._stall_s and lag >= self._stall_s:
            self._stalled(now, lag)
        overload = self._overload
        if overload is not None and overload.observe(lag * 1000):
            if overload.overloaded:
                log.warning("overloaded", lag_ms=overload.lag_ms())
            else:
                log.info("overload_over")
        self._wind()

    def _stalled(self, now: float, lag: float) -> None:
        cpu = time.thread_time() - self._cpu
        collecting = self._collections.total - self._gc
        starved = _waited(self._scheduled, _read(self._schedstat))
        cause = _cause(lag, cpu, collecting, starved or 0.0)
        self._metrics.loop_stalled(cause, lag)
        if now < self._quiet_until:
            self._unlogged += 1
            return
        missing, stack = self._seen
        fields = {} if starved is None else {"starved_ms": round(starved * 1000)}
        log.warning(
            "loop_stalled",
            ms=round(lag * 1000),
            cause=cause,
            cpu_ms=round(cpu * 1000),
            gc_ms=round(collecting * 1000),
            **fields,
            stack=stack if missing == self._due else "",
            unlogged=self._unlogged,
        )
        self._quiet_until, self._unlogged = now + LOG_EVERY_S, 0

    # --- in the watching thread -----------------------------------------------------------------

    def _watch(self, alarm: Alarm) -> None:
        while not self._closed:
            alarm.wait()
            self._look()

    def _look(self) -> None:
        """Write down where the loop's thread stands, if the tick is still missing."""
        due = self._due
        if self._clock() < due:
            return
        frame = sys._current_frames().get(self._watched)
        stack = describe(frame)
        del frame  # it would keep alive what its functions hold
        if self._due == due:
            self._seen = due, stack


class Alarm:
    """Rings in the thread that waits for it when nobody winds it for a while.

    Winding costs a microsecond and wakes no thread, unlike a timeout of `threading`: a loop that
    keeps up never disturbs the waiting thread, and is never disturbed by it.
    """

    def __init__(self, libc: ctypes.PyDLL, file: int, seconds: float) -> None:
        self._libc, self._file = libc, file
        whole = int(seconds)
        # struct itimerspec: the interval, which is 0 for once, and the time from now.
        spec = (ctypes.c_long * 4)(0, 0, whole, int((seconds - whole) * 1e9))
        self._after = ctypes.byref(spec)
        self._at_once = ctypes.byref((ctypes.c_long * 4)(0, 0, 0, 1))

    @classmethod
    def make(cls, seconds: float) -> Alarm | None:
        """An alarm that rings so long after it was wound (timerfd_create(2)); None: not here."""
        try:
            libc = ctypes.PyDLL(None)  # keeps the interpreter: the calls take less than a handover
            file = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        except (OSError, AttributeError):  # not on Linux: lag is measured, the place is not known
            return None
        return cls(libc, file, seconds) if file >= 0 else None

    def wind(self) -> None:
        """Put it off."""
        self._libc.timerfd_settime(self._file, 0, self._after, None)

    def ring(self) -> None:
        """Wake the waiting thread now."""
        self._libc.timerfd_settime(self._file, 0, self._at_once, None)

    def wait(self) -> None:
        """Wait until it rings. Blocks."""
        os.read(self._file, 8)

    def close(self) -> None:
        """Nobody waits any more."""
        os.close(self._file)


def describe(frame: FrameType | None) -> str:
    """A stack in a line, innermost first, without what it holds."""
    shown: list[str] = []
    depth = 0
    while frame is not None and len(shown) < MAX_FRAMES:
        file = frame.f_code.co_filename
        if file in _TURNING:
            break
        ours = file.startswith(_PACKAGE)
        if file == __file__:
            depth -= 1  # told of a collection: not who is looked for
        elif ours or depth < _INNERMOST:
            short = file[len(_PACKAGE) + 1 :] if ours else "/".join(Path(file).parts[-2:])
            shown.append(f"{short}:{frame.f_lineno} {frame.f_code.co_name}")
        depth += 1
        frame = frame.f_back
    return " < ".join(shown)


def _cause(lag: float, cpu: float, collecting: float, starved: float) -> str:
    """What took half of the lag or more."""
    if starved * 2 >= lag:
        return "starved"
    if collecting * 2 >= lag:
        return "collecting"
    return "computing" if cpu * 2 >= lag else "waiting"


def _open_schedstat() -> int:
    """This thread's ``schedstat`` (proc(5), scheduler statistics), or -1 where there is none."""
    try:
        path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read(file: int) -> bytes:
    try:
        return os.pread(file, 128, 0) if file >= 0 else b""
    except OSError:
        return b""


def _waited(before: bytes, after: bytes) -> float | None:
    """Seconds between two readings in which the thread could have run; None: not known.

    Three numbers: nanoseconds on a core, nanoseconds waiting for one, and how often it ran.
    """
    try:
        return (int(after.split()[1]) - int(before.split()[1])) / 1e9
    except (IndexError, ValueError):
        return None
