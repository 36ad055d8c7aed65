"""The server's end of the synthesis process: starts it, watches it, starts it again.

When the process dies, every request in flight fails with `ProviderUnavailable` and a new process
is started after `BACKOFF_S`; while it waits for that, requests fail at once, so that a fallback
can speak. While a process is loading, requests wait for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

import flowcat_server
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import AssetError, ProviderProtocol, ProviderUnavailable
from flowcat_server.providers.native import SETTINGS
from flowcat_server.providers.tts._wire import HEADER, Kind, WireError, pack, unpack_header

log = structlog.get_logger()

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Wait before each further start; after a process that lived `STABLE_S` from the front again."""
LOAD_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 2.0
STABLE_S = 30.0
"""A process that lived this long may be replaced at once."""
_PREFIX = "piper"

# -P: a file of the user's that is called like a library must not take its place.
COMMAND = (sys.executable, "-P", "-m", "flowcat_server.providers.tts._piper_child")

Piece = bytes | list[Word] | None
"""Audio, word times, or the end."""


class Reader(Protocol):
    """What is read from: a pipe."""

    async def readexactly(self, n: int, /) -> bytes:
        """That many bytes; raises `asyncio.IncompleteReadError` at the end."""


async def read_message(reader: Reader) -> tuple[Kind, int, bytes] | None:
    """The next message; None when the other end has closed. Raises `WireError`."""
    try:
        header = await reader.readexactly(HEADER.size)
        length, kind, request = unpack_header(header)
        return kind, request, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class Utterance:
    """The sound of one request. Close it: that cancels what is left of it.

    What was received and not yet read is kept; it is bounded by the length of the text.
    """

    def __init__(self, number: int, forget: Callable[[int], None]) -> None:
        self._number, self._forget = number, forget
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._ended = False

    def put(self, piece: Piece | Exception) -> None:
        """Called by the process's reader."""
        self._pieces.put_nowait(piece)

    async def pieces(self) -> AsyncIterator[bytes | list[Word]]:
        """Audio and word times as they come. Raises `ProviderError`."""
        while not self._ended:
            piece = await self._pieces.get()
            if piece is None or isinstance(piece, Exception):
                self._ended = True
            if isinstance(piece, Exception):
                raise piece
            if piece is not None:
                yield piece

    def close(self) -> None:
        """No more of it is wanted."""
        if not self._ended:
            self._ended = True
            self._forget(self._number)


