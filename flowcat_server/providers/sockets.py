"""Shared WebSocket connections to speech vendors.

A handshake costs 100 to 600 ms, so sockets are opened while the phone rings, shared by all calls
that agree on URL and key, and kept for a while. A vendor's socket carries a limited number of
contexts (utterances); a `SocketPool` opens another socket when all are full.

A `Socket` is entered into its pool the moment it begins to connect, and the slots of a connecting
socket can be reserved like any other: nobody waits for a lock while somebody else shakes hands.
What a socket receives is handed to the `Context` it belongs to; what belongs to a context that was
given up is dropped here, so it can never be heard in a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
import structlog

from flowcat_server.core.audio import AudioFormat
from flowcat_server.core.interfaces import Word
from flowcat_server.errors import ProviderError, ProviderProtocol, ProviderUnavailable
from flowcat_server.providers.http import Http
from flowcat_server.providers.websocket import CLOSE_TIMEOUT_S, closed_error, connect

MAX_KEPT_BYTES = 8 << 20
"""Received but not yet taken audio of one context. Nearly three minutes at 24 kHz."""
LINGER_S = 5.0
"""How long a cancelled context may take to be confirmed before its socket is given up."""
STALLED_S = 1.0
"""A context given up after so long a silence casts doubt on its socket."""

log = structlog.get_logger()


@dataclass(slots=True, frozen=True)
class Chunk:
    """A piece of speech, or word times, or both."""

    audio: bytes
    words: tuple[Word, ...] = ()


@dataclass(slots=True, frozen=True)
class Done:
    """The vendor has nothing more to say in a context."""


@dataclass(slots=True, frozen=True)
class Failed:
    """The vendor gave a context up."""

    error: ProviderError


Event = Chunk | Done | Failed


class Wire(Protocol):
    """One vendor's messages on one socket: no I/O, no clock."""

    def begin(self, context: str, text: str) -> Sequence[str]:
        """Messages that have `text` spoken in a new context."""

    def cancel(self, context: str) -> Sequence[str]:
        """Messages that stop a context."""

    def goodbye(self) -> Sequence[str]:
        """Messages to send before the socket is closed."""

    def parse(self, message: str | bytes) -> Sequence[tuple[str | None, Event]]:
        """What a message says, and of which context; None: of all of them.

        Raises a `ProviderError` when the whole socket has become useless.
        """


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, with what key, and what one socket can bear."""

    provider: str
    audio: AudioFormat
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    wire: Callable[[], Wire] = field(compare=False)
    contexts: int = field(default=1, compare=False)
    """Contexts that one socket carries at a time."""
    per_minute: int = field(default=0, compare=False)
    """Contexts that one socket may begin in any minute; 0: any number."""
    said_in: str = field(default="", compare=False)
    """The response header in which the vendor explains a refused handshake."""
    idle_s: float = field(default=60.0, compare=False)
    """Close a socket that nobody has used for so long."""


class Context:
    """One utterance on a socket. Use: `begin`, then `next` until `Done`, always `release`."""

    def __init__(self, socket: Socket, name: str) -> None:
        self._socket, self.name = socket, name
        self.reused = socket.served > 0
        """The socket has served before: it may have died unnoticed since."""
        self._events: deque[Event] = deque()
        self._kept = 0
        self._arrived = asyncio.Event()
        self._begun = False
        self._over = False
        self._choked = False
        self._last = 0.0

    @property
    def lost(self) -> bool:
        """The socket is gone: another context may fare better."""
        return self._socket.task.done() or self._socket.retired

    async def begin(self, text: str) -> None:
        """Wait for the socket if it is still connecting, then ask for `text`."""
        await self._socket.opened()
        self._begun = True
        self._last = asyncio.get_running_loop().time()
        await self._socket.send(self._socket.wire.begin(self.name, text))

    async def next(self) -> Chunk | Done:
        """The next event. Raises what the vendor or the socket failed with."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Chunk):
            self._kept -= len(event.audio)
        return event

    def take(self, event: Event) -> None:
        """Called by the socket."""
        if self._over:
            return
        self._last = asyncio.get_running_loop().time()
        if isinstance(event, Chunk):
            self._kept += len(event.audio)
            if self._kept > MAX_KEPT_BYTES:
                event = Failed(ProviderProtocol(self._socket.provider, "endless audio"))
                self._choked = True
        self._over = not isinstance(event, Chunk)
        self._events.append(event)
        self._arrived.set()

    async def release(self) -> None:
        """Give the slot back; what is unfinished is cancelled at the vendor."""
        waited = asyncio.get_running_loop().time() - self._last
        stalled = self._begun and not self._events and waited >= STALLED_S
        unfinished = self._begun and (self._choked or not self._over)
        await self._socket.release(self, unfinished=unfinished, stalled=stalled)


