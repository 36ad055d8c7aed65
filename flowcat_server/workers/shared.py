"""Admission, expected calls and used tokens, as all workers of a server have them in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextvars import ContextVar

import msgspec
import structlog

from flowcat_server.calls import Calls, Incoming
from flowcat_server.errors import SharedStateError
from flowcat_server.places import RESERVATION_S
from flowcat_server.routes.expected import Expected, Key, OwnWaiting, Told
from flowcat_server.routes.gate import REPLAY_WINDOW_S
from flowcat_server.routes.outbound import MINUTE_S
from flowcat_server.routes.tokens import LIFETIME_S, MAX_REMEMBERED
from flowcat_server.workers.board import Board

log = structlog.get_logger()

ARRIVING: ContextVar[int] = ContextVar("arriving", default=0)
"""The connection that is being served, as `Board.place_call` counts it; 0: none."""


class SharedPlaces:
    """`limits.max_calls` places for all workers; see `flowcat_server.calls.Places`."""

    def __init__(self, board: Board, run: int, limit: int) -> None:
        self._board = board
        self._run = run
        self._limit = limit

    @property
    def used(self) -> int:
        """Places in use."""
        return self._board.used

    @property
    def live(self) -> Collection[str]:
        """Ids of all workers' live calls."""
        return self._board.live()

    def take(self) -> int | None:
        """Take a place; None where all are in use, or nobody can say."""
        try:
            return self._board.take(self._run, self._limit, ARRIVING.get())
        except SharedStateError as error:
            log.error("place_unknown", error=str(error))  # noqa: TRY400 - no fault of ours
            return None

    def begun(self, place: int, call_id: str) -> None:
        """The place is used by this call."""
        self._board.begun(place, call_id)

    def give_back(self, place: int) -> None:
        """Free a place, unless another worker has it now."""
        self._board.give_back(place, self._run)


class _Details(msgspec.Struct, frozen=True):
    """What a webhook said of a call that waits, for the worker that its socket reaches."""

    incoming: Incoming
    account_id: str


def pack(expected: Expected) -> bytes:
    """Everything but the place."""
    return msgspec.msgpack.encode(_Details(expected.incoming, expected.account_id), enc_hook=str)


def unpack(details: bytes) -> Told:
    """The call, and the carrier's id of the account.

    Raises:
        SharedStateError: Another version wrote it.
    """
    try:
        found = msgspec.msgpack.decode(details, type=_Details)
    except msgspec.MsgspecError as error:
        raise SharedStateError(f"a waiting call cannot be read: {error}") from error
    return found.incoming, found.account_id


class SharedWaiting:
    """Expected calls, whichever worker answered their webhook.

    While a call waits its place is nobody's, so that it is counted once, and no worker that
    drains waits for a socket that another one gets.
    """

    def __init__(self, calls: Calls, board: Board, run: int) -> None:
        self._calls = calls
        self._board = board
        self._run = run
        self._here = OwnWaiting()

    async def put(self, key: Key, expected: Expected) -> None:
        """Keep one: for whichever worker gets its socket, unless only this one can run it."""
        if expected.only_here:
            await self._here.put(key, expected)
            return
        place = expected.reservation.place
        try:
            self._board.put(_name(key), place, pack(expected), RESERVATION_S)
        except SharedStateError as error:
            log.error("waiting_call_not_shared", error=str(error))  # noqa: TRY400 - no fault of ours
            await self._here.put(key, expected)
        else:
            self._calls.part_with(expected.reservation)

    async def pop(self, key: Key) -> Expected | None:
        """The call and its place, if no worker has it yet."""
        if (here := await self._here.pop(key)) is not None:
            return here
        found = self._board.pop(_name(key), self._run, ARRIVING.get())
        if found is None:
            return None
        reservation = self._calls.adopt(found.place)
        try:
            incoming, account_id = unpack(found.details)
        except SharedStateError:
            reservation.release()
            raise
        return Expected(reservation, incoming, account_id)

    async def told(self, key: Key) -> Told | None:
        """There is no other machine."""
        del key
        return None


class SharedPace:
    """`outbound.max_per_minute` for all workers; see `flowcat_server.routes.outbound.Pace`."""

    def __init__(self, board: Board, per_minute: int) -> None:
        self._board = board
        self._per_minute = per_minute

    def begin(self) -> float:
        """Count a call, unless it has to wait."""
        try:
            return self._board.begin(self._per_minute, MINUTE_S)
        except SharedStateError as error:
            log.error("pace_unknown", error=str(error))  # noqa: TRY400 - no fault of ours
            return 1.0


class SharedMemory:
    """What has been seen by any worker; see `flowcat_server.routes.tokens.Memory`."""

    def __init__(self, first: Callable[[str], bool]) -> None:
        self._first = first

    async def first(self, key: str) -> bool:
        """True the first time."""
        return self._first(key)


def used_tokens(board: Board) -> SharedMemory:
    """Refuses, when it is full, until something is too old."""
    return SharedMemory(
        lambda key: board.first(
            "tokens", key, LIFETIME_S, limit=MAX_REMEMBERED, forget_oldest=False
        )
    )


def seen_webhooks(board: Board) -> SharedMemory:
    """Forgets the oldest when it is full."""
    return SharedMemory(
        lambda key: board.first(
            "webhooks", key, REPLAY_WINDOW_S, limit=MAX_REMEMBERED, forget_oldest=True
        )
    )


def _name(key: Key) -> str:
    return "\x00".join(key)
