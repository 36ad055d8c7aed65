"""What the supervisor gives every worker, made once before there are any."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flowcat_server.config.load import Loaded
from flowcat_server.config.types import parse_bind
from flowcat_server.errors import ConfigError
from flowcat_server.workers.post import Post

BACKLOG = 1024
_PREFIX, _LOCK = "flowcat-", "lock"
_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


@dataclass(frozen=True, slots=True)
class Team:
    """What workers inherit."""

    size: int
    room: Path
    """A private directory in memory; whoever owns the team removes it."""
    lock: int
    """Held on a file of the room by the supervisor and every worker."""
    post: Post
    web: Sequence[socket.socket]
    """Bound to `server.bind`; every worker listens on them."""
    audiosocket: Sequence[socket.socket]
    api_token: str
    token_made: bool
    stream_secret: bytes

    @property
    def board(self) -> Path:
        """The file of the `Board`."""
        return self.room / "board.sqlite"

    def close(self) -> None:
        """Close every socket and remove the directory."""
        self.post.close()
        for listener in (*self.web, *self.audiosocket):
            listener.close()
        os.close(self.lock)
        shutil.rmtree(self.room, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's place in the team."""

    team: Team
    number: int
    """1 and up."""
    lifeline: int
    """Readable, with nothing to read, when the supervisor is no more."""
    first: bool
    """Nobody serves yet: this one says on the terminal what it loads, and prints the screen."""


def count(workers: int | str) -> int:
    """How many workers `server.workers` asks for; ``auto``: one for each core we may use."""
    return len(os.sched_getaffinity(0)) if isinstance(workers, str) else workers


def found(loaded: Loaded, size: int) -> Team:
    """Everything for `size` workers.

    Raises:
        ConfigError: An address cannot be listened on.
    """
    server = loaded.config.server
    web = bind("server.bind", server.bind)
    other = loaded.config.carriers.audiosocket.bind
    audiosocket = bind("carriers.audiosocket.bind", other) if other else []
    token = server.api_token.get_secret_value()
    room, lock = make_room()
    return Team(
        size,
        room,
        lock,
        Post(size),
        web,
        audiosocket,
        token or secrets.token_urlsafe(18),
        not token,
        secrets.token_bytes(32),
    )


def bind(key: str, address: str) -> list[socket.socket]:
    """Sockets for an address of the agent file, on which nobody listens yet.

    Raises:
        ConfigError: It is in use or not ours.
    """
    host, port = parse_bind(address)
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, name in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            bound.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A port that the system chose for the first address is that of the others.
            port = port or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            listener.bind((name[0], port, *name[2:]))
    except OSError as error:
        for listener in bound:
            listener.close()
        raise ConfigError(
            f"{key}: cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    return bound


def make_room(parent: Path = _MEMORY) -> tuple[Path, int]:
    """A directory of our own, and the lock that says so.

    The kernel frees the lock when no process of the server is left (flock(2)): what servers that
    were killed have left in memory is removed by the next one that starts.
    """
    if not os.access(parent, os.W_OK | os.X_OK):
        parent = Path(tempfile.gettempdir())
    for file in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            _remove_abandoned(file)
    room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    new = room / f"{_LOCK}.new"
    lock = os.open(new, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(room / _LOCK)  # nobody finds it before it is locked
    return room, lock


def _remove_abandoned(file: Path) -> None:
    lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(file.parent, ignore_errors=True)
    finally:
        os.close(lock)