class Socket:
    """One connection and the contexts on it."""

    def __init__(self, http: Http, endpoint: Endpoint, forget: Callable[[Socket], None]) -> None:
        self.endpoint, self.provider = endpoint, endpoint.provider
        self.wire = endpoint.wire()
        self.served = 0
        self._http, self._forget = http, forget
        self._contexts: dict[str, Context] = {}
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._begun: deque[float] = deque(maxlen=endpoint.per_minute or 1)
        self.retired = False
        self._idle: asyncio.TimerHandle | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self.task = self._loop.create_task(self._run(), name=f"socket-{endpoint.provider}")

    def has_room(self) -> bool:
        """Another context may begin here now."""
        if self.retired or len(self._contexts) + len(self._lingering) >= self.endpoint.contexts:
            return False
        limit = self.endpoint.per_minute
        full = limit and len(self._begun) == limit
        return not full or self._loop.time() - self._begun[0] >= 60

    def reserve(self, name: str) -> Context:
        """Take a slot."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        context = self._contexts[name] = Context(self, name)
        self.served += 1
        self._begun.append(self._loop.time())
        return context

    async def opened(self) -> None:
        """Wait until connected; raises what connecting failed with."""
        await asyncio.shield(self._opened)

    async def send(self, messages: Sequence[str]) -> None:
        """Send; raises `ProviderUnavailable` when the connection is gone."""
        if self._ws is None or self._ws.closed:
            raise ProviderUnavailable(self.provider, "the connection is closed")
        try:
            for message in messages:
                await self._ws.send_str(message)
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderUnavailable(self.provider, "the connection is closed") from error

    async def release(self, context: Context, *, unfinished: bool, stalled: bool) -> None:
        """Free a context's slot, once the vendor has confirmed the end of it."""
        if self._contexts.pop(context.name, None) is None:
            return
        if stalled:
            log.info("socket_stalled", provider=self.provider)
            self.retired = True
        elif unfinished and not self.retired:
            self._lingering[context.name] = self._loop.call_later(LINGER_S, self._give_up)
        self._settle()
        if unfinished:
            with contextlib.suppress(ProviderUnavailable):
                await self.send(self.wire.cancel(context.name))

    def close(self) -> None:
        """Begin to close."""
        self.retired = True
        self.task.cancel()

    def _give_up(self) -> None:
        self.retired = True
        self._settle()

    def _confirm(self, name: str) -> None:
        timer = self._lingering.pop(name, None)
        if timer is not None:
            timer.cancel()
            self._settle()

    def _settle(self) -> None:
        """Nobody uses it: close at once if retired, after a while otherwise."""
        if self._contexts:
            return
        if self.retired:
            self.task.cancel()
        elif not self._lingering and self._idle is None:
            self._idle = self._loop.call_later(self.endpoint.idle_s, self.close)

    def _deliver(self, name: str | None, event: Event) -> None:
        names = (*self._contexts, *self._lingering) if name is None else (name,)
        for each in names:
            context = self._contexts.get(each)
            if context is not None:
                context.take(event)
            elif not isinstance(event, Chunk):
                self._confirm(each)

    async def _run(self) -> None:
        error: ProviderError = ProviderUnavailable(self.provider, "the connection was closed")
        try:
            headers = dict(self.endpoint.headers)
            self._ws = await connect(
                self._http, self.provider, self.endpoint.url, headers, said_in=self.endpoint.said_in
            )
            self._opened.set_result(None)
            log.info("socket_connected", provider=self.provider)
            self._settle()
            await self._read(self._ws)
        except ProviderError as failure:
            error = failure
        finally:
            self.retired = True
            self._forget(self)
            self._end(error)
            if self._ws is not None and not self._ws.closed:
                with contextlib.suppress(ProviderUnavailable):
                    await self.send(self.wire.goodbye())
                await self._ws.close()

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await ws.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                for name, event in self.wire.parse(message.data):
                    self._deliver(name, event)
            else:
                raise closed_error(self.provider, ws, message)

    def _end(self, error: ProviderError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be waiting for it
        for timer in (*self._lingering.values(), *filter(None, (self._idle,))):
            timer.cancel()
        self._lingering.clear()
        for context in self._contexts.values():
            context.take(Failed(error))


class SocketPool:
    """All sockets of one provider object."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._sockets: dict[Endpoint, list[Socket]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)
        self._closed = False

    def __len__(self) -> int:
        return sum(len(sockets) for sockets in self._sockets.values())

    def _free(self, endpoint: Endpoint) -> Socket:
        if self._closed:
            raise ProviderUnavailable(endpoint.provider, "the server is stopping")
        sockets = self._sockets.setdefault(endpoint, [])
        for socket in sockets:
            if socket.has_room():
                return socket
        socket = Socket(self._http, endpoint, self._forget)
        sockets.append(socket)
        self._tasks.add(socket.task)
        socket.task.add_done_callback(self._tasks.discard)
        return socket

    async def warm(self, endpoint: Endpoint) -> None:
        """See to it that a socket with room is connected. Raises what connecting failed with."""
        await self._free(endpoint).opened()

    def reserve(self, endpoint: Endpoint) -> Context:
        """A slot for one utterance, on a socket that is or will be connected."""
        return self._free(endpoint).reserve(f"c{next(self._names)}")

    def _forget(self, socket: Socket) -> None:
        sockets = self._sockets.get(socket.endpoint, [])
        if socket in sockets:
            sockets.remove(socket)
        if not sockets:
            self._sockets.pop(socket.endpoint, None)

    async def close(self) -> None:
        """Close every socket, politely and in bounded time."""
        self._closed = True
        tasks = list(self._tasks)
        for socket in [socket for sockets in self._sockets.values() for socket in sockets]:
            socket.close()
        if tasks:
            await asyncio.wait(tasks, timeout=2 * CLOSE_TIMEOUT_S)