class PiperProcess:
    """The one synthesis process of the server, whichever incarnation is alive."""

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Mapping[str, Any]]],
        command: Sequence[str] = COMMAND,
        backoff: Sequence[float] = BACKOFF_S,
    ) -> None:
        """`prepare` verifies the files and returns the SETUP message."""
        self._prepare, self._command, self._backoff = prepare, command, backoff
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[int] | None = None
        self._waiting: dict[int, Utterance] = {}
        self._last = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._down = False

    @property
    def pid(self) -> int | None:
        """Of the process that is alive."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> int:
        """Start the process and its supervision; returns the voice's sample rate.

        Raises `AssetError` or `ProviderUnavailable` when the first start fails.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="piper-supervisor")
        try:
            return await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    async def speak(self, text: str, *, background: bool = False) -> Utterance:
        """Begin to synthesize. Raises `ProviderUnavailable` while no process can be had."""
        ready = self._ready
        if ready is None or self._down:
            raise ProviderUnavailable(_PREFIX, "the synthesis process is not running")
        await asyncio.shield(ready)
        process = self._process
        if process is None:
            raise ProviderUnavailable(_PREFIX, "the synthesis process has just ended")
        self._last += 1
        utterance = Utterance(self._last, self._cancel)
        self._waiting[self._last] = utterance
        order = {"text": text, "background": background}
        self._send(process, pack(Kind.SPEAK, self._last, json.dumps(order).encode()))
        return utterance

    async def close(self) -> None:
        """End the process for good."""
        supervisor, self._supervisor = self._supervisor, None
        self._down = True
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        if self._ready is not None:
            if not self._ready.done():
                self._ready.set_exception(ProviderUnavailable(_PREFIX, "shutting down"))
            if not self._ready.cancelled():
                self._ready.exception()

    def _cancel(self, number: int) -> None:
        if self._waiting.pop(number, None) is not None and self._process is not None:
            self._send(self._process, pack(Kind.CANCEL, number))

    def _send(self, process: asyncio.subprocess.Process, message: bytes) -> None:
        # Orders are short and the process always reads: the pipe's buffer does not grow. A
        # process that has just died is noticed by the supervisor.
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(message)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            begun = loop.time()
            try:
                reason = await self._live()
            except (AssetError, OSError, WireError, TimeoutError) as error:
                reason = error
            finally:
                self._down = True
                self._fail_waiting()
            ready = self._ready
            if ready is not None and not ready.done():
                first_start = failures == 0 and self._last == 0
                ready.set_exception(_as_error(reason))
                ready.exception()
                if first_start:
                    return
            failures = 0 if loop.time() - begun > STABLE_S else failures
            wait_s = self._backoff[min(failures, len(self._backoff) - 1)]
            failures += 1
            log.warning("piper_process_ended", reason=str(reason), restart_in_s=wait_s)
            await asyncio.sleep(wait_s)
            self._ready = loop.create_future()
            self._down = False

    async def _live(self) -> Exception:
        """One process from start to end; returns why it ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        complaints = asyncio.create_task(_log_lines(process.stderr), name="piper-stderr")
        try:
            # The process imports its libraries while the files are being verified here.
            setup = await self._prepare()
            self._send(process, pack(Kind.SETUP, 0, json.dumps(setup).encode()))
            return await self._read(process)
        finally:
            self._process = None
            await _end(process)
            complaints.cancel()
            await asyncio.wait([complaints])

    async def _read(self, process: asyncio.subprocess.Process) -> Exception:
        assert process.stdout is not None  # noqa: S101 - opened with PIPE
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            message = await read_message(process.stdout)
        if message is None:
            return ProviderUnavailable(_PREFIX, "the synthesis process ended while loading")
        kind, _, payload = message
        if kind is not Kind.READY:
            return ProviderUnavailable(_PREFIX, f"cannot load: {payload.decode(errors='replace')}")
        self._process = process
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(int(json.loads(payload)["sample_rate"]))
        while (message := await read_message(process.stdout)) is not None:
            self._dispatch(*message)
        return ProviderUnavailable(_PREFIX, "the synthesis process died")

    def _dispatch(self, kind: Kind, number: int, payload: bytes) -> None:
        utterance = self._waiting.get(number)
        if utterance is None:
            return
        if kind is Kind.AUDIO:
            utterance.put(payload)
        elif kind is Kind.WORDS:
            utterance.put([Word(text, start, end) for text, start, end in json.loads(payload)])
        else:
            del self._waiting[number]
            text = payload.decode(errors="replace")
            utterance.put(ProviderProtocol(_PREFIX, text) if kind is Kind.FAILED else None)

    def _fail_waiting(self) -> None:
        for utterance in self._waiting.values():
            utterance.put(ProviderUnavailable(_PREFIX, "the synthesis process died"))
        self._waiting.clear()


def _environment() -> dict[str, str]:
    environment = {**SETTINGS, **os.environ}
    root = Path(flowcat_server.__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        # Run from a source tree: the process must find this package as the server did.
        known = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), known)))
    return environment


def _as_error(reason: Exception) -> Exception:
    if isinstance(reason, AssetError | ProviderUnavailable):
        return reason
    return ProviderUnavailable(_PREFIX, str(reason) or type(reason).__name__)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, which ends it; kill it if it does not go."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        raise


async def _log_lines(stream: asyncio.StreamReader | None) -> None:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the reader's limit
            continue
        if not line:
            return
        log.warning("piper_process_said", line=line.decode(errors="replace").rstrip()[:300])
